"""The gateway: HTTP in, gRPC out. The OpenAI API and the original's `PUT /yuan`; stateless, without torch."""
