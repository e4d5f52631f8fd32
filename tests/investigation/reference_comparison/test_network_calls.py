"""A network that is wrong outside training steps alone: in an evaluation, or in what is fitted to a task."""

from __future__ import annotations

import pytest
import torch

from etrm.config import Config, load, with_settings
from etrm.investigation.reference_comparison import reference_check
from etrm.investigation.reference_comparison.fitted_to_tasks import compare_fits
from etrm.investigation.reference_comparison.network_calls import compare_networks
from etrm.investigation.reference_comparison.recorded_evaluation import record_own_answers
from etrm.investigation.reference_comparison.reference_check import check_start
from etrm.model.core import Core
from etrm.model.encoders import Encoded
from etrm.model.encoders.base import Encoder
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.trainer import Trainer

ROWS = 2
"""Rows of a training step; an evaluation has more in a batch."""


def config_of() -> Config:
    small = {"data": {"max_tasks": 6, "max_side": 5}, "train": {"batch_size": ROWS, "threads": 1}}
    return with_settings(load("smoke"), **small)  # type: ignore[arg-type]


def clear_core(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(self: Core, *args: torch.Tensor) -> torch.Tensor:
        found = whole(self, *args).clone()
        found[ROWS:] = 0.0
        return found

    whole = Core._embed
    monkeypatch.setattr(Core, "_embed", embed)


def clear_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Encoder, *args: object) -> Encoded:
        found: Encoded = whole(self, *args)  # type: ignore[arg-type]
        context = found.context.clone()
        context[ROWS:] = 0.0
        return Encoded(context)

    whole = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", forward)


def first_of(monkeypatch: pytest.MonkeyPatch) -> Departure | None:
    monkeypatch.setattr(reference_check, "compare_fits", lambda trainer: [])
    found = check_start(config_of())
    assert not any(step.departures for step in found.steps)
    assert PipelineStage.ANSWERS in {departure.stage for departure in found.departures}
    return found.first


def test_a_core_that_clears_rows_that_no_training_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_core(monkeypatch)
    first = first_of(monkeypatch)
    assert first is not None
    assert first.stage is PipelineStage.CORE


def test_an_encoder_that_clears_rows_that_no_training_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_encoder(monkeypatch)
    first = first_of(monkeypatch)
    assert first is not None
    assert first.stage is PipelineStage.CONTEXT


def test_healthy_networks_depart_nowhere_and_weights_may_change() -> None:
    trainer = Trainer(with_settings(config_of(), monitor={"enabled": False}))
    assert compare_networks(trainer.model, lambda: record_own_answers(trainer)) == []
    assert compare_networks(trainer.model, lambda: compare_fits(trainer)) == []


def test_a_core_that_is_wrong_in_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(with_settings(config_of(), monitor={"enabled": False}))
    clear_core(monkeypatch)
    found = compare_networks(trainer.model, lambda: compare_fits(trainer))
    assert {departure.stage for departure in found} == {PipelineStage.CORE}
