"""The stages that turn an encoded log into weights, on Ray Train."""
