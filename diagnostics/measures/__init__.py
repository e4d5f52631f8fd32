"""Quantities of outputs and weights over several steps or samples: representations, drift, halting, finiteness."""
