"""The stateful encoders: what a step computes, what is carried, and where gradients end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import STATEFUL, load, with_settings
from etrm.errors import ConfigError
from etrm.model.encoders import ENCODERS
from etrm.model.layers import rms_norm
from etrm.model.recursive import RecursiveModel, encode_at_reset
from etrm.model.solve import solve
from tests.errors import raises_code

PAIRS = [((2, 2), (3, 1)), ((1, 4), (2, 2)), ((1, 1), (1, 1))]
FIRST = {"recurrent": "z", "trm_style": "z_H"}
"""The state that the context is made of."""


@pytest.fixture
def batch(world: Any) -> Batch:
    return world.batch([world.row((2, n), PAIRS[:n], seed=n) for n in (1, 3, 2)])


@pytest.fixture
def other(world: Any) -> Batch:
    """The same slots, the second with another sample."""
    rows = [world.row((2, n), PAIRS[:n], seed=s) for n, s in ((1, 1), (2, 8), (2, 2))]
    return world.batch(rows)


def model_of(world: Any, kind: str, **given: Any) -> RecursiveModel:
    return world.model(world.config(encoder={"kind": kind}, **given))


def test_the_config_knows_which_kinds_are_stateful(world: Any) -> None:
    stateful = {kind for kind in ENCODERS if model_of(world, kind).encoder.initial_state()}
    assert stateful == set(STATEFUL)


def test_a_cached_context_would_never_move_a_state_and_is_refused(world: Any) -> None:
    for kind in STATEFUL:
        with raises_code(ConfigError, "config.cached-context-of-stateful-encoder", repr(kind), "etrm_cached"):
            with_settings(load(), model={"encoder": {"kind": kind}, "variant": "etrm_cached"})


# -- one step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_state_starts_from_buffers_of_std_one(world: Any, kind: str) -> None:
    encoder = model_of(world, kind, context_tokens=16, hidden_size=64).encoder
    named = dict(encoder.named_parameters())
    for name, start in encoder.initial_state().items():
        assert f"{name}_init" not in named
        assert f"{name}_init" in encoder.state_dict()
        assert start.shape == (16, 64)
        assert start.std().item() == pytest.approx(1, rel=0.1)


def test_recurrent_is_one_cross_attention_of_the_state_by_hand(world: Any, batch: Batch) -> None:
    encoder = model_of(world, "recurrent", num_heads=1).encoder
    vectors = encoder.grid_encoder(batch.demos)
    block, z = encoder.cross_attention, encoder.z_init
    encoded = encoder(batch.demos)
    for row, own in enumerate((slice(0, 1), slice(1, 4), slice(4, 6))):
        items = vectors[own]
        scores = (z @ block.q_proj.weight.T) @ (items @ block.k_proj.weight.T).T / 4
        mixed = scores.softmax(1) @ (items @ block.v_proj.weight.T) @ block.o_proj.weight.T
        h = rms_norm(z + mixed)
        h = rms_norm(h + block.mlp(h))
        expected = 0.9 * z + 0.1 * h
        torch.testing.assert_close(encoded.context[row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoded.state["z"][row], expected, rtol=1e-4, atol=1e-5)


def test_trm_style_runs_the_cores_cycles_on_the_mean_pair_vector(world: Any, batch: Batch) -> None:
    encoder = model_of(world, "trm_style").encoder
    vectors = encoder.grid_encoder(batch.demos)
    x = torch.stack([vectors[:1].mean(0), vectors[1:4].mean(0), vectors[4:].mean(0)])[:, None]
    rotation = encoder.positions(torch.arange(3)[None])

    def f(h: Tensor, u: Tensor) -> Tensor:
        h = h + u
        for block in encoder.layers:
            h = block(h, rotation, None)
        return h

    z_H, z_L = start_H, start_L = encoder.z_H_init.expand(3, -1, -1), encoder.z_L_init.expand(3, -1, -1)
    for _ in range(3):
        for _ in range(4):
            z_L = f(z_L, z_H + x)
        z_H = f(z_H, z_L)
    encoded = encoder(batch.demos)
    assert len(encoder.layers) == 2
    torch.testing.assert_close(encoded.context, 0.9 * start_H + 0.1 * z_H, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.state["z_H"], encoded.context)
    torch.testing.assert_close(encoded.state["z_L"], 0.9 * start_L + 0.1 * z_L, rtol=1e-4, atol=1e-5)


def test_only_the_last_H_cycle_of_trm_style_has_a_graph(world: Any, batch: Batch) -> None:
    encoder = model_of(world, "trm_style").encoder
    seen: list[bool] = []
    encoder.layers[0].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    encoder(batch.demos)
    assert seen == [False] * 10 + [True] * 5


# -- what is carried ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STATEFUL)
def test_rows_that_begin_start_anew_and_the_others_go_on_from_their_state(
    world: Any, batch: Batch, other: Batch, kind: str
) -> None:
    model = model_of(world, kind)
    first, _ = model(model.initial_carry(3), batch)
    halted = torch.tensor([False, True, False])
    second, output = model(replace(first, halted=halted), other)
    started = model.encoder(other.demos)
    went_on = model.encoder(other.demos, first.encoder_state)
    for row in range(3):
        source = started if halted[row] else went_on
        torch.testing.assert_close(output.context[row], source.context[row])
        for name, value in source.state.items():
            torch.testing.assert_close(second.encoder_state[name][row], value[row])
    assert not torch.allclose(started.context, went_on.context, atol=1e-3)


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_is_carried_has_no_graph_and_the_context_of_the_step_has(
    world: Any, batch: Batch, kind: str
) -> None:
    model = model_of(world, kind)
    carry, output = model(model.initial_carry(3), batch)
    assert output.context.requires_grad
    assert not any(value.requires_grad for value in carry.encoder_state.values())
    torch.testing.assert_close(carry.encoder_state[FIRST[kind]], output.context)


@pytest.mark.parametrize("kind", STATEFUL)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_row_trains_every_parameter_whether_it_begins_or_not(
    world: Any, batch: Batch, kind: str, row: int
) -> None:
    model = model_of(world, kind)
    carry, _ = model(model.initial_carry(3), batch)
    _, output = model(replace(carry, halted=torch.tensor([row == 0, False, False])), batch)
    model.zero_grad(set_to_none=True)
    output.logits[row].square().sum().backward()
    gradient = {name: p.grad for name, p in model.encoder.named_parameters()}
    without = {name for name, g in gradient.items() if g is None or not g.any()}
    # Over one demonstration attention is 1 whatever query and key say: their gradient is rounding, or zero.
    alone = {name for name in gradient if name.endswith(("q_proj.weight", "k_proj.weight"))}
    assert without <= (alone if row == 0 else set())


@pytest.mark.parametrize("kind", STATEFUL)
def test_no_gradient_goes_through_the_state_that_was_carried(world: Any, batch: Batch, kind: str) -> None:
    encoder = model_of(world, kind).encoder
    state = {n: v.expand(3, -1, -1).clone().requires_grad_() for n, v in encoder.initial_state().items()}
    encoder(batch.demos, state).context.sum().backward()
    assert all(value.grad is None for value in state.values())


def test_recurrent_attends_to_existing_pairs_alone(world: Any, batch: Batch) -> None:
    encoder = model_of(world, "recurrent").encoder
    pairs, mask = encoder.pair_sets(batch.demos)
    spoilt = torch.where(mask[..., None], pairs, 1e3)
    torch.testing.assert_close(encoder.read(pairs, mask).context, encoder.read(spoilt, mask).context)


# -- policies and evaluation --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STATEFUL)
def test_solve_moves_the_context_on_at_every_step(world: Any, batch: Batch, kind: str) -> None:
    model = model_of(world, kind).eval()
    carry, contexts = model.initial_carry(3), []
    with torch.no_grad():
        for _ in range(3):
            carry, output = model(carry, batch)
            contexts.append(output.context)
    solved = solve(model, batch)
    for name in ("logits", "q_halt", "context"):
        torch.testing.assert_close(getattr(solved, name), getattr(output, name))
    assert not torch.allclose(contexts[0], contexts[-1], atol=1e-3)


@pytest.mark.parametrize("kind", STATEFUL)
def test_solve_keeps_the_pair_vectors(world: Any, batch: Batch, kind: str) -> None:
    model = model_of(world, kind, halt={"max_steps": 6, "exploration": 0.0}).eval()
    calls: list[int] = []
    model.encoder.grid_encoder.register_forward_hook(lambda *_: calls.append(1))
    solve(model, batch)
    assert len(calls) <= 2


@pytest.mark.parametrize("kind", STATEFUL)
def test_the_fault_of_caching_makes_one_step_from_the_start(world: Any, batch: Batch, kind: str) -> None:
    model = model_of(world, kind)
    model.context_policy = encode_at_reset
    carry, output = model(model.initial_carry(3), batch)
    torch.testing.assert_close(output.context, model.encoder(batch.demos).context)
    assert carry.encoder_state is None
    _, again = model(replace(carry, halted=torch.zeros(3, dtype=torch.bool)), batch)
    assert torch.equal(again.context, carry.context)
