"""The service that continues text. Its `run` does jobs of kind generate, its `generate` one prompt; no server yet."""
