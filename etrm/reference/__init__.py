"""A second, plain implementation of training and evaluation, with which the investigation compares the real one.

It shares no code with ``etrm.model``, ``etrm.training``, ``etrm.data``'s loader or ``etrm.evaluation``: a fault there
would otherwise be on both sides of the comparison.
"""
