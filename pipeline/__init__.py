"""The data plane: records, tables, sources, and the Beam jobs that fill the tables."""
