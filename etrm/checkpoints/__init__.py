"""Checkpoints and run folders: our format, the published formats, and conversion between them."""
