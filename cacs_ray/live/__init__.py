"""The closed loop on the market: serve, log, join, retrain, gate, promote, each day."""
