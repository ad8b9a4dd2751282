"""Logs: read, checked row by row, split by time, and closed by feedback."""
