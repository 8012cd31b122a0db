"""The service that rewrites models. Its `run` does jobs of kind convert; no server yet."""
