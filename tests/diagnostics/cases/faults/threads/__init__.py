"""Faults after public bug reports and questions, in other domains and forms, written before their rules; own code."""

from tests.diagnostics.cases.faults.threads import models, objectives, training

CASES = (*models.CASES, *objectives.CASES, *training.CASES)
