"""What becomes of a workdir: stale days, rollback, deletion, pruning, growth of the schema."""
