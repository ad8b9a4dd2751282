"""Whole runs by name: the walk from logs to a decision."""
