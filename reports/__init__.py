"""Markdown and figures, rendered from result.json alone."""
