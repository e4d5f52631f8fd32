"""A sample's outputs depend on nothing but the sample: not on its batch mates, nor on the padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etrm.batch import Batch
from etrm.model.encoders import ENCODERS
from etrm.model.recursive import RecursiveModel, StepOutput
from tests.sampled import one_in

POOLED = [
    ("etrm", "mean"),
    ("etrm", "weighted"),
    ("etrm", "attention"),
    ("etrm_cached", "mean"),
    ("trm", "mean"),
]
OTHER_KINDS = [("etrm", kind) for kind in ENCODERS if kind != "standard"]
VARIANTS = [*POOLED, *OTHER_KINDS]
CLOSE = {"rtol": 0, "atol": 1e-4}
"""Of one ACT step. Rounding is fed back by the carry and grows; reading a wrong token is of order 1."""
KeptModel = Callable[[str, str], RecursiveModel]

sides = st.integers(1, 5)
sizes = st.tuples(sides, sides)


@dataclass(frozen=True)
class Shape:
    """Sizes of a sample's query and pairs."""

    query: tuple[int, int]
    pairs: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


shapes = st.builds(Shape, sizes, st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3).map(tuple))


@dataclass(frozen=True)
class Step:
    """One ACT step: which slots begin anew and with what, and how much padding is added."""

    begins: tuple[Shape | None, ...]
    padding: int
    demo_padding: int


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Two to five steps of one to three slots; all begin at the first."""
    slots = draw(st.integers(1, 3))

    def step(first: bool) -> Step:
        begins = tuple(draw(shapes if first else st.none() | shapes) for _ in range(slots))
        return Step(begins, draw(st.integers(0, 4)), draw(st.integers(0, 4)))

    return [step(number == 0) for number in range(draw(st.integers(2, 5)))]


def row_outputs(output: StepOutput, row: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    return output.logits[row, :length], output.q_halt[row], output.context[row]


def assert_rows_are_close(
    first: tuple[Tensor, ...], second: tuple[Tensor, ...], what: str, steps: int = 1, growth: int = 4
) -> None:
    atol = CLOSE["atol"] * growth ** (steps - 1)
    for name, ours, theirs in zip(("logits", "q_halt", "context"), first, second, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=atol, msg=lambda text, n=name: f"{what}, {n}: {text}"
        )


@pytest.mark.parametrize(("variant", "encoder"), one_in(2, POOLED))
@given(history=histories())
@settings(max_examples=12)
def test_every_row_of_a_persistent_carry_is_as_if_alone(
    world: Any, kept_model: KeptModel, variant: str, encoder: str, history: list[Step]
) -> None:
    assert_rows_are_as_if_alone(world, kept_model(variant, encoder), history)


@pytest.mark.parametrize(("variant", "encoder"), one_in(2, OTHER_KINDS))
@given(history=histories())
@settings(max_examples=5)
def test_every_row_of_another_encoder_is_as_if_alone(
    world: Any, kept_model: KeptModel, variant: str, encoder: str, history: list[Step]
) -> None:
    assert_rows_are_as_if_alone(world, kept_model(variant, encoder), history)


@torch.no_grad()
def assert_rows_are_as_if_alone(world: Any, model: RecursiveModel, history: list[Step]) -> None:
    growth = 5 if model.config.encoder.kind == "trm_style" else 4  # its own cycles amplify rounding too
    slots = len(history[0].begins)
    rows, alone = [None] * slots, [None] * slots
    carry = model.initial_carry(slots)
    for number, step in enumerate(history):
        begins = torch.tensor([shape is not None for shape in step.begins])
        for slot, shape in enumerate(step.begins):
            if shape is not None:
                rows[slot] = world.row(shape.query, shape.pairs, seed=31 * number + slot)
                alone[slot] = model.initial_carry(1)
            else:
                alone[slot] = replace(alone[slot], halted=torch.tensor([False]))
        carry, output = model(
            replace(carry, halted=begins), world.batch(rows, step.padding, step.demo_padding)
        )
        assert output.logits.isfinite().all()
        for slot, row in enumerate(rows):
            alone[slot], expected = model(alone[slot], world.batch([row]))
            length = len(row.tokens)
            assert_rows_are_close(
                row_outputs(output, slot, length),
                row_outputs(expected, 0, length),
                f"step {number}, slot {slot}",
                int(carry.steps[slot]),
                growth,
            )
            assert carry.steps[slot] == alone[slot].steps[0]


@pytest.mark.parametrize("variant", ["etrm", "etrm_cached", "trm"])
@given(st.lists(shapes, min_size=2, max_size=4), st.integers(0, 3))
@settings(max_examples=20)
def test_no_gradient_passes_between_rows(
    world: Any, kept_model: KeptModel, variant: str, given_shapes: list[Shape], asked: int
) -> None:
    """Brute force over what a row reads: its own context, its own tokens, its own states."""
    asked %= len(given_shapes)
    model = kept_model(variant, "mean")
    rows = [world.row(shape.query, shape.pairs, seed=i) for i, shape in enumerate(given_shapes)]
    batch = world.batch(rows, padding=1)
    length = model.core.context_tokens + batch.inputs.shape[1]
    torch.manual_seed(0)
    leaves = [torch.randn(len(rows), n, 16, requires_grad=True) for n in (length, length, 3)]
    # One H cycle alone, so that the states' gradient is not cut before them.
    z_H, z_L, context = leaves
    x = torch.cat((context, model.core.embed_tokens(batch.inputs)), dim=1)
    rotation = model.core.positions(model.core._with_context(batch.positions))
    mask = model.core._context_valid(batch.valid)
    z_H, _ = model.core._cycle(z_H, z_L, x, rotation, mask[:, None, None, :])
    (z_H[asked] * mask[asked, :, None]).square().sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        touched = leaf.grad.abs().amax(-1) > 0
        assert not touched[torch.arange(len(rows)) != asked].any()
    assert leaves[0].grad is not None
    own = leaves[0].grad[asked].abs().amax(-1) > 0
    assert own.tolist() == mask[asked].tolist()


@pytest.mark.parametrize(("variant", "encoder"), VARIANTS)
@torch.no_grad()
def test_what_lies_behind_a_rows_tokens_is_never_read(
    world: Any, kept_model: KeptModel, variant: str, encoder: str
) -> None:
    model = kept_model(variant, encoder)
    rows = [world.row((2, 2), seed=1), world.row((4, 5), seed=2)]
    batch = world.batch(rows)
    carry, _ = model(model.initial_carry(2), batch)
    _, expected = model(carry, batch)
    behind = torch.zeros(2, 3 + 20, dtype=torch.bool)
    behind[0, 3 + 4 :] = True
    junk = torch.where(behind[..., None], 1e3 * torch.randn(2, 23, 16), 0)
    spoilt = replace(carry, z_H=carry.z_H + junk, z_L=carry.z_L - junk)
    other_tokens = replace(batch, inputs=batch.inputs.masked_fill(behind[:, 3:], 7))
    _, found = model(spoilt, other_tokens)
    for row, length in enumerate((4, 20)):
        assert_rows_are_close(
            row_outputs(found, row, length), row_outputs(expected, row, length), f"row {row}"
        )


@torch.no_grad()
def test_the_states_that_a_row_keeps_are_not_lost_when_its_neighbour_changes_size(
    world: Any, kept_model: KeptModel
) -> None:
    """Grown then cut: the states of the row's own tokens stay bit for bit through both."""
    model = kept_model("etrm", "mean")
    small, large = world.row((2, 2), seed=1), world.row((5, 5), seed=2)
    carry, _ = model(model.initial_carry(2), world.batch([small, small]))
    core = model.core
    for length in (3 + 25, 3 + 4):
        fitted = replace(carry, halted=torch.tensor([False, True])).begin(length, core.H_init, core.L_init)
        assert torch.equal(fitted.z_H[0, :7], carry.z_H[0, :7])
        assert torch.equal(fitted.z_L[0, :7], carry.z_L[0, :7])
        carry = fitted
    assert len(large.tokens) == 25


@pytest.mark.parametrize(("variant", "encoder"), [("trm", "mean"), *(("etrm", kind) for kind in ENCODERS)])
@torch.no_grad()
def test_a_full_canvas_is_the_same_with_a_mask_and_without(
    world: Any, kept_model: KeptModel, variant: str, encoder: str
) -> None:
    """The published canvas has no mask; where every token exists, this makes no difference."""
    model = kept_model(variant, encoder)
    side = world.side
    rows = [world.row((side, side), [((side, side), (side, side))] * n, seed=n) for n in (1, 2)]
    region = world.batch(rows)
    published = replace(region, valid=None, demos=replace(region.demos, valid=None))
    carries = [model.initial_carry(2), model.initial_carry(2)]
    for _ in range(3):
        outputs = []
        for place, batch in enumerate((region, published)):
            carries[place], output = model(carries[place], batch)
            outputs.append(output)
        torch.testing.assert_close(outputs[0].logits, outputs[1].logits, **CLOSE)
        torch.testing.assert_close(outputs[0].q_halt, outputs[1].q_halt, **CLOSE)


@torch.no_grad()
def test_without_a_mask_padding_would_be_read(world: Any, kept_model: KeptModel) -> None:
    """The control of this file: what it checks is the mask's doing."""
    model = kept_model("etrm", "mean")
    row = world.row((2, 2), seed=1)

    def unmasked(padding: int) -> Tensor:
        batch: Batch = replace(world.batch([row], padding), valid=None)
        return model(model.initial_carry(1), batch)[1].logits[0, :4]

    assert not torch.allclose(unmasked(0), unmasked(3), atol=1e-3)
