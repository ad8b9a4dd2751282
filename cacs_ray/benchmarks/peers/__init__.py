"""Programs of the peers: each stands alone and ends with one line of JSON."""
