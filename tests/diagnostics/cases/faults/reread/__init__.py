"""Two variations of each kind of fault that a rule was written for after "threads", run once; own code."""

from tests.diagnostics.cases.faults.reread import agents, models, objectives, training

CASES = (*models.CASES, *objectives.CASES, *training.CASES, *agents.CASES)
