"""Runs in MLflow that never stop or slow the work they describe."""
