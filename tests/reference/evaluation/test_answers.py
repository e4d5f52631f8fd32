"""Answers of single rows against those of the model in batches, for every encoder and way of halting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from etrm.config import KINDS, load, with_settings
from etrm.investigation.reference_comparison.recorded_evaluation import record_own_answers
from etrm.reference.departure import PipelineStage
from etrm.reference.evaluation.answers import compare_answers
from etrm.reference.evaluation.evaluation_stages import RecordedEvaluation
from etrm.training.trainer import Trainer


def recorded(kind: str, halting: str) -> tuple[Trainer, RecordedEvaluation]:
    config = with_settings(
        load("smoke"),
        model={"encoder": {"kind": kind}},
        monitor={"enabled": False},
        evaluate={"halting": halting},
        train={"threads": 1},
    )
    trainer = Trainer(config)
    with torch.no_grad():  # otherwise no row would halt early
        trainer.model.core.q_head.weight.normal_()  # type: ignore[union-attr, operator]
        trainer.model.core.q_head.bias.zero_()  # type: ignore[union-attr, operator]
    found = record_own_answers(trainer)
    assert isinstance(found, RecordedEvaluation)
    return trainer, replace(found, answers=found.answers[:4])


@pytest.mark.parametrize("halting", ["all_steps", "early"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_and_single_rows_have_the_same_answers(kind: str, halting: str) -> None:
    trainer, found = recorded(kind, halting)
    weights = trainer.model.state_dict()
    assert compare_answers(weights, trainer.config.model, found.answers, halting == "early") == []


def test_an_answer_from_other_demonstrations_is_found() -> None:
    trainer, found = recorded("standard", "all_steps")
    changed = [
        replace(row, row=replace(row.row, demos=[(tokens[::-1], places) for tokens, places in row.row.demos]))
        for row in found.answers
    ]
    [*departures] = compare_answers(trainer.model.state_dict(), trainer.config.model, changed, False)
    assert {departure.stage for departure in departures} == {PipelineStage.ANSWERS}
