"""A fault from each of sixteen fields, after public bug reports, written before their rules; own code."""

from tests.diagnostics.cases.faults.fields import generative, labels, structures

CASES = (*generative.CASES, *labels.CASES, *structures.CASES)
