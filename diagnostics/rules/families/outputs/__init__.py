"""Rules of what modules and losses return: the same for all samples, unchanged, or drifting."""
