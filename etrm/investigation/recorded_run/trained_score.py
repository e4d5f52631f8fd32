"""What the trained weights achieve, against the same model untrained and against trivial baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from etrm.checkpoints.format import Checkpoint
from etrm.evaluation import EvaluationReport, evaluate, evaluate_baselines
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured, Value
from etrm.investigation.runs.measured_run import with_mismatched_demos
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import compute_mean_loss, make_predictor
from etrm.training.task_sets import load_held_out_tasks

LOSS = Metric("run.loss", "loss on the training queries, {item} weights", Direction.LOWER)
EARLIER_LOSS = Metric(
    "run.loss-earlier", "loss on the training queries, raw weights of an earlier checkpoint"
)
MISMATCHED = Metric("run.loss-mismatched", "loss on the training queries with mismatched demonstrations")
HELD_OUT = Metric("run.held-out", "pass@1 on {item}")
TOKENS = Metric("run.held-out-tokens", "token accuracy on {item}")
TASKS = 32
"""Held-out tasks that are evaluated: enough to see whether anything was learned, in seconds."""
SHORTEST = 10
"""Steps from which a run must have lowered the loss."""


@torch.no_grad()
def judge_trained_score(run: RunUnderTest) -> Iterator[RecordedFact]:
    """Rows about the newest weights, raw and averaged, and the earlier ones."""
    if not run.checkpoints or not run.checkpoints[-1].step:
        return
    newest, kind = run.checkpoints[-1], run.used.train.loss
    untrained = compute_mean_loss(run.start.model, run.queries, kind)
    n = f"{len(run.queries)} training queries, weights of step {newest.step}"
    models = {"raw": run.load_model(newest, "raw"), "averaged": run.load_model(newest, "ema")}
    losses = {name: compute_mean_loss(model, run.queries, kind) for name, model in models.items()}
    for name, loss in losses.items():
        lower = loss < untrained if math.isfinite(loss) else False
        row = LOSS.row(
            _value(loss),
            control=_value(untrained),
            item=name,
            threshold="below that of the untrained model",
            passed=lower if newest.step >= SHORTEST and math.isfinite(loss) else None,
            n=n,
            note="control: the same model at its random start",
        )
        words = f"the {name} weights have a loss of {loss:.3f} on the training queries, untrained ones {untrained:.3f}"
        yield RecordedFact(row, ("H4",), words=words)
    yield from _compare_earlier(run, newest, losses["raw"])
    if run.start.model.encoder is not None and len(run.queries) > 1:
        mismatched = compute_mean_loss(models["raw"], with_mismatched_demos(run.queries), kind)
        row = MISMATCHED.row(
            _value(mismatched),
            control=_value(losses["raw"]),
            threshold="higher, where the context is used",
            n=n,
        )
        yield RecordedFact(row)
    yield from _evaluate_held_out(run, models["averaged" if run.used.evaluate.weights == "ema" else "raw"])


def _compare_earlier(run: RunUnderTest, newest: Checkpoint, loss: float) -> Iterator[RecordedFact]:
    oldest = run.checkpoints[0]
    if oldest.step == newest.step:
        return
    before = compute_mean_loss(run.load_model(oldest, "raw"), run.queries, run.used.train.loss)
    n = f"{len(run.queries)} training queries, weights of step {oldest.step}"
    row = EARLIER_LOSS.row(
        _value(before), control=_value(loss), threshold="context", n=n, note=f"control: step {newest.step}"
    )
    yield RecordedFact(row)


def _evaluate_held_out(run: RunUnderTest, model: Variant) -> Iterator[RecordedFact]:
    if not run.used.model.has_encoder:  # no row of a puzzle table belongs to a held-out task
        return
    held_out = load_held_out_tasks(run.used)
    tasks = replace(held_out, tasks=held_out.tasks[:TASKS])
    options = {"augmentations": 1, "data": run.used.data, "variant": run.used.model.variant}

    def score(one: Variant) -> EvaluationReport:
        answers = make_predictor(one, run.used.evaluate)
        return evaluate(tasks, answers, **options)  # type: ignore[arg-type]

    trained, untrained = score(model), score(run.start.model.eval())
    baselines = evaluate_baselines(tasks, run.used.data)
    n = f"{len(tasks)} held-out tasks, one vote"
    first, without = trained.pass_at[1], untrained.pass_at[1]
    yield RecordedFact(
        HELD_OUT.row(
            first.score,
            control=without.score,
            item="held-out-tasks",
            item_words="held-out tasks",
            threshold="context",
            n=n,
            note=_describe_controls({name: found.pass_at[1].score for name, found in baselines.items()}),
        )
    )
    yield RecordedFact(
        TOKENS.row(
            trained.token_accuracy,
            control=untrained.token_accuracy,
            item="held-out-tasks",
            item_words="held-out tasks",
            threshold="context",
            n=n,
            note=_describe_controls({name: found.token_accuracy for name, found in baselines.items()}),
        )
    )


def _describe_controls(baselines: Mapping[str, float]) -> str:
    """What a score is compared with: the untrained model, and the best of the trivial baselines by this score."""
    best = max(baselines, key=lambda name: baselines[name])
    return f"control: the same model untrained; best baseline ({best}): {baselines[best]:.3f}"


def _value(loss: float) -> Value:
    return loss if math.isfinite(loss) else NotMeasured(absent=f"not finite: {loss}")
