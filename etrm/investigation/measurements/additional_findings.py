"""What the toolkit found in the subject's own runs: cost, halting and the like, which no hypothesis is about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from diagnostics import Finding, Halting, Halts
from diagnostics.findings import to_json
from etrm.batch import IGNORE
from etrm.investigation.measurements.run_findings import serious, written
from etrm.investigation.protocol import Investigation
from etrm.investigation.result import Beside, Run
from etrm.investigation.runs.measured_run import training_queries
from etrm.training.scoring.predictor import load_model, solve_samples
from etrm.training.trainer import Trainer

SUBJECTS = ("few-as-given", "h2-subject")
"""Arms of the subject as given, those first whose runs say most about halting."""
QUERIES = 16
"""Trained queries that are solved to see how they halt: a logit that cannot tell shows in few."""
KEPT = ("rule", "severity", "module", "message", "cause", "remedy")


def beside(investigation: Investigation) -> tuple[Beside, ...]:
    """Findings above a note of every finished run of the subject, worst first, each with the runs that have it."""
    arms = [(arm, investigation.finished(arm)) for arm in SUBJECTS]
    runs = [run for _, found in arms for run in found]
    trained = next((found for _, found in arms if found), [])
    halting = [finding for run in trained for finding in _halting(investigation.root / run.folder, run)]
    found = serious([*written(investigation.root, runs), *json.loads(to_json(halting))])
    counts = {rule: len(trained) if rule == Halting.rule else len(runs) for rule, _ in found}
    merged = [
        Beside(
            **{key: each[0][key] for key in KEPT},
            code=each[0].get("code", ""),  # runs of an earlier version have none
            n=f"{len(each)} of {counts[rule]} runs",
        )
        for (rule, _), each in found.items()
    ]
    return tuple(sorted(merged, key=lambda f: (f.severity != "critical", f.rule, f.module)))


@torch.no_grad()
def _halting(folder: Path, run: Run) -> Sequence[Finding]:
    """How the trained queries end when rows may leave early."""
    model, config, _, _ = load_model(folder, "raw")
    if config.model.variant == "etrm_fct":  # it always takes every step
        return []
    batch, output = solve_samples(model, training_queries(Trainer(config))[:QUERIES], early=True)
    scored = batch.labels != IGNORE
    right = ((output.logits.argmax(-1) == batch.labels) | ~scored).all(-1)
    assert output.steps is not None
    halts = Halts(output.steps, config.model.halt.max_steps, output.q_halt, right)
    # In so few steps a sound logit is still catching up with the answers: only one that cannot is told.
    probe = Halting(
        observe=lambda model, batch: halts, rows=len(output.steps) + 1, auroc=0.0, trained=run.steps > 0
    )
    return probe.run(model, batch)
