"""Only parameters of zeros are filled."""

from __future__ import annotations

import pytest
import torch

from etrm.config import load, with_settings
from etrm.investigation.runs.zero_weights import FILLED, fill_zeros
from etrm.training.trainer import Trainer


def test_parameters_of_zeros_are_filled_and_no_others() -> None:
    trainer = Trainer(with_settings(load("smoke"), monitor={"enabled": False}, train={"threads": 1}))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    fill_zeros(trainer)
    changed = {
        name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed == {name for name, value in before.items() if not value.any()} == {"core.q_head.weight"}
    found = dict(trainer.model.named_parameters())["core.q_head.weight"]
    assert float(found.detach().std()) == pytest.approx(FILLED, rel=0.3)
