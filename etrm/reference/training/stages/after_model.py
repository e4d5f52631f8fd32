"""What a step does with the outputs of the model: halting, loss, update, average, states and logged numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from etrm.reference.departure import Departure, PipelineStage, find_carry_stage
from etrm.reference.training.logged_numbers import GRADIENT_NORM, compute_logged
from etrm.reference.training.objective import row_losses
from etrm.reference.training.optimisation import (
    averaged,
    clipped,
    frozen_steps,
    rate_factor,
    rate_of,
    update,
)
from etrm.reference.training.stages.checked_step import CheckedStep, covers_core, covers_model
from etrm.reference.training.stages.differences import (
    compare_exactly,
    compare_values,
    dense,
    double,
    kept_apart,
    moved_apart,
    norm,
    ratio,
    share_of,
)


def compare_halting(checked: CheckedStep) -> Iterator[Departure]:
    """Which rows end; of a variant from outside only those that must end."""
    stage, halt, known = PipelineStage.HALTING, checked.model.halt, covers_core(checked.config)
    for recorded in checked.step.parts:
        begun = checked.carry["steps"][recorded.rows].masked_fill(checked.carry["halted"][recorded.rows], 0)
        steps = begun + 1
        last = steps >= halt.max_steps
        ends = last
        if not checked.fixed_time:
            ends = ends | (recorded.q_halt > 0)
            if recorded.minimum is not None:
                ends = ends & (steps >= recorded.minimum)
        halted = recorded.carry_out["halted"]
        yield from compare_exactly(stage, "steps", recorded.carry_out["steps"], steps)
        yield from compare_exactly(stage, "halted", halted, ends if known else halted | last)


def compare_labels(checked: CheckedStep) -> Iterator[Departure]:
    """The labels that the loss uses, against those of the batch."""
    for recorded in checked.step.parts:
        if recorded.labels is None:
            yield Departure(PipelineStage.LABELS, "labels", 1.0, 0.0)
        else:
            yield from compare_exactly(PipelineStage.LABELS, "labels", recorded.labels, recorded.batch.labels)


def compare_loss(checked: CheckedStep) -> Iterator[Departure]:
    """The loss of each part, from its recorded logits."""
    for recorded in checked.step.parts:
        if recorded.labels is None or recorded.total is None:
            continue
        wanted = row_losses(
            recorded.logits, recorded.q_halt, recorded.labels, recorded.kl, recorded.entropy, checked.train
        ).total.sum()
        size = share_of(float(recorded.total), float(wanted))
        if not size <= checked.limits.exact:
            yield Departure(PipelineStage.LOSS, "loss", size, checked.limits.exact)


def compare_clipping(checked: CheckedStep) -> Iterator[Departure]:
    """The gradients that the optimiser gets."""
    gradients = {name: dense(value).float() for name, value in checked.step.gradients.items()}
    wanted = clipped(gradients, checked.train)
    for name, value in wanted.items():
        real = checked.step.applied.get(name)
        real = torch.zeros_like(value) if real is None else dense(real).float()
        size = ratio(norm([real - value]), norm([value]))
        if not size <= checked.limits.clipping:
            lost = not bool(real.any())
            yield Departure(PipelineStage.CLIPPING, name, size, checked.limits.clipping, unmoved=lost)


def compare_update(checked: CheckedStep) -> Iterator[Departure]:
    """The weights and moments after the update."""
    stage, factor = PipelineStage.UPDATE, rate_factor(checked.before.step, checked.train)
    ids = torch.cat([recorded.batch.puzzle_ids for recorded in checked.step.parts])
    for name, old in checked.before.weights.items():
        new = checked.after.weights[name]
        still = torch.equal(new, old)
        if checked.step.freezes_decoder and name.startswith("core.") and not still:
            moved = ratio(norm([new - old]), norm([old]))
            yield Departure(PipelineStage.LOADING, name, moved, 0.0, "of a frozen decoder")
        gradient = checked.step.applied.get(name)
        if name not in checked.trained or gradient is None:
            if not still and checked.must_keep(name):
                yield Departure(stage, name, ratio(norm([new - old]), norm([old])), 0.0, "without a gradient")
            continue
        moments = checked.before.moments
        count = _count_updates(checked, name)
        wanted = update(
            old.double(),
            dense(gradient).double(),
            double(moments.get(f"{name}.exp_avg")),
            double(moments.get(f"{name}.exp_avg_sq")),
            count,
            rate_of(name, checked.train) * factor,
            checked.train,
            ids if name.startswith("puzzle_table.") else None,
        )
        size = moved_apart(new, wanted.weight, old)
        if not size <= checked.limits.exact:
            yield Departure(stage, name, size, checked.limits.exact, unmoved=still)
        if wanted.mean is not None:
            counted = checked.after.moments.get(f"{name}.step")
            if counted is None or int(counted) != count:
                where = f"{None if counted is None else int(counted)} instead of {count}"
                yield Departure(stage, f"{name}.step", 1.0, 0.0, where, unmoved=still)
        for kind, value in (("exp_avg", wanted.mean), ("exp_avg_sq", wanted.square)):
            real = checked.after.moments.get(f"{name}.{kind}")
            if value is not None:
                size = 1.0 if real is None else kept_apart(real, value)
                if not size <= checked.limits.exact:
                    yield Departure(stage, f"{name}.{kind}", size, checked.limits.exact, unmoved=still)


def _count_updates(checked: CheckedStep, name: str) -> int:
    """The updates of a parameter, that of this step included.

    It is updated in each step in which it is not frozen, as the average is in every step. An encoder that is called
    only where rows begin has steps without a gradient, and code from outside may have some, so there the optimiser's
    own number counts.
    """
    before, encodes = checked.before, name.startswith("encoder.")
    known = covers_model(checked.config) if encodes else covers_core(checked.config)
    if known and not (encodes and checked.model.variant == "etrm_cached"):
        began = before.step - before.average_updates  # more than 0 where a run starts from imported weights
        return before.step + 1 - max(began, frozen_steps(name, checked.train))
    return int(before.moments.get(f"{name}.step", torch.zeros(()))) + 1


def compare_average(checked: CheckedStep) -> Iterator[Departure]:
    """The averaged weights."""
    stage = PipelineStage.AVERAGE
    yield from compare_values(
        stage, "updates of the average", checked.after.average_updates, checked.before.average_updates + 1
    )
    floats = {name for name, value in checked.before.weights.items() if value.is_floating_point()}
    for name in sorted(floats ^ checked.before.averages.keys()):
        where = "is not averaged" if name in floats else "is no weight"
        yield Departure(stage, name, 1.0, 0.0, where)
    for name, old in checked.before.averages.items():
        if name not in floats:
            continue
        wanted = averaged(old.double(), checked.after.weights[name].double(), checked.train.ema_decay)
        size = moved_apart(checked.after.averages[name], wanted, old)
        if not size <= checked.limits.exact:
            yield Departure(stage, name, size, checked.limits.exact)


def compare_kept_carry(checked: CheckedStep) -> Iterator[Departure]:
    """The states that are kept for the next step."""
    stage, after = PipelineStage.CARRY, checked.after.carries
    for recorded in checked.step.parts:
        for name, value in recorded.carry_out.items():
            kept = after[checked.step.bucket].get(name)
            if kept is None or not torch.equal(kept[recorded.rows], value):
                yield Departure(find_carry_stage(name), f"{name} kept for the next step", 1.0, 0.0)
        core = recorded.core
        if core is not None:
            for name, made in (("z_H", core.z_H_out), ("z_L", core.z_L_out)):
                if not torch.equal(recorded.carry_out[name], made):
                    yield Departure(stage, f"{name} returned by the model", 1.0, 0.0)
    for bucket, old in checked.before.carries.items():
        if bucket != checked.step.bucket and any(
            not torch.equal(value, after[bucket][name]) for name, value in old.items()
        ):
            yield Departure(stage, f"states of bucket {bucket}", 1.0, 0.0)


def compare_logged(checked: CheckedStep) -> Iterator[Departure]:
    """The numbers that the step logs, from its recorded rows."""
    if checked.step.logged is None:
        yield Departure(PipelineStage.SCORE, "logged numbers", 1.0, 0.0)
        return
    for name, wanted in (compute_logged(checked.step, checked.config) | _find_stage(checked)).items():
        real = checked.step.logged.get(name)
        limit = checked.limits.clipping if name == GRADIENT_NORM else checked.limits.exact
        if real is None or wanted is None:
            size = 0.0 if real is wanted else math.inf
        else:
            size = abs(real - wanted) / max(abs(wanted), 1.0)
        if not size <= limit:
            where = f"{real} is logged instead of {wanted}"
            yield Departure(PipelineStage.SCORE, f"logged {name}", size, limit, where)


def _find_stage(checked: CheckedStep) -> dict[str, float]:
    """The stage of a curriculum, and whether the batch is one of an earlier stage."""
    curriculum, rows = checked.config.data.curriculum, checked.rows
    if not curriculum or rows is None:
        return {}
    stage = rows.stage_at(checked.before.step, checked.model.halt.max_steps if checked.fixed_time else 1)
    return {
        "stage_side": curriculum[stage].max_side,
        "replayed": int(rows.stage_of(checked.step.bucket) < stage),
    }
