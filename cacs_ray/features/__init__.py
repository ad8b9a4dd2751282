"""Rows become integers and floats, by one encoder."""
