"""From scores to a logged decision; no models, no Ray, no torch."""
