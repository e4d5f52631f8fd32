"""The random numbers that a step draws, and the states of its generators after them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from etrm.device import to_device, to_host
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.stages.checked_step import CheckedStep, covers_core, covers_model
from etrm.reference.training.stages.differences import compare_exactly


def compare_noise(checked: CheckedStep) -> Iterator[Departure]:
    """The noise of a variational encoder or of sampled templates, which is drawn for the whole batch."""
    given = [recorded.batch.demos.noise for recorded in checked.step.parts]
    shape = next((noise.shape[1:] for noise in given if noise is not None), None)
    if shape is None or not (covers_model(checked.config) or not checked.model.recursive):
        return
    generator = _continue(checked.before.random_torch)
    size = (checked.step.batch_size, *shape)
    if checked.model.recursive:
        wanted = torch.randn(size, generator=generator)
    else:  # Gumbel noise
        wanted = -torch.empty(size).exponential_(generator=generator).log()
    for recorded, noise in zip(checked.step.parts, given, strict=True):
        if noise is not None:
            mine = to_device(wanted[recorded.rows], noise.device)
            yield from compare_exactly(PipelineStage.CONTEXT, "noise", noise, mine)
    yield from _compare_state(checked, PipelineStage.CONTEXT, checked.after.random_torch, generator)


def compare_least_steps(checked: CheckedStep) -> Iterator[Departure]:
    """The least numbers of steps of the rows; a variant from outside may draw others."""
    if not covers_core(checked.config):
        return
    stage, halt = PipelineStage.HALTING, checked.model.halt
    generator = _continue(checked.before.random_halting)
    if not checked.fixed_time and halt.exploration > 0 and halt.max_steps > 1:
        rows = checked.step.batch_size
        held = torch.rand(rows, generator=generator) < halt.exploration
        drawn = torch.randint(2, halt.max_steps + 1, (rows,), generator=generator)
        wanted = torch.where(held, drawn, torch.zeros_like(drawn))
        for recorded in checked.step.parts:
            given = recorded.minimum
            if given is None or not torch.equal(to_host(given), wanted[recorded.rows]):
                yield Departure(stage, "least numbers of steps", 1.0, 0.0)
    yield from _compare_state(checked, stage, checked.after.random_halting, generator)


def _continue(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def _compare_state(
    checked: CheckedStep, stage: PipelineStage, real: Tensor, wanted: torch.Generator
) -> Iterator[Departure]:
    """The state of a generator after the step: where it is an earlier one, later steps draw the same numbers again."""
    if checked.ended and not torch.equal(real, wanted.get_state()):
        yield Departure(stage, "state of the random numbers", 1.0, 0.0, "after the step")
