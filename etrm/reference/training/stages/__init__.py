"""The stages of a training step, each compared with the reference: before the model, in it, and after it."""
