"""One experiment per file: `experiment(smoke)` returns an Experiment."""
