"""Configs, one experiment per file: `experiment(smoke)` returns an `Experiment`."""
