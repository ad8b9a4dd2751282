"""The synthetic ad market: its truth, its traffic, and what a decision is worth."""
