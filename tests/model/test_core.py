from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.config import ModelConfig
from etrm.model.core import Core
from etrm.model.puzzle import PuzzleTable


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
