"""The weights in the checkpoints of a run: finite, averaged as recorded, and moved where the settings train them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from etrm.checkpoints.format import Checkpoint
from etrm.config import Config
from etrm.device import to_host
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured, Value

NOT_FINITE = Metric("run.weights-not-finite", "tensors of weights that are not finite", Direction.HOLDS)
AVERAGE = Metric(
    "run.average-of-weights",
    "averaged weights: largest difference from the average of the accumulators",
    Direction.EQUAL,
)
UPDATES = Metric("run.average-updates", "updates of the averaged weights", Direction.EQUAL)
UNMOVED = Metric("run.tensors-unmoved", "trained tensors that did not change: {item}", Direction.HOLDS)
FROZEN = Metric("run.frozen-tensors-moved", "frozen tensors that changed: {item}", Direction.HOLDS)
MOVED = Metric("run.part-moved", "relative change of the weights: {item}")
ROUNDING = 1e-5
"""Largest difference relative to the largest weight of a tensor: averages on two devices differ by rounding."""
PARTS = ("encoder", "core", "puzzle_table")
ABOUT_UNMOVED = {"encoder": ("H2",), "core": ("H4",), "puzzle_table": ("H4",)}
"""Hypotheses that a part without movement is evidence for."""
ABOUT_FROZEN = {"encoder": ("H4",), "core": ("H1",), "puzzle_table": ("H4",)}
"""Hypotheses that a frozen part with movement is evidence for."""


def judge_saved_weights(run: RunUnderTest) -> Iterator[RecordedFact]:
    """Rows about the newest checkpoint, and about the change since the oldest one or the random start."""
    if not run.checkpoints:
        return
    newest = run.checkpoints[-1]
    yield _check_finite(newest)
    if "imported" in newest.state:  # it has weights alone, and they were trained elsewhere
        return
    if newest.step:
        yield from _check_average(newest, run.used.train.ema_decay)
        yield from _check_movement(run, newest)


def _check_finite(newest: Checkpoint) -> RecordedFact:
    weights = {f"raw {name}": t for name, t in newest.model.items()} | {
        f"averaged {name}": t for name, t in newest.ema.items()
    }
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    row = NOT_FINITE.expect_none(
        len(broken), f"{len(weights)} tensors, step {newest.step}", note=", ".join(broken[:3])
    )
    return RecordedFact(row, ("H4",), words=f"{len(broken)} tensors of the trained weights are not finite")


def _check_average(newest: Checkpoint, decay: float) -> Iterator[RecordedFact]:
    updates = newest.state["ema_updates"]
    row = UPDATES.row(
        updates,
        control=newest.step,
        threshold=f"= {newest.step}",
        passed=updates == newest.step,
        n="1 checkpoint",
    )
    words = f"the averaged weights were updated {updates} times in {newest.step} steps"
    yield RecordedFact(row, ("H6",), proves=True, words=words)
    if not updates:
        return
    correction = 1 - decay**updates
    sums = {name: newest.tensors[f"ema.{name}"] for name in newest.ema if f"ema.{name}" in newest.tensors}
    apart = {
        name: _relative(newest.ema[name], total / correction)
        for name, total in sums.items()
        if total.numel() and total.isfinite().all()  # weights that are not finite have a row of their own
    }
    if not apart:
        return
    worst = max(apart, key=lambda name: apart[name])
    row = AVERAGE.expect_at_most(
        apart[worst], ROUNDING, f"{len(apart)} tensors, step {newest.step}", note=f"largest in {worst}"
    )
    words = f"the averaged weights are not the average that the run accumulated: {worst} differs by {apart[worst]:.2g}"
    yield RecordedFact(row, ("H6",), proves=True, words=words)


def _relative(found: Tensor, wanted: Tensor) -> float:
    size = wanted.double().abs().amax().clamp(min=1e-12)
    apart = float((found.double() - wanted.double()).abs().amax() / size)
    return apart if apart < 1e6 else 1e6  # also where it is not a number


def _check_movement(run: RunUnderTest, newest: Checkpoint) -> Iterator[RecordedFact]:
    oldest = run.checkpoints[0]
    since, before = oldest.step, oldest.model
    if oldest.step == newest.step:
        since, before = 0, {name: to_host(t) for name, t in run.start.model.state_dict().items()}
    trainable = {name for name, _ in run.start.model.named_parameters()}
    for part in PARTS:
        names = [name for name in newest.model if name in trainable and name.startswith(f"{part}.")]
        names = [name for name in names if name in before and newest.model[name].numel()]
        if not names:
            continue
        scope = f"{len(names)} tensors, steps {since} to {newest.step}"
        still = [name for name in names if newest.model[name].equal(before[name])]
        change = _measure_change(newest.model, before, names)
        yield RecordedFact(MOVED.row(change, item=part, threshold="context", n=scope))
        trains = _trains(run.used, part, newest.step)
        if trains:
            # Only of an encoder must every tensor move: a halting head without a weight in the loss does not.
            fails = bool(still) if part == "encoder" else len(still) == len(names)
            row = UNMOVED.row(
                len(still),
                control=0.0,
                item=part,
                threshold="0" if part == "encoder" else f"fewer than {len(names)}",
                passed=not fails,
                n=scope,
                note=", ".join(still[:3]),
            )
            span = f"in steps {since} to {newest.step}"
            words = f"{len(still)} of {len(names)} tensors of the {part} did not change {span}"
            yield RecordedFact(row, ABOUT_UNMOVED[part], proves=part == "encoder", words=words)
        elif trains is False:
            moved = len(names) - len(still)
            row = FROZEN.expect_none(moved, scope, item=part)
            words = f"{moved} of {len(names)} tensors of the {part} changed although it was frozen"
            yield RecordedFact(row, ABOUT_FROZEN[part], proves=part == "core", words=words)


def _measure_change(now: Mapping[str, Tensor], before: Mapping[str, Tensor], names: list[str]) -> Value:
    """The norm of the change of some tensors over their norm before."""
    change = sum(float((now[name].double() - before[name].double()).square().sum()) for name in names)
    size = sum(float(before[name].double().square().sum()) for name in names)
    return math.sqrt(change / size) if size else NotMeasured(absent="all weights were zero")


def _trains(used: Config, part: str, until: int) -> bool | None:
    """Whether the settings train a part up to a step; None if a learning rate is 0, which may leave decay."""
    train = used.train
    frozen = {"core": train.freeze_decoder_steps, "encoder": train.freeze_encoder_steps}.get(part, 0)
    if until <= frozen:
        return False
    rate = {"encoder": train.lr * train.encoder_lr_scale, "puzzle_table": train.puzzle_lr}.get(part, train.lr)
    return True if rate else None
