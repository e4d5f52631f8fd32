"""The forward calls of a step, and the gradient that comes to their outputs."""
