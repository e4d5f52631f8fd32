"""Shares of answered demonstrations: those of a healthy search are known, and planted changes are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from etrm.data import build_evaluation_samples
from etrm.investigation.reference_comparison.known_shares import compare_known_shares
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.training import context_fit
from etrm.training.context_fit import FittedContexts, PosedDemos, _Search
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer
from tests.reference.training.test_step import config_of


def compare() -> list[Departure]:
    config = config_of(data={"max_side": 5}, model={"halt": {"max_steps": 2}})
    trainer = Trainer(config)
    for _ in range(2):
        trainer.advance()
    [sample, *_] = build_evaluation_samples(load_held_out_tasks(config), config.data, 1, 0)
    return compare_known_shares(trainer.model, sample, config)


def test_known_shares_are_those_of_a_healthy_search() -> None:
    assert compare() == []


@pytest.mark.parametrize("fault", ["last context", "exchanged", "first step"])
def test_other_shares_are_the_answers(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result, measure = _Search.result, context_fit.measure_demos

    def exchange(search: _Search) -> FittedContexts:
        found = result(search)
        return replace(found, fitted=found.held_out, held_out=found.fitted)

    def answer_last(search: _Search) -> FittedContexts:
        best, search.best = search.best, search.current
        return replace(result(search), context=best)

    def measure_first(
        model: Variant, context: Tensor, demos: PosedDemos, kind: str, act_steps: int
    ) -> tuple[Tensor, Tensor]:
        """The answers of the first ACT step, with the losses of all."""
        losses, _ = measure(model, context, demos, kind, act_steps)
        return losses, measure(model, context, demos, kind, 1)[1]

    if fault == "first step":
        monkeypatch.setattr(context_fit, "measure_demos", measure_first)
    else:
        changed = exchange if fault == "exchanged" else answer_last
        monkeypatch.setattr(_Search, "result", changed)
    found = compare()
    assert {one.stage for one in found} == {PipelineStage.ANSWERS}
    assert {one.tensor for one in found} == {
        "share of fitted demonstrations",
        "share of held-out demonstrations",
    }
