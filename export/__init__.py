"""Checkpoint to SavedModel: scoring snapshots of the teacher, serving versions of students."""
