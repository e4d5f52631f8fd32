from __future__ import annotations

from typing import Any

import pytest
import torch

from etrm.config import load, with_settings
from etrm.investigation.measurements.unread_weights import count_unread_weights
from etrm.model.encoders import StandardEncoder

SMOKE = load("smoke")


@pytest.mark.parametrize(("demos", "unread"), [(1, 2), (3, 0)])
def test_queries_and_keys_over_a_single_demonstration_have_no_effect(demos: int, unread: int) -> None:
    assert count_unread_weights(with_settings(SMOKE, data={"max_demos": demos})) == unread


@pytest.mark.parametrize("encoder", [{"kind": "lpn_variational"}, {"layer_scale": 1e-4}])
def test_what_acts_through_noise_or_little_is_read(encoder: dict[str, Any]) -> None:
    assert count_unread_weights(with_settings(SMOKE, model={"encoder": encoder})) == 0


def test_a_config_of_a_gpu_is_computed_on_the_host() -> None:
    train = {"device": "cuda", "cuda_graphs": True, "precision": "bfloat16"}
    assert count_unread_weights(with_settings(SMOKE, data={"max_demos": 1}, train=train)) == 2


def test_a_tensor_whose_gradient_is_cut_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = StandardEncoder.forward

    def cut(self: StandardEncoder, *args: object, **named: object) -> object:
        with torch.no_grad():
            return forward(self, *args, **named)

    monkeypatch.setattr(StandardEncoder, "forward", cut)
    assert count_unread_weights(SMOKE) == 0
