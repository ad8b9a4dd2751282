"""The two networks: a cheap selector before ranking, a full ranker."""
