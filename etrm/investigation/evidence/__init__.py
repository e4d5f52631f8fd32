"""Evidence of a result: table rows, figures, and the reasons of a verdict."""
