"""Votes over augmentations, pass@k, baselines and intervals."""
