"""What can be wrong with a training step, and how each finding names its cause."""
