"""What a step begins with: schedule, samples, weights, and the states of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from etrm.reference.data.loaded_rows import compare_batch
from etrm.reference.departure import Departure, PipelineStage, find_carry_stage
from etrm.reference.recorded import RecordedPart
from etrm.reference.training.optimisation import FROZEN_PARTS, frozen_part, rate_factor, rate_of
from etrm.reference.training.stages.checked_step import CheckedStep
from etrm.reference.training.stages.differences import (
    compare_rows,
    compare_values,
    existing_tokens,
    share_of,
)

FROZEN_PART = "frozen part"
"""The name of what differs where other parameters require a gradient than the settings say."""


def compare_schedule(checked: CheckedStep) -> Iterator[Departure]:
    """The number of the step, the frozen part and the learning rates."""
    stage, done = PipelineStage.SCHEDULE, checked.before.step
    if checked.ended:
        yield from compare_values(stage, "step", checked.after.step, done + 1)
    requiring = set(checked.step.requiring)
    if requiring != set(checked.trained) and requiring in _list_stages(checked):
        yield Departure(
            stage, FROZEN_PART, 1.0, 0.0, f"{frozen_part(done, checked.train) or 'no part'} is expected"
        )
    factor = rate_factor(done, checked.train)
    for name, rate in checked.step.rates.items():
        wanted = rate_of(name, checked.train) * factor
        if not math.isclose(rate, wanted, rel_tol=checked.limits.exact, abs_tol=1e-30):
            yield Departure(stage, f"rate of {name}", share_of(rate, wanted), checked.limits.exact)
            break


def _list_stages(checked: CheckedStep) -> list[set[str]]:
    """The parameters that each stage of training can train; a part of a frozen or trained part is no matter of time."""
    if not (checked.train.freeze_decoder_steps or checked.train.freeze_encoder_steps):
        return []
    every = checked.step.parameters
    return [
        {name for name in every if part is None or not name.startswith(part)}
        for part in (None, *FROZEN_PARTS)
    ]


def compare_samples(checked: CheckedStep) -> Iterator[Departure]:
    """The bucket, which samples the rows take, and what is in them."""
    stage, bucket = PipelineStage.DATA, checked.step.bucket
    if checked.rows is not None:
        turn = checked.model.halt.max_steps if checked.fixed_time else 1
        wanted = checked.rows.bucket_at(checked.before.step, turn)
        yield from compare_values(stage, "bucket", bucket, wanted)
    indices, following = list(checked.before.rows[bucket][0]), checked.before.rows[bucket][1]
    for row, begins in enumerate(checked.carry["halted"].tolist()):
        if begins:
            indices[row], following = following, following + 1
    if checked.ended:
        yield from compare_values(stage, "indices of the rows", list(checked.after.rows[bucket][0]), indices)
        yield from compare_values(stage, "next index", checked.after.rows[bucket][1], following)
    for other, place in checked.before.rows.items():
        if other != bucket:
            yield from compare_values(stage, f"rows of bucket {other}", checked.after.rows[other], place)
    if checked.rows is not None:
        for recorded in checked.step.parts:
            yield from compare_batch(checked.rows, bucket, indices[recorded.rows], recorded.batch.to_arrays())


def compare_weights_in_use(checked: CheckedStep) -> Iterator[Departure]:
    """Weights that the forward pass uses and that are not those after the step before."""
    for name in checked.step.at_forward:
        yield Departure(PipelineStage.UPDATE, f"{name} between two steps", 1.0, 0.0)


def compare_given_carry(checked: CheckedStep) -> Iterator[Departure]:
    """The states of the rows, as the model and its core get them."""
    for recorded in checked.step.parts:
        for name, value in checked.carry.items():
            given = recorded.carry.get(name)
            wanted = value[recorded.rows]
            if given is None or given.shape != wanted.shape or not torch.equal(given, wanted):
                yield Departure(find_carry_stage(name), f"{name} given to the model", 1.0, 0.0)
        yield from _compare_begun(checked, recorded)


def _compare_begun(checked: CheckedStep, recorded: RecordedPart) -> Iterator[Departure]:
    """The states with which the core begins: fresh where a row begins, else those of the last step."""
    core = recorded.core
    if core is None:
        yield Departure(PipelineStage.CARRY, "call of the core", 1.0, 0.0)
        return
    halted = checked.carry["halted"][recorded.rows]
    length = checked.model.context_tokens + recorded.batch.inputs.shape[1]
    for name, seen in (("z_H", core.z_H), ("z_L", core.z_L)):
        old = checked.carry[name][recorded.rows][:, :length]
        wanted = old.new_zeros(len(old), length, old.shape[-1])
        wanted[:, : old.shape[1]] = old
        wanted[halted] = checked.before.weights[f"core.{name[-1]}_init"].type(wanted.dtype)
        exists = existing_tokens(recorded.batch, checked.model.context_tokens, seen.shape[1])
        yield from compare_rows(PipelineStage.CARRY, name, seen, wanted, checked.limits.forward, exists)
    batch = recorded.batch
    for name, used, sent in (
        ("inputs", core.inputs, batch.inputs),
        ("positions", core.positions, batch.positions),
        ("valid", core.valid, batch.valid),
    ):
        same = used is sent if used is None or sent is None else torch.equal(used, sent)
        if not same:
            yield Departure(PipelineStage.CARRY, f"{name} of the core", 1.0, 0.0)
