"""Figures of merit on plain NumPy arrays; every one honours weights."""
