"""The investigation of a model of one's own that lies on a device, with samples and a pretrained part on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.device import to_device
from etrm.investigation.own_model.healthy_reference import make_reference
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import InspectedHypothesis
from etrm.investigation.own_model.investigate_model import OWN_HYPOTHESES
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch

INSPECTED = [id for id, one in OWN_HYPOTHESES.items() if isinstance(one, InspectedHypothesis)]
LONGER = ("H3", "H5")
"""What takes half a minute, and is left to `make test-slow` and `make test-gpu`."""


def move(batch: RowBatch, device: torch.device) -> RowBatch:
    return {
        key: to_device(value, device) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


def on(device: torch.device) -> ModelFactory:
    """The healthy reference on a device; what the adapter gives besides batches stays on the host."""

    def make(seed: int) -> ModelUnderTest:
        plain = make_reference(seed)
        held_out = plain.held_out
        moved: dict[str, Any] = {"batch": lambda index: move(plain.batch(index), device)}
        if held_out is not None:
            moved["held_out"] = lambda index: move(held_out(index), device)
        return replace(plain, model=to_device(plain.model, device), **moved)

    return ModelFactory(make, "the healthy reference on a device")


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=[pytest.mark.slow] if id in LONGER else []) for id in INSPECTED]
)
def test_a_healthy_model_is_not_accused_and_its_faults_are_found(id: str, device: torch.device) -> None:
    hypothesis, factory = OWN_HYPOTHESES[id], on(device)
    assert isinstance(hypothesis, InspectedHypothesis)
    assert [check.words for check in hypothesis.inspect(factory, 0).failed] == []
    for fault in hypothesis.list_faults(factory.build(0)):
        assert hypothesis.inspect(fault.apply(factory), 0).failed, fault.name
