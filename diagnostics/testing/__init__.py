"""Assertions for a user's own tests, and what they need to try a model."""
