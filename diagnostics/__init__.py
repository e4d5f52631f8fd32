"""Instruments for any torch model that does not learn."""
