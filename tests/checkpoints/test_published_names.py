from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from etrm.checkpoints.published_names import (
    strip_wrappers,
    to_our_name,
    to_our_settings,
    to_published_name,
    to_published_settings,
)
from etrm.config import ModelConfig
from etrm.errors import CheckpointError
from etrm.model.encoders import ENCODERS
from etrm.model.recursive import RecursiveModel
from tests.errors import raises_code

PARITY = Path(__file__).parent.parent / "parity"
WRAPPERS = st.lists(st.sampled_from(["_orig_mod.", "module.", "model."]), max_size=6).map("".join)


def models() -> Iterator[tuple[str, ModelConfig]]:
    """Every variant, kind of encoder and kind of parameter that there is."""
    yield "trm", ModelConfig(variant="trm")
    yield "learned", ModelConfig(variant="trm", positions="learned")
    yield "mlp_t", ModelConfig(variant="trm", mlp_t=True, mlp_t_norm="tokens")
    for kind in ENCODERS:
        scale = 0.0 if kind in ("recurrent", "trm_style") else 0.1
        yield kind, ModelConfig(encoder={"kind": kind, "layer_scale": scale})
    for pooling in ("weighted", "attention"):
        yield pooling, ModelConfig(encoder={"pooling": pooling})


MODELS = dict(models())


def names_of(config: ModelConfig) -> list[str]:
    with torch.device("meta"):
        return list(RecursiveModel(config, puzzles=2, side=2).state_dict())


# -- names --------------------------------------------------------------------------------------------


@given(WRAPPERS)
def test_wrappers_are_stripped_in_any_order_and_number(wrappers: str) -> None:
    assert strip_wrappers(wrappers + "inner.lm_head.weight") == "inner.lm_head.weight"


@pytest.mark.parametrize("name", ["core.model.weight", "modules.weight", "inner.module.weight"])
def test_only_what_stands_in_front_is_stripped(name: str) -> None:
    assert strip_wrappers(name) == name


@pytest.mark.parametrize("model", MODELS)
def test_every_name_of_every_model_goes_there_and_back(model: str) -> None:
    config = MODELS[model]
    ours = names_of(config)
    theirs = [to_published_name(name, config.encoder.kind) for name in ours]
    assert len(set(theirs)) == len(ours)
    assert [to_our_name(name) for name in theirs] == ours
    assert [to_our_name("_orig_mod." + name) for name in theirs] == ours
    assert [to_our_name(name) for name in ours] == ours


@pytest.mark.parametrize("case", sorted(path.name for path in PARITY.iterdir()))
def test_published_files_have_the_published_names(case: str) -> None:
    theirs = set(load_file(PARITY / case / "weights.safetensors"))
    kind = case.removeprefix("etrm_") if "hybrid" in case or "lpn" in case else "standard"
    assert {to_published_name(to_our_name(name), kind) for name in theirs} == theirs


@pytest.mark.parametrize(
    ("theirs", "kind", "ours"),
    [  # read off the constructors of bdsaglam/etrm; no parity case has these encoders
        ("encoder.z_e_init", "recurrent", "encoder.z_init"),
        ("encoder.cross_attn.k_proj.weight", "recurrent", "encoder.cross_attention.k_proj.weight"),
        ("encoder.mlp.down_proj.weight", "recurrent", "encoder.cross_attention.mlp.down_proj.weight"),
        ("encoder.z_e_H_init", "trm_style", "encoder.z_H_init"),
        (
            "encoder.L_level.layers.1.self_attn.o_proj.weight",
            "trm_style",
            "encoder.layers.1.self_attn.o_proj.weight",
        ),
        ("encoder.mu_proj.bias", "lpn_variational", "encoder.latent.mu_proj.bias"),
        ("encoder.output_proj.weight", "lpn_variational", "encoder.output_proj.weight"),
        ("encoder.decode_proj.weight", "hybrid_variational", "encoder.output_proj.weight"),
        (
            "encoder.grid_encoder.layers.0.qkv_proj.weight",
            "lpn_standard",
            "encoder.grid_encoder.layers.0.self_attn.qkv_proj.weight",
        ),
        ("inner.puzzle_emb.weights", "standard", "puzzle_table.weights"),
        (
            "inner.L_level.layers.0.mlp_t.gate_up_proj.weight",
            "standard",
            "core.L_level.layers.0.mlp_t.gate_up_proj.weight",
        ),
    ],
)
def test_names_that_no_parity_case_has(theirs: str, kind: str, ours: str) -> None:
    assert to_our_name(theirs) == ours
    assert to_published_name(ours, kind) == "model." + theirs
    assert ours in {name for config in MODELS.values() for name in names_of(config)}


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_settings_of_a_model_go_there_and_back(model: str) -> None:
    config = MODELS[model]
    found = to_our_settings(to_published_settings(config), config.variant, config.encoder.kind)
    for name, value in found.items():
        section, _, knob = name.rpartition(".")
        assert getattr(getattr(config, section) if section else config, knob) == value, name
    assert {"num_heads", "H_cycles", "L_cycles", "halt.max_steps", "positions"} <= found.keys()
    assert ("encoder.norm" in found) is (config.variant == "etrm")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"qk_norm": True}, "model.qk_norm"),
        ({"encoder": {"qk_norm": True}}, "model.encoder.qk_norm"),
        ({"mlp_t": True}, "model.mlp_t_norm"),
        ({"encoder": {"kind": "recurrent", "layer_scale": 0.1}}, "model.encoder.layer_scale"),
    ],
)
def test_a_model_that_the_published_code_cannot_compute_has_no_published_settings(
    changed: dict[str, object], named: str
) -> None:
    with raises_code(CheckpointError, "export.other-function", got=named) as caught:
        to_published_settings(ModelConfig(**changed))
    assert caught.value.got == named


def test_what_the_settings_of_an_encoder_say_is_nothing_to_a_model_without_one() -> None:
    given = ModelConfig(variant="trm", encoder={"qk_norm": True, "kind": "recurrent", "layer_scale": 0.1})
    assert to_published_settings(given) == to_published_settings(ModelConfig(variant="trm"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"encoder_type": "lpn_variational_v2"}, "lpn_variational"),
        ({"encoder_type": "standard"}, "hybrid_standard"),
        ({"vocab_size": 11}, "standard"),
        ({"recurrent_encoder_type": "trm_style"}, "recurrent"),
        ({"encoder_h_cycles": 2}, "trm_style"),
    ],
)
def test_settings_of_another_model_are_refused(values: dict[str, object], kind: str) -> None:
    with raises_code(CheckpointError, "import.settings-of-other-model") as caught:
        to_our_settings(values, "etrm", kind)
    assert next(iter(values)) in caught.value.got
    assert to_our_settings(values | {"vocab_size": 12}, "trm", "standard") == {}


def test_settings_that_say_nothing_of_this_model_are_passed_over() -> None:
    values = {"encoder_pooling_method": "mean", "encoder_type": "lpn_standard", "freeze_encoder": False}
    assert to_our_settings(values | {"H_cycles": 3}, "etrm", "lpn_standard") == {"H_cycles": 3}
