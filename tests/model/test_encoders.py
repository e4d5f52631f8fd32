"""What holds for every kind of encoder, and what the LPN grid encoder computes."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from etrm.config import KNOBS, Config, EncoderConfig, EncoderKind, ModelConfig, load, with_settings
from etrm.errors import ConfigError
from etrm.model.encoders import ENCODERS, Encoder, build_encoder
from etrm.model.layers import rms_norm
from tests.errors import raises_code

KINDS = tuple(ENCODERS)
PAIRS = [((2, 2), (3, 1)), ((1, 4), (2, 2)), ((1, 1), (1, 1))]


def encoder_of(world: Any, kind: str, **encoder: Any) -> Encoder:
    return world.model(world.config(encoder={"kind": kind, **encoder})).encoder


def demos_of(world: Any, *counts: int) -> Any:
    """Rows with that many pairs of different sizes."""
    return world.batch([world.row((1, 1), PAIRS[:n], seed=i) for i, n in enumerate(counts)]).demos


# -- by kind ------------------------------------------------------------------------------------------


def test_every_kind_of_the_config_has_an_encoder() -> None:
    assert set(get_args(EncoderKind)) == set(ENCODERS)


@pytest.mark.parametrize(
    ("kind", "layers", "size"),
    [
        ("standard", 2, 10_506_240),
        ("lpn_standard", 4, 17_838_592),
        ("lpn_standard", 8, 31_470_080),
        ("hybrid_standard", 4, 17_060_352),
        ("recurrent", 2, 10_506_240 - 16 * 512),  # the state's start is a buffer, not P learned queries
        ("trm_style", 2, 10_506_240 - 16 * 512 + 3_407_872),  # two blocks in place of one cross-attention
        ("lpn_variational", 4, 17_838_592 + 2 * (512 * 512 + 512)),
        ("hybrid_variational", 4, 17_060_352 + 2 * (512 * 512 + 512) + 16 * 512 * 512),
    ],
)
def test_an_encoder_has_its_published_size(kind: EncoderKind, layers: int, size: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(encoder=EncoderConfig(kind=kind, layers=layers)), side=30)
    assert sum(p.numel() for p in encoder.parameters()) == size


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_has_its_shape_and_ignores_the_order_of_the_pairs(world: Any, kind: str) -> None:
    encoder = encoder_of(world, kind).eval()
    pairs = world.row((1, 1), PAIRS).pairs
    context = encoder(world.demos(pairs, [0, 0, 0], 1)).context
    assert context.shape == (1, 3, 16)
    turned = encoder(world.demos(pairs[::-1], [0, 0, 0], 1)).context
    torch.testing.assert_close(context, turned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_encoded_alike_alone_and_among_others(world: Any, kind: str) -> None:
    encoder = encoder_of(world, kind).eval()
    demos = demos_of(world, 1, 3, 2)
    together = encoder(demos).context
    for row in range(3):
        alone = encoder(demos.select(torch.tensor([row]))).context[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_a_row_moves_its_context_and_no_other(world: Any, kind: str) -> None:
    encoder = encoder_of(world, kind).eval()
    rows = [world.row((1, 1), PAIRS[:n], seed=n) for n in (1, 3, 2)]
    pairs, owner = [p for r in rows for p in r.pairs], [0, 1, 1, 1, 2, 2]
    before = encoder(world.demos(pairs, owner, 3)).context
    for place, row in enumerate(owner):
        tokens, positions = pairs[place]
        other = [*pairs[:place], (13 - tokens.clamp(2), positions), *pairs[place + 1 :]]
        moved = (encoder(world.demos(other, owner, 3)).context - before).abs().amax(dim=(1, 2)) > 1e-6
        assert moved.tolist() == [i == row for i in range(3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_the_context_of_each_row_trains_every_parameter(world: Any, kind: str, row: int) -> None:
    encoder = encoder_of(world, kind, layer_scale=0.5).train()
    context = encoder(demos_of(world, 2, 3, 2)).context
    (torch.randn_like(context[row]) * context[row]).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


# -- the config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_that_a_kind_does_not_have_is_refused(kind: EncoderKind, knob: str) -> None:
    value = {"pooling": "attention", "set_layers": 2, "latent_size": 7}[knob]
    encoder = {"kind": kind, knob: value}
    if kind in KNOBS[knob]:
        assert getattr(with_settings(load(), model={"encoder": encoder}).model.encoder, knob) == value
        return
    with raises_code(
        ConfigError, "config.encoder-setting-without-effect", f"model.encoder.{knob}", repr(value), repr(kind)
    ):
        with_settings(load(), model={"encoder": encoder})


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_every_kind_survives_its_json(kind: EncoderKind) -> None:
    config = with_settings(load(), model={"encoder": {"kind": kind}})
    assert Config.from_json(config.to_json()) == config


def test_an_unknown_kind_names_those_that_exist() -> None:
    with raises_code(ConfigError, "config.invalid-value", "model.encoder.kind", "'lpn_standard'"):
        with_settings(load(), model={"encoder": {"kind": "lpn"}})


# -- the LPN grid encoder -----------------------------------------------------------------------------


def lpn_by_hand(encoder: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    """One pair, one layer, one head: written from the formulas."""
    width, area = 16, encoder.area
    tables = (encoder.input_embed.embedding_weight, encoder.output_embed.embedding_weight)
    embedded = [4 * tables[int(p >= area)][t] for t, p in zip(tokens, positions, strict=True)]
    h = torch.stack([encoder.cls_token[0, 0], *embedded])
    block = encoder.layers[0]
    query, key, value = (rms_norm(h) @ block.self_attn.qkv_proj.weight.T).split(width, dim=1)

    def turned(x: Tensor, position: int) -> Tensor:
        angles = position / 10_000 ** (torch.arange(0, width, 2) / width)
        first, second = x.chunk(2)
        return torch.cat(
            (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
        )

    query, key = (
        torch.stack([x[0], *(turned(x[i + 1], int(p)) for i, p in enumerate(positions))])
        for x in (query, key)
    )
    h = h + (query @ key.T / 4).softmax(1) @ value @ block.self_attn.o_proj.weight.T
    gate, up = (rms_norm(h) @ block.mlp.gate_up_proj.weight.T).chunk(2, dim=1)
    h = h + (gate * gate.sigmoid() * up) @ block.mlp.down_proj.weight.T
    return rms_norm(h[0])


def test_a_pairs_vector_is_its_cls_token_by_hand(world: Any) -> None:
    model = world.model(world.config(encoder={"kind": "lpn_standard"}, num_heads=1))
    grid = model.encoder.grid_encoder
    tokens, positions = world.row((1, 1), [((2, 3), (3, 2))], seed=4).pairs[0]
    found = grid(world.demos([(tokens, positions)], [0], 1, padding=2))[0]
    torch.testing.assert_close(found, lpn_by_hand(grid, tokens, positions), rtol=1e-4, atol=1e-5)


def test_lpn_standard_is_the_mean_of_its_pairs_spread_over_the_tokens(world: Any) -> None:
    encoder = encoder_of(world, "lpn_standard")
    demos = demos_of(world, 1, 3)
    vectors = encoder.grid_encoder(demos)
    means = torch.stack((vectors[0], vectors[1:].mean(0)))
    expected = (means @ encoder.output_proj.weight.T).view(2, 3, 16)
    torch.testing.assert_close(encoder(demos).context, expected, rtol=1e-4, atol=1e-5)


def test_lpn_blocks_are_pre_norm_whatever_the_set_encoder_is(world: Any) -> None:
    for norm in ("post", "pre"):
        encoder = encoder_of(world, "hybrid_standard", norm=norm)
        assert [block.pre_norm for block in encoder.grid_encoder.layers] == [True]
        assert [layer.pre_norm for layer in encoder.set_encoder.layers] == [norm == "pre"]
