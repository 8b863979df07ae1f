"""One file for each kind of raw data."""
