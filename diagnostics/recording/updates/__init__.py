"""The gradients of parameters, from the backward pass to what an optimiser changes."""
