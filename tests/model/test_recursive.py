from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.model.act import Carry
from etrm.model.recursive import RecursiveModel
from etrm.model.solve import solve

VARIANTS = ("etrm", "etrm_cached", "etrm_fct", "trm")
PAIR = ((2, 2), (2, 2))


@pytest.fixture
def batch(world: Any) -> Batch:
    """Three samples with one, two and three demos."""
    return world.batch([world.row((2, n), [PAIR] * n, seed=n) for n in (1, 2, 3)])


@pytest.fixture
def other(world: Any) -> Batch:
    """The same three slots, the first with another sample."""
    rows = [world.row((3, 3), [PAIR] * 2, seed=9), *(world.row((2, n), [PAIR] * n, seed=n) for n in (2, 3))]
    return world.batch(rows)


def encoder_gradient(model: RecursiveModel) -> dict[str, Tensor | None]:
    assert model.encoder is not None
    return {name: p.grad for name, p in model.encoder.named_parameters()}


def gradient_of(model: RecursiveModel, loss: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return encoder_gradient(model)


def after_one_step(model: RecursiveModel, batch: Batch, halted: list[bool]) -> Carry:
    carry, _ = model(model.initial_carry(batch.size), batch)
    return replace(carry, halted=torch.tensor(halted))


# -- which parts a variant has ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_a_table_or_an_encoder(world: Any, variant: str) -> None:
    model = world.model(world.config(variant))
    assert (model.encoder is None) == (variant == "trm")
    assert (model.puzzle_table is None) == (variant != "trm")


def test_the_puzzle_id_chooses_the_context_of_trm(world: Any, batch: Batch) -> None:
    model = world.model(world.config("trm"))
    _, output = model(model.initial_carry(3), batch)
    assert torch.equal(output.context[:, 0], model.puzzle_table.weights[batch.puzzle_ids])
    assert not output.context[:, 1:].any()


# -- ACT steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_carry_never_has_a_graph(world: Any, batch: Batch, variant: str) -> None:
    model = world.model(world.config(variant))
    carry, output = model(model.initial_carry(3), batch)
    assert output.logits.requires_grad
    for name in ("z_H", "z_L", "context"):
        value = getattr(carry, name)
        assert value is None or not value.requires_grad, name


def eager_to_halt(world: Any, variant: str = "etrm") -> RecursiveModel:
    model = world.model(world.config(variant, halt={"max_steps": 3, "exploration": 0.0}))
    with torch.no_grad():
        model.core.q_head.weight.zero_()
        model.core.q_head.bias.copy_(torch.tensor([5.0, -5.0]))  # index 0 is halt
    return model


def test_training_halts_by_itself_and_evaluation_runs_all_steps(world: Any, batch: Batch) -> None:
    model = eager_to_halt(world)
    carry, _ = model(model.initial_carry(3), batch)
    assert carry.halted.tolist() == [True] * 3
    model.eval()
    carry, seen = model.initial_carry(3), []
    for _ in range(3):
        carry, _ = model(carry, batch)
        seen.append(carry.halted.tolist())
    assert seen == [[False] * 3, [False] * 3, [True] * 3]


def test_with_fixed_time_rows_halt_together_whatever_they_predict(world: Any, batch: Batch) -> None:
    model = eager_to_halt(world, "etrm_fct").train()
    carry, steps = model.initial_carry(batch.size), model.config.halt.max_steps
    for step in range(1, 2 * steps + 1):
        carry, output = model(carry, batch)
        assert (output.q_halt > 0).all()
        assert carry.halted.tolist() == [step % steps == 0] * batch.size
    assert (model.steps_per_turn, eager_to_halt(world).steps_per_turn) == (steps, 1)


def test_training_uses_the_minimum_it_is_given(world: Any, batch: Batch) -> None:
    model = eager_to_halt(world)
    model.config = world.config(halt={"max_steps": 8, "exploration": 0.5})
    carry = replace(after_one_step(model, batch, [False] * 3), steps=torch.tensor([3, 3, 3]))

    def drawn(seed: int) -> list[bool]:
        minimum = model.draw_minimum(3, torch.Generator().manual_seed(seed))
        halted = model(carry, batch, minimum)[0].halted
        assert torch.equal(halted, minimum <= 4)
        return halted.tolist()

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 2


def test_steps_count_from_the_samples_beginning(world: Any, batch: Batch) -> None:
    model = world.model(world.config())
    carry = after_one_step(model, batch, [False, True, False])
    carry, _ = model(carry, batch)
    assert carry.steps.tolist() == [2, 1, 2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_solve_is_the_loop_of_all_steps_in_evaluation(world: Any, batch: Batch, variant: str) -> None:
    model = world.model(world.config(variant)).eval()
    carry, outputs = model.initial_carry(3), []
    with torch.no_grad():
        for _ in range(3):
            carry, output = model(carry, batch)
            outputs.append(output)
    solved = solve(model, batch)
    for name in ("logits", "q_halt", "context"):
        torch.testing.assert_close(getattr(solved, name), getattr(outputs[-1], name))
    assert not torch.allclose(solved.logits, outputs[0].logits, atol=1e-3)


def test_solve_encodes_the_demos_once(world: Any, batch: Batch) -> None:
    model = world.model(world.config()).eval()
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    solve(model, batch)
    assert len(calls) == 1


# -- where the encoder's gradient comes from ----------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_row_of_etrm_trains_the_encoder_whether_it_begins_or_not(
    world: Any, batch: Batch, row: int
) -> None:
    model = world.model(world.config())
    carry = after_one_step(model, batch, [row == 0, False, False])
    _, output = model(carry, batch)
    gradient = gradient_of(model, output.logits[row].square().sum())
    without = {name for name, g in gradient.items() if g is None or not g.any()}
    # Over one demonstration attention is 1 whatever query and key say: their gradient is rounding, or zero.
    alone = {name for name in gradient if name.endswith(("q_proj.weight", "k_proj.weight"))}
    assert without <= (alone if row == 0 else set())


def test_a_cached_context_trains_the_encoder_through_rows_that_begin_alone(
    world: Any, batch: Batch, other: Batch
) -> None:
    model = world.model(world.config("etrm_cached"))
    carry = after_one_step(model, batch, [True, False, False])
    _, output = model(carry, other)
    weight = torch.randn_like(output.logits)

    going_on = gradient_of(model, (weight * output.logits)[1:].sum())
    assert not any(g is not None and g.any() for g in going_on.values())
    found = gradient_of(model, (weight * output.logits).sum())

    # By hand: only the first row's context has a graph, the others are constants.
    assert carry.context is not None
    fresh = model.encoder(other.demos.select(torch.tensor([0]))).context
    context = torch.cat((fresh, carry.context[1:]))
    _, by_hand = model.step(carry, other, context)
    expected = gradient_of(model, (weight * by_hand.logits).sum())
    for name, gradient in expected.items():
        assert gradient is not None
        assert gradient.any(), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_cached_context_encodes_no_more_than_the_rows_that_begin(
    world: Any, batch: Batch, other: Batch
) -> None:
    model = world.model(world.config("etrm_cached"))
    carry = after_one_step(model, batch, [True, False, False])
    seen: list[Tensor] = []
    model.encoder.register_forward_hook(lambda module, args, out: seen.append(args[0].slots))
    model(carry, other)
    assert [slots.tolist() for slots in seen] == [[0]]


def test_a_cached_context_stays_while_its_row_goes_on(world: Any, batch: Batch, other: Batch) -> None:
    model = world.model(world.config("etrm_cached"))
    carry = after_one_step(model, batch, [True, False, False])
    before = carry.context
    with torch.no_grad():  # the encoder learns something else in the meantime
        for parameter in model.encoder.parameters():
            parameter.mul_(1.5)
    after, output = model(carry, other)
    assert torch.equal(output.context[1:], before[1:])
    assert torch.equal(after.context, output.context.detach())
    torch.testing.assert_close(output.context[0], model.encoder(other.demos).context[0], rtol=1e-4, atol=1e-5)


def test_a_cached_context_is_not_encoded_where_no_row_begins(world: Any, batch: Batch) -> None:
    model = world.model(world.config("etrm_cached"))
    carry = after_one_step(model, batch, [False] * 3)
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    _, output = model(carry, batch)
    assert calls == []
    assert not output.context.requires_grad


def test_etrm_follows_its_encoder_at_every_step(world: Any, batch: Batch) -> None:
    model = world.model(world.config())
    carry = after_one_step(model, batch, [False] * 3)
    assert carry.context is None
    with torch.no_grad():
        model.encoder.set_encoder.query_tokens.normal_()
    _, output = model(carry, batch)
    torch.testing.assert_close(output.context, model.encoder(batch.demos).context)
