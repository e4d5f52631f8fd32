"""Runs, evaluations and fits compared with the independent implementation in :mod:`etrm.reference`."""
