"""What is dropped after the forward pass and made again in the backward pass."""
