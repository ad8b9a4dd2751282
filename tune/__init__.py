"""Sweeps: search spaces and schedulers around the library's own training."""
