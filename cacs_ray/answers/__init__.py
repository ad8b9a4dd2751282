"""Requests in, decisions out: one meaning for batch, service and simulation."""
