"""What the service promises, and the checks that show whether it keeps it."""
