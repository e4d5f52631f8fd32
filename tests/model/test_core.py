from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.config import ModelConfig
from etrm.errors import ArgumentError
from etrm.model.core import Core
from etrm.model.puzzle import PuzzleTable
from tests.errors import raises_code


def states(core: Core, rows: int, length: int) -> tuple[Tensor, Tensor]:
    width = core.H_init.shape[0]
    return core.H_init.expand(rows, length, width), core.L_init.expand(rows, length, width)


@pytest.fixture
def arguments() -> dict[str, Tensor | None]:
    """Two rows of four tokens behind a context of three."""
    torch.manual_seed(1)
    return {
        "context": torch.randn(2, 3, 16),
        "inputs": torch.randint(0, 12, (2, 4)),
        "positions": torch.tensor([[0, 1, 6, 7], [0, 1, 2, 3]]),
        "valid": None,
    }


@pytest.mark.parametrize("cycles", [(3, 6), (1, 1)])
def test_the_core_has_its_published_size(cycles: tuple[int, int]) -> None:
    with torch.device("meta"):
        core = Core(ModelConfig(H_cycles=cycles[0], L_cycles=cycles[1]), side=30)
    assert sum(p.numel() for p in core.parameters()) == 6_829_058


def test_the_start_states_are_buffers_and_never_trained(world: Any) -> None:
    core = Core(world.config(hidden_size=512, num_heads=2), world.side)
    assert not {"H_init", "L_init"} & {name for name, _ in core.named_parameters()}
    for start in (core.H_init, core.L_init):
        assert start.std().item() == pytest.approx(1, rel=0.15)
    assert not torch.equal(core.H_init, core.L_init)


def test_only_what_was_learned_stands_in_a_checkpoint(world: Any) -> None:
    """14 tensors at two layers: 12 parameters and the two start states; rotary tables are recomputed."""
    assert len(Core(world.config(layers=2), world.side).state_dict()) == 14


def test_halting_is_unlikely_at_the_start_whatever_the_state(
    world: Any, arguments: dict[str, Tensor]
) -> None:
    core = Core(world.config(), world.side)
    assert not core.q_head.weight.any()
    *_, q = core(*states(core, 2, 7), **arguments)
    torch.testing.assert_close(q, torch.full((2, 2), -5.0))


def grad_calls(core: Core, arguments: dict[str, Tensor]) -> list[bool]:
    """For each call of the shared module, whether it had a graph."""
    seen: list[bool] = []
    handle = core.L_level.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    core(*states(core, 2, 7), **arguments)
    handle.remove()
    return seen


@pytest.mark.parametrize(("H_cycles", "L_cycles"), [(1, 2), (3, 1), (3, 4)])
def test_only_the_last_H_cycle_has_a_graph(
    world: Any, arguments: dict[str, Tensor], H_cycles: int, L_cycles: int
) -> None:
    core = Core(world.config(H_cycles=H_cycles, L_cycles=L_cycles), world.side)
    cycle = L_cycles + 1
    assert grad_calls(core, arguments) == [False] * cycle * (H_cycles - 1) + [True] * cycle


def test_gradients_are_those_of_one_cycle_from_where_the_others_led(
    world: Any, arguments: dict[str, Tensor]
) -> None:
    model = world.model(world.config(H_cycles=3, L_cycles=2))
    whole = model.core
    first, last = (world.model(world.config(H_cycles=n, L_cycles=2)).core for n in (2, 1))
    first.load_state_dict(whole.state_dict())
    last.load_state_dict(whole.state_dict())
    *_, logits, q = whole(*states(whole, 2, 7), **arguments)
    (logits.square().sum() + q.sum()).backward()
    with torch.no_grad():
        z_H, z_L, _, _ = first(*states(first, 2, 7), **arguments)
    *_, logits, q = last(z_H, z_L, **arguments)
    (logits.square().sum() + q.sum()).backward()
    for (name, ours), theirs in zip(whole.named_parameters(), last.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.any(), name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


class Adds(nn.Module):
    """A stand-in for the shared module that makes the order of the calls visible: f(h, u) = 2h + u."""

    def forward(self, state: Tensor, injected: Tensor, rotation: object, mask: object) -> Tensor:
        return 2 * state + injected


def test_cycles_refine_L_with_H_and_the_input_and_then_H_with_L(
    world: Any, arguments: dict[str, Tensor]
) -> None:
    core = Core(world.config(H_cycles=2, L_cycles=3), world.side)
    core.L_level = Adds()
    embedded = core.embed_tokens.embedding_weight[arguments["inputs"]]
    x = 4 * torch.cat((arguments["context"], embedded), dim=1)  # 4 = sqrt(16)
    z_H, z_L = states(core, 2, 7)
    expected_H, expected_L = z_H, z_L
    for _ in range(2):
        for _ in range(3):
            expected_L = 2 * expected_L + expected_H + x
        expected_H = 2 * expected_H + expected_L
    found_H, found_L, logits, _ = core(z_H, z_L, **arguments)
    torch.testing.assert_close(found_L, expected_L)
    torch.testing.assert_close(found_H, expected_H)
    torch.testing.assert_close(logits, expected_H[:, 3:] @ core.lm_head.weight.T, rtol=1e-4, atol=1e-3)


def test_query_positions_stand_behind_those_of_the_context(world: Any, arguments: dict[str, Tensor]) -> None:
    core = Core(world.config(), world.side)
    seen: list[Tensor] = []
    core.positions.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    core(*states(core, 2, 7), **arguments)
    assert seen[0].tolist() == [[0, 1, 2, 3, 4, 9, 10], [0, 1, 2, 3, 4, 5, 6]]


# -- positions ----------------------------------------------------------------------------------------


def what_enters(core: Core, arguments: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """The input x of the first call of the shared module (injected there as z_H + x), and its rotation."""
    seen: list[tuple[Any, ...]] = []
    handle = core.L_level.register_forward_hook(lambda module, args, out: seen.append(args))
    z_H, z_L = states(core, 2, 7)
    core(z_H, z_L, **arguments)
    handle.remove()
    _, injected, rotation, _ = seen[0]
    return injected - z_H, rotation


@pytest.mark.parametrize("kind", ["rope", "none"])
def test_rotary_or_no_positions_leave_the_input_alone(
    world: Any, arguments: dict[str, Tensor], kind: str
) -> None:
    core = world.model(world.config(positions=kind)).core
    x, rotation = what_enters(core, arguments)
    expected = 4 * torch.cat((arguments["context"], core.embed_tokens(arguments["inputs"])), dim=1)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    assert (rotation is None) == (kind == "none")


def test_learned_positions_are_added_by_place_and_the_sum_is_scaled(
    world: Any, arguments: dict[str, Tensor]
) -> None:
    core = world.model(world.config(positions="learned")).core
    x, rotation = what_enters(core, arguments)
    assert rotation is None
    table = core.embed_pos.embedding_weight
    assert table.shape == (3 + world.side**2, 16)
    content = torch.cat((arguments["context"], core.embed_tokens(arguments["inputs"])), dim=1)
    # Query tokens fill the whole canvas and follow the three of the context.
    places = [[0, 1, 2, 3, 4, 9, 10], [0, 1, 2, 3, 4, 5, 6]]
    for row in range(2):
        for token, place in enumerate(places[row]):
            expected = 4 * 0.7071 * (content[row, token] + table[place])
            torch.testing.assert_close(x[row, token], expected, rtol=1e-4, atol=1e-4)


def test_a_learned_place_starts_with_the_std_of_a_token(world: Any) -> None:
    core = Core(world.config(positions="learned", hidden_size=64), world.side)
    assert core.embed_pos.embedding_weight.std().item() == pytest.approx(1 / 8, rel=0.05)


def test_without_positions_the_core_does_not_see_the_order_of_its_tokens(
    world: Any, arguments: dict[str, Tensor]
) -> None:
    order = torch.tensor([2, 0, 3, 1])
    turned = arguments | {"inputs": arguments["inputs"][:, order]}
    for kind, blind in (("none", True), ("rope", False), ("learned", False)):
        core = world.model(world.config(positions=kind)).core
        logits, moved = (core(*states(core, 2, 7), **given)[2] for given in (arguments, turned))
        assert torch.allclose(logits[:, order], moved, atol=1e-4) == blind


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"positions": "none"}, 0),
        ({"positions": "learned"}, 916 * 512),
        # Two blocks: qkv and output projection out, 916 -> 2 x 2560 -> 916 over the tokens in.
        ({"mlp_t": True}, 2 * (3 * 2560 * 916 - 4 * 512 * 512)),
    ],
)
def test_the_size_of_a_core_with_other_positions_or_mixing(given: dict[str, Any], more: int) -> None:
    with torch.device("meta"):
        core = Core(ModelConfig(**given), side=30)
    assert sum(p.numel() for p in core.parameters()) == 6_829_058 + more


# -- mixing tokens without attention ------------------------------------------------------------------


def whole_canvas(world: Any) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    area = world.side**2
    return {
        "context": torch.randn(2, 3, 16),
        "inputs": torch.randint(0, 12, (2, area)),
        "positions": torch.arange(area).expand(2, -1),
        "valid": None,
    }


def test_a_core_that_mixes_tokens_trains_every_parameter_and_rotates_nothing(world: Any) -> None:
    core = world.model(world.config(mlp_t=True)).core
    assert core.positions is None
    *_, logits, q = core(*states(core, 2, 39), **whole_canvas(world))
    (logits.square().sum() + q.sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in core.parameters())


def test_a_core_that_mixes_tokens_refuses_a_mask(world: Any) -> None:
    core = world.model(world.config(mlp_t=True)).core
    valid = torch.ones(2, 36, dtype=torch.bool)
    with raises_code(ArgumentError, "model.mlp-leaves-out-tokens"):
        core(*states(core, 2, 39), **(whole_canvas(world) | {"valid": valid}))


# -- TRM's context ------------------------------------------------------------------------------------


def test_a_puzzle_vector_fills_the_first_context_token_alone() -> None:
    table = PuzzleTable(puzzles=4, context_tokens=3, hidden_size=2)
    assert not table.weights.any()
    with torch.no_grad():
        table.weights.copy_(torch.arange(8.0).view(4, 2))
    expected = [[[6, 7], [0, 0], [0, 0]], [[2, 3], [0, 0], [0, 0]]]
    assert table(torch.tensor([3, 1])).tolist() == expected


def test_the_gradient_of_the_table_is_sparse_and_sums_repeated_ids() -> None:
    table = PuzzleTable(puzzles=4, context_tokens=2, hidden_size=1)
    weight = torch.tensor([1.0, 10.0, 100.0])
    (table(torch.tensor([2, 0, 2]))[:, 0, 0] * weight).sum().backward()
    assert table.weights.grad is not None
    assert table.weights.grad.is_sparse
    assert table.weights.grad.to_dense().flatten().tolist() == [10, 0, 101, 0]
