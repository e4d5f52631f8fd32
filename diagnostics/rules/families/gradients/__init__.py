"""Rules of the backward pass: what gets a gradient, from which samples, and how large it is."""
