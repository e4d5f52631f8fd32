"""The weights of every new model have the distributions of the reference, and another initialisation departs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from etrm.config import KINDS, load, with_settings
from etrm.model.construct import build_variant
from etrm.model.layers import Linear
from etrm.reference.departure import PipelineStage
from etrm.reference.training.start_weights import compare_start_weights

MODELS: list[dict[str, Any]] = [
    *({"encoder": {"kind": kind}} for kind in KINDS),
    {"variant": "trm"},
    {"positions": "learned", "layers": 2},
    {"encoder": {"pooling": "attention", "norm": "pre", "layer_scale": 0.1}},
    {"encoder": {"pooling": "weighted"}},
    {"hidden_size": 4, "num_heads": 1},
]


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_every_model_starts_as_the_reference_says(changes: dict[str, Any]) -> None:
    config = with_settings(load("smoke"), data={"augmentations": 2}, model=changes).model
    for seed in range(5):
        torch.manual_seed(seed)
        weights = build_variant(config, puzzles=7, side=30).state_dict()
        assert compare_start_weights(weights, config) == []


def test_the_default_weights_of_torch_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linear, "reset_parameters", torch.nn.Linear.reset_parameters)
    config = load("smoke").model
    weights = build_variant(config, puzzles=1, side=30).state_dict()
    found = compare_start_weights(weights, config)
    assert {departure.stage for departure in found} == {PipelineStage.LOADING, PipelineStage.CONTEXT}
    assert "core.lm_head.weight" in {departure.tensor for departure in found}
    assert {d.stage for d in compare_start_weights(weights, config, loaded=True)} == {PipelineStage.CONTEXT}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("core.q_head.bias", lambda w: -w),
        ("core.H_init", lambda w: w * 3),
        ("core.lm_head.weight", lambda w: w * 1.5),
        ("core.lm_head.weight", torch.zeros_like),
        ("encoder.set_encoder.query_tokens", lambda w: w + 0.02),
        ("encoder.grid_encoder.pool_proj.weight", lambda w: torch.nn.init.kaiming_normal_(w.clone())),
    ],
)
def test_one_tensor_that_starts_otherwise_departs(name: str, change: Any) -> None:
    config = load("smoke").model
    torch.manual_seed(0)
    weights = build_variant(config, puzzles=1, side=30).state_dict()
    weights[name] = change(weights[name])
    assert [departure.tensor for departure in compare_start_weights(weights, config)] == [name]
