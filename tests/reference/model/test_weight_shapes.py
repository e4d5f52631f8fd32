"""The weights of every model are those that the reference lists, and missing, additional and shared ones depart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from etrm.config import KINDS, ModelConfig, load, with_settings
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.model.weight_shapes import compare_shapes, context_shapes, core_shapes

PUZZLES = 7
SCALED = {"norm": "pre", "layer_scale": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    **{kind: {"encoder": {"kind": kind}} for kind in KINDS},
    **{f"{kind}, scaled": {"layers": 2, "encoder": {"kind": kind, **SCALED, "layers": 3}} for kind in KINDS},
    **{name: {"encoder": {"pooling": name, "set_layers": 2}} for name in ("attention", "weighted", "none")},
    "narrow": {"encoder": {"kind": "hybrid_variational", "latent_size": 3}, "context_tokens": 2},
    "odd width": {"hidden_size": 24, "num_heads": 3, "expansion": 9.5, "positions": "learned"},
    "trm": {"variant": "trm"},
    "etrm_cached": {"variant": "etrm_cached"},
    "mlp_t": {"mlp_t": True, "positions": "learned", "hidden_size": 4, "num_heads": 1, "expansion": 1.0},
}


def config_of(**changes: Any) -> ModelConfig:
    data = {"augmentations": 2, "canvas": "published"}
    return with_settings(load("smoke"), data=data, model=changes).model


def departures(model: Variant, config: ModelConfig) -> list[Departure]:
    parameters = {name for name, _ in model.named_parameters()}
    wanted = core_shapes(config) | context_shapes(config, PUZZLES)
    return list(compare_shapes(model.state_dict(), parameters, wanted))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_weights_of_its_settings(name: str) -> None:
    config = config_of(**MODELS[name])
    with torch.device("meta"):
        model = build_variant(config, puzzles=PUZZLES)
    assert departures(model, config) == []


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"layers": 2}, "core"),
        ({"positions": "learned"}, "core"),
        ({"expansion": 40.0}, "core"),
        ({"encoder": {"layers": 3}}, "encoder"),
        ({"encoder": {"set_layers": 2}}, "encoder"),
        ({"encoder": {"layer_scale": 0.1}}, "encoder"),
        ({"encoder": {"pooling": "weighted"}}, "encoder"),
        ({"encoder": {"kind": "lpn_variational", "latent_size": 3}}, "encoder"),
    ],
    ids=str,
)
@pytest.mark.parametrize("ignored", [True, False])
def test_a_setting_that_the_model_ignores_or_invents_departs(
    asked: dict[str, Any], part: str, ignored: bool
) -> None:
    configs = [config_of(**asked), config_of()]
    wanted, used = configs if ignored else reversed(configs)
    found = departures(build_variant(used), wanted)
    assert {one.stage for one in found} == {PipelineStage.MODEL}
    assert found[0].tensor.startswith(part)


def test_weights_that_two_names_share_and_trained_start_states_depart() -> None:
    config = config_of(layers=2)
    model: Any = build_variant(config)
    model.core.L_level.layers[1] = model.core.L_level.layers[0]
    model.encoder.grid_encoder.output_embed = model.encoder.grid_encoder.input_embed
    start = model.core.H_init
    del model.core.H_init
    model.core.H_init = nn.Parameter(start)
    found = {one.tensor for one in departures(model, config)}
    second = {name for name in core_shapes(config) if name.startswith("core.L_level.layers.1.")}
    assert found == {*second, "encoder.grid_encoder.output_embed.embedding_weight", "core.H_init"}
