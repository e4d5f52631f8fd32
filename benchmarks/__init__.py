"""Benchmarks of this project; they are part of a checkout and not of the package."""
