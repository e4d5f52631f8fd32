"""Measurements of the run under test: the path of the context, gradients, rows, known answers, findings."""
