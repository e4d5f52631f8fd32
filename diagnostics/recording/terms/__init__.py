"""The named terms of a loss."""
