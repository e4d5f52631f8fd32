"""Rules about a training step: what can be wrong, and how each finding names its cause."""

from diagnostics.rules.loading import load

__all__ = ["load"]
