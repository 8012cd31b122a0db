"""The service that continues text: jobs of kind generate, one prompt in the foreground, and a server of models."""
