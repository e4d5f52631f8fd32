"""Faults after bug reports of public libraries, in programs of their domains, written before their rules; own code."""

from tests.diagnostics.cases.faults.libraries import models, objectives, training

CASES = (*models.CASES, *objectives.CASES, *training.CASES)
