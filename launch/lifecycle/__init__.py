"""What becomes of a workdir over time: stale days, rollback, deletion of users, pruning, growth of the schema."""
