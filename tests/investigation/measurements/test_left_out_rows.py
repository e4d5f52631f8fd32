"""Rows that a variant leaves out at random are no cut gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import Config, load, with_settings
from etrm.data import Episodes
from etrm.investigation.measurements.left_out_rows import LeftOutRows, count_left_out_rows
from etrm.model.act import Carry
from etrm.model.recursive import Given, RecursiveModel, encode_every_step
from etrm.training.recipe import Recipe, build_model


def _drop_some(context: Tensor) -> Tensor:
    return torch.where(torch.rand(len(context), 1, 1) < 0.2, 0.5, context)


def _drop_first(context: Tensor) -> Tensor:
    return torch.where((torch.arange(len(context)) == 0)[:, None, None], 0.5, context)


def _cut_some(context: Tensor) -> Tensor:
    return torch.where(torch.rand(len(context), 1, 1) < 0.2, context.detach(), context)


@pytest.mark.parametrize(("change", "explained"), [(_drop_some, [0.8]), (_drop_first, []), (_cut_some, [])])
def test_only_rows_that_are_left_out_at_random_explain_a_coverage(
    change: Callable[[Tensor], Tensor], explained: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def policy(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
        given = encode_every_step(model, carry, batch)
        return replace(given, context=change(given.context))

    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = build_model(config, episodes)
        assert isinstance(model, RecursiveModel)
        model.context_policy = policy
        return model

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(build_model=build))
    monkeypatch.setattr("etrm.investigation.measurements.left_out_rows.DRAWS", 12)
    found = count_left_out_rows(with_settings(load("smoke"), train={"threads": 1}))
    assert [coverage for coverage in (0.8, 0.5) if found.explains(coverage, 144)] == explained


def test_rows_that_are_never_left_out_explain_nothing() -> None:
    assert not LeftOutRows(rows=100, left_out=0, cut=0, always=False).explains(0.99, 144)
