"""The service that scores models. Its `run` does jobs of kind evaluate; no server yet."""
