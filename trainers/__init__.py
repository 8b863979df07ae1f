"""One day of learning after another: the feed, the step, checkpoints, metrics."""
