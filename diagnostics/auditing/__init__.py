"""One call that judges a training step, with probes, for the command and for code."""
