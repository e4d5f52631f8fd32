"""What a new model does not do: some of its rows halt while others continue, and it answers every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from etrm.config import Config, load, with_settings
from etrm.investigation.reference_comparison import reference_check
from etrm.investigation.reference_comparison.checkpoint_check import CheckpointCheck
from etrm.investigation.reference_comparison.later_training import (
    exchange_readers,
    next_states,
    unsettle,
)
from etrm.investigation.reference_comparison.recorded_evaluation import record_own_answers
from etrm.investigation.reference_comparison.reference_check import FIRST_STEPS, TURNS, check_start
from etrm.model.act import Carry
from etrm.model.core import Core
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import RecordedEvaluation
from etrm.training.monitoring.recorded_step import record_step
from etrm.training.monitoring.step_check import ComparedStep, StepCheck
from etrm.training.slots import Slots
from etrm.training.trainer import Trainer


def config_of(**train: object) -> Config:
    small = with_settings(load("smoke"), monitor={"enabled": False}, train={"threads": 1, **train})
    return with_settings(small, data={"max_tasks": 8, "max_side": 4})


@pytest.fixture(autouse=True)
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits at test time come after later training, and are no part of this file."""
    monkeypatch.setattr(reference_check, "compare_fits", lambda trainer: [])


def check_later(**train: object) -> tuple[list[ComparedStep], Sequence[Departure]]:
    """The compared steps of later training, and what else departs."""
    trainer = Trainer(config_of(**train))
    saved, check = CheckpointCheck(trainer.state, noise=False), StepCheck(config_of(**train))
    for _ in range(FIRST_STEPS):
        trainer.advance()
    saved.capture()
    others = reference_check._check_later(trainer, check, saved)
    return check.compared, others


@pytest.fixture(params=range(3))
def unsettled(request: pytest.FixtureRequest) -> Trainer:
    trainer = Trainer(config_of(seed=request.param))
    check = CheckpointCheck(trainer.state, noise=False)
    trainer.advance()
    check.capture()
    states = next_states(trainer)
    check.restore()
    unsettle(trainer, states)
    return trainer


def test_half_of_the_rows_halt_in_the_same_step(unsettled: Trainer) -> None:
    with record_step(unsettled) as step:
        unsettled.advance()
    flags = step.parts[0].carry_out["halted"]
    assert len(flags) / 4 <= int(flags.sum()) <= len(flags) / 2  # exploration may hold some


def test_every_token_is_an_answer_in_one_of_a_few_evaluations(unsettled: Trainer) -> None:
    counts = np.zeros(12, dtype=int)
    for _ in range(TURNS):
        own = record_own_answers(unsettled)
        assert isinstance(own, RecordedEvaluation)
        tokens = [answer.tokens for answer in own.answers if answer.tokens is not None]
        counts += np.bincount(np.concatenate(tokens), minlength=12)
        if not exchange_readers(unsettled, counts.tolist()):
            break
    assert counts.all()


def test_a_state_that_is_kept_where_a_row_begins_alone_is_the_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Carry.begin

    def together(carry: Carry, length: int, first: torch.Tensor, second: torch.Tensor) -> Carry:
        alone = not bool(carry.halted.all())
        begun = begin(carry, length, first, second)
        if not alone or carry.z_H.shape[1] < length:
            return begun
        return Carry(carry.z_H[:, :length], begun.z_L, begun.steps, begun.halted)

    monkeypatch.setattr(Carry, "begin", together)
    first = check_start(config_of()).first
    assert first is not None
    assert first.stage is PipelineStage.CARRY


def test_a_state_that_is_cut_at_the_wrong_end_is_the_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a new model begin together, so that no batch is shorter than the states of its rows."""

    def fit(z: torch.Tensor, length: int) -> torch.Tensor:
        more = length - z.shape[1]
        return z[:, -length:] if more < 0 else torch.nn.functional.pad(z, (0, 0, 0, more))

    monkeypatch.setattr("etrm.model.act._fit", fit)
    first = check_start(config_of()).first
    assert first is not None
    assert first.stage is PipelineStage.CARRY


def test_rows_that_never_halt_early_are_the_halting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "etrm.model.recursive.halts", lambda steps, q_halt, config, minimum: steps >= config.max_steps
    )
    first = check_start(config_of()).first
    assert first is not None
    assert (first.stage, first.tensor) == (PipelineStage.HALTING, "halted")


def test_a_resumed_run_with_consecutive_samples_is_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a new model take their samples together, so that these are consecutive."""
    restore = Slots.restore

    def consecutive(slots: Slots, indices: list[int], following: int) -> None:
        restore(slots, list(range(following - len(indices), following)), following)

    monkeypatch.setattr(Slots, "restore", consecutive)
    _, [first, *_] = check_later()
    assert (first.stage, first.tensor) == (PipelineStage.DATA, "rows")


def test_flags_of_halted_rows_in_another_order_are_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either all rows of a new model halt or none, and the flags are the same in every order."""
    compute = Trainer._forward_and_backward

    def turned(trainer: Trainer, *args: Any) -> tuple[Any, ...]:
        carry, halted, sums = compute(trainer, *args)
        return carry, halted[::-1], sums

    monkeypatch.setattr(Trainer, "_forward_and_backward", turned)
    steps, _ = check_later(accumulate=2)
    assert [bool(step.departures) for step in steps] == [False, False, True]  # as soon as only some rows halt
    first = steps[-1].departures[0]
    assert (first.stage, first.tensor) == (PipelineStage.DATA, "indices of the rows")


def test_logits_that_are_bounded_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a new model are below the bounds."""
    forward = Core.forward

    def bounded(core: Core, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z_H, z_L, logits, q = forward(core, *args)  # type: ignore[arg-type]
        return z_H, z_L, logits.clamp(-50, 50), q.clamp(-10, 10)

    monkeypatch.setattr(Core, "forward", bounded)
    steps, others = check_later()
    assert others == []
    assert [bool(step.departures) for step in steps] == [False, False, False, True]
    assert {one.tensor for one in steps[-1].departures} >= {"logits", "q"}


def test_a_token_that_is_never_answered_is_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from etrm.training.scoring import predictor

    solve = predictor.solve_samples

    def limited(*args: object, **options: object) -> object:
        batch, output = solve(*args, **options)  # type: ignore[arg-type]
        output.logits[..., -1] = -torch.inf
        return batch, output

    monkeypatch.setattr(predictor, "solve_samples", limited)
    first = check_start(config_of()).first
    assert first is not None
    assert first.stage is PipelineStage.ANSWERS
