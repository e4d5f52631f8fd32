"""Quantities of outputs and weights over several steps or samples: representations, drift, halting, finiteness.

Some are for users alone: no rule reads them.
"""
