"""What the trainer records of layers, against the gradient norms of the whole parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from etrm.config import Config
from etrm.training.monitoring.observer import LAYER, name_layer
from etrm.training.trainer import Trainer

Smoke = Callable[..., Config]


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("encoder.grid_encoder.layers.0.mlp.down_proj.weight", "encoder.grid_encoder.layers.0"),
        ("encoder.set_encoder.query_tokens", "encoder.set_encoder"),
        ("core.lm_head.weight", "core.lm_head"),
        ("weight", "weight"),
        ("head.weight", "head"),
    ],
)
def test_a_layer_ends_at_the_first_number(parameter: str, layer: str) -> None:
    assert name_layer(parameter) == layer


def test_the_norms_of_the_layers_add_up_to_those_of_their_parts(smoke: Smoke) -> None:
    trainer = Trainer(smoke("data.buckets=1", "monitor.layers=true"))
    metrics = trainer.train_step()
    layers = {key.removeprefix(LAYER): value for key, value in metrics.items() if key.startswith(LAYER)}
    for part in ("encoder", "core"):
        norms = [value for name, value in layers.items() if name.split(".")[0] == part and value is not None]
        assert len(norms) > 2
        assert math.hypot(*norms) == pytest.approx(metrics[f"{part}.grad_norm_pre_clip"], rel=1e-4)
    known = [value for value in layers.values() if value is not None]
    assert math.hypot(*known) == pytest.approx(metrics["grad_norm_before_clip"], rel=1e-4)


def test_layers_are_not_recorded_unless_requested(smoke: Smoke) -> None:
    metrics = Trainer(smoke("data.buckets=1")).train_step()
    assert not [key for key in metrics if key.startswith(LAYER)]
