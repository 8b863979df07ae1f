"""Sources of raw data, one file for each kind."""
