"""Checkpoints and run folders: our format, published ones, and the way from one to the other."""
