"""What the codes of the toolkit mean: rules and errors, for `python -m diagnostics explain`."""
