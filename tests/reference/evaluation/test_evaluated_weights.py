"""Averages from accumulators, against a mean that is written out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from etrm.reference.departure import PipelineStage
from etrm.reference.evaluation.evaluated_weights import compare_weights

DECAY = 0.9
STEPS = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]), torch.tensor([0.5, 0.5])]
MEAN = (0.81 * STEPS[0] + 0.9 * STEPS[1] + STEPS[2]) / (0.81 + 0.9 + 1)


@dataclass(frozen=True)
class Held:
    """A checkpoint of one tensor after three steps, and a counter."""

    sums: Tensor = 0.1 * (0.81 * STEPS[0] + 0.9 * STEPS[1] + STEPS[2])
    updates: int = 3

    def departures(self, evaluated: Tensor, *, averaged: bool) -> list[tuple[PipelineStage, str]]:
        counter = torch.tensor([3])
        found = compare_weights(
            {"weight": evaluated, "counter": counter},
            {"weight": STEPS[-1], "counter": counter},
            {"weight": self.sums},
            updates=self.updates,
            decay=DECAY,
            averaged=averaged,
        )
        return [(departure.stage, departure.tensor) for departure in found]


WRONG = [(PipelineStage.WEIGHTS, "weight")]


def test_the_average_is_corrected_for_its_start() -> None:
    assert Held().departures(MEAN, averaged=True) == []
    assert Held().departures(Held().sums, averaged=True) == WRONG


@pytest.mark.parametrize("averaged", [True, False])
def test_the_other_kind_of_weights_is_found(averaged: bool) -> None:
    assert Held().departures(STEPS[-1], averaged=averaged) == (WRONG if averaged else [])
    assert Held().departures(MEAN, averaged=averaged) == ([] if averaged else WRONG)


def test_before_the_first_update_the_average_is_the_weights() -> None:
    assert replace(Held(), updates=0).departures(STEPS[-1], averaged=True) == []


def test_a_tensor_of_another_shape_or_with_nan_is_found() -> None:
    assert Held().departures(MEAN[:1], averaged=True) == WRONG
    assert Held().departures(MEAN * float("nan"), averaged=True) == WRONG
