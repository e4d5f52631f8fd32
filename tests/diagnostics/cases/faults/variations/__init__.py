"""Variations of the kinds that users report, in architectures and loops of other people's habits; own code."""

from tests.diagnostics.cases.faults.variations import cuts, loops, structures, values

CASES = (*values.CASES, *cuts.CASES, *structures.CASES, *loops.CASES)
