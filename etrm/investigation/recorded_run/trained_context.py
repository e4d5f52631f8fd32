"""The context of the trained encoder: whether it differs between tasks, arrives, and changes the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from diagnostics import representation
from etrm.data import Sample
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.measurements.context_path import ROUNDING, SAME, trace_model
from etrm.investigation.recorded_run.context_collapse import (
    COLLAPSED,
    LASTING,
    explain_collapse,
    has_lasted,
    is_collapsed,
)
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import make_batch

SHARE = Metric(
    "run.context-share", "share of the trained contexts' power that differs between tasks", Direction.HIGHER
)
PATH = Metric("run.context-path", "the context of the trained encoder arrives at the core", Direction.HOLDS)
USED = Metric(
    "run.context-used", "largest change of a logit with the demonstrations of another task", Direction.HIGHER
)
FEWEST = 4
"""Tasks of which a share can be measured."""


@torch.no_grad()
def judge_trained_context(run: RunUnderTest) -> Iterator[RecordedFact]:
    """Rows about the newest raw weights on training queries of up to 64 tasks."""
    queries = run.queries
    if run.start.model.encoder is None or not run.checkpoints or len(queries) < FEWEST:
        return
    newest = run.checkpoints[-1]
    if not all(tensor.isfinite().all() for tensor in newest.model.values()):
        return
    model = run.load_model(newest, "raw")
    n = f"{len(queries)} training queries, weights of step {newest.step}"
    share, untrained = measure_share(model, queries), measure_share(run.start.model, queries)
    collapsed = share is not None and is_collapsed(share, untrained)
    lasting = collapsed and has_lasted(run, newest.step)
    row = SHARE.row(
        NotMeasured(absent="not finite") if share is None else share,
        control=NotMeasured(absent="not finite") if untrained is None else untrained,
        threshold=f">= {COLLAPSED:g}, or not below it for {LASTING} steps",
        passed=None if share is None or (collapsed and not lasting) else not collapsed,
        n=n,
        note="control: the same encoder at its random start",
    )
    words = f"the trained encoder gives all tasks the same context (share {share or 0:.2g})"
    yield RecordedFact(row, explain_collapse(run), words=words, undecided=collapsed and not lasting)
    trace = trace_model(model, queries)
    arrives = trace.finite and not trace.silent and trace.same <= SAME and trace.others <= ROUNDING
    yield RecordedFact(
        PATH.row(
            float(arrives),
            threshold="as the encoder computes it, row by row",
            passed=arrives,
            n=n,
            note=trace.words,
        ),
        ("H3",),
        proves=True,
        words=f"with the trained weights {trace.words}",
    )
    yield RecordedFact(
        USED.row(
            min(trace.used, 1e6),
            threshold=f"> {ROUNDING:g}",
            passed=not trace.unused or collapsed,  # equal contexts change nothing, and that is the other row
            n=n,
            note="relative to the size of the logits",
        ),
        ("H3",),
        words="no logit of the trained model changes with the demonstrations of another task",
    )


def measure_share(model: Variant, queries: Sequence[Sample]) -> float | None:
    """The share of the contexts' power that differs between tasks; None where a number is not finite."""
    model.eval()
    assert model.encoder is not None
    batch = make_batch(model, queries)
    return representation(model.encoder(batch.demos).context).share
