"""Faults that nobody listed: random changes of the code itself, investigated blind."""
