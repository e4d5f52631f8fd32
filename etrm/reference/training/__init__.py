"""A training step, written a second time, and what training begins with and leaves behind."""
