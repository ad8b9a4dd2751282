"""The serving graph: gateway -> selector -> ranker -> auction, on Ray Serve."""
