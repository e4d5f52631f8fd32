"""What the toolkit found in the runs under test: cost, halting and the like, which no hypothesis is about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import torch

from diagnostics import Finding, Halting, Halts
from diagnostics.findings import to_json
from etrm.batch import IGNORE
from etrm.investigation.measurements.run_findings import group_serious
from etrm.investigation.result import AdditionalFinding
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.runs.measured_run import rebuild_trainer, training_queries
from etrm.training.scoring.predictor import load_model, solve_samples

QUERIES = 16
"""Trained queries that are solved to see how they halt: few are enough to show a logit that cannot tell."""
KEPT = ("rule", "severity", "module", "message", "cause", "remedy")


def gather_additional_findings(arms: Sequence[Sequence[LoadedRun]]) -> tuple[AdditionalFinding, ...]:
    """The findings above a note of every finished run under test, worst first, each with a count of its runs.

    Args:
        arms: the finished runs of each arm, the longest runs first: in them halting is measured, because they show
            most of it.
    """
    runs = [run for arm in arms for run in arm]
    trained = arms[0] if arms else []
    by_run = [run.findings for run in runs] + [json.loads(to_json(_check_halting(run))) for run in trained]
    found = group_serious(finding for findings in by_run for finding in findings)
    having = Counter(group for findings in by_run for group in group_serious(findings))
    counts = {rule: len(trained) if rule == Halting.rule else len(runs) for rule, _ in found}
    merged = [
        AdditionalFinding(
            **{key: each[0][key] for key in KEPT},
            code=each[0].get("code", ""),  # runs of an earlier version have none
            n=f"{having[rule, module]} of {counts[rule]} runs",
        )
        for (rule, module), each in found.items()
    ]
    return tuple(sorted(merged, key=lambda f: (f.severity != "critical", f.rule, f.module)))


@torch.no_grad()
def _check_halting(run: LoadedRun) -> Sequence[Finding]:
    """What the halting probe finds where the trained queries may end early."""
    model, config, _, _ = load_model(run.path, "raw")
    if config.model.variant == "etrm_fct":  # it always takes every step
        return []
    batch, output = solve_samples(model, training_queries(rebuild_trainer(run.path))[:QUERIES], early=True)
    scored = batch.labels != IGNORE
    right = ((output.logits.argmax(-1) == batch.labels) | ~scored).all(-1)
    assert output.steps is not None
    halts = Halts(output.steps, config.model.halt.max_steps, output.q_halt, right)
    # In so few steps a sound logit still lags behind the answers: only one that cannot tell is reported.
    probe = Halting(
        observe=lambda model, batch: halts, rows=len(output.steps) + 1, auroc=0.0, trained=run.steps > 0
    )
    return probe.run(model, batch)
