"""Pure tensor functions on channel-major activations: one ``Backend`` protocol, its implementations, and the choice."""
