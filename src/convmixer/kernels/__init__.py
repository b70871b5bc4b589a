"""Pure tensor functions on channel-major activations: a plain reference beside each fast one, and the choice."""
