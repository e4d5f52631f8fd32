"""Answers against the loop of all ACT steps, written out row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.model.recursive import RecursiveModel, StepOutput
from etrm.model.solve import solve

MODELS = [
    ("etrm", "standard"),
    ("etrm", "lpn_variational"),
    ("etrm", "recurrent"),
    ("etrm", "trm_style"),
    ("etrm_cached", "standard"),
    ("trm", "standard"),
]
STEPS, PAIR = 6, ((2, 2), (2, 1))
SIZES = ((1, 2), (3, 3), (2, 2), (4, 3), (1, 1), (5, 5))


@pytest.fixture
def batch(world: Any) -> Batch:
    """Six samples of six sizes with one to three demos, the largest last."""
    return world.batch([world.row(size, [PAIR] * (1 + i % 3), seed=i) for i, size in enumerate(SIZES)])


def model_of(world: Any, variant: str, kind: str) -> RecursiveModel:
    config = world.config(variant, encoder={"kind": kind}, halt={"max_steps": STEPS, "exploration": 0.5})
    return world.model(config).eval()


def every_step(model: RecursiveModel, batch: Batch) -> list[StepOutput]:
    """What the model says at each step when nobody leaves, its context computed anew every time."""
    carry, outputs = model.initial_carry(batch.size), []
    with torch.no_grad():
        for _ in range(STEPS):
            carry, output = model(carry, batch)
            outputs.append(output)
    return outputs


def shift_halting(model: RecursiveModel, outputs: list[StepOutput]) -> Tensor:
    """Move the halting logits so that rows leave at different steps; the step of each, (B,) from 1."""
    logits = torch.stack([output.q_halt for output in outputs])  # (steps, B)
    best: tuple[int, float, Tensor] | None = None
    for bar in logits.flatten().tolist():
        cut = bar + 1e-3
        positive = logits > cut
        leaves = torch.where(positive.any(0), positive.int().argmax(0) + 1, STEPS)
        if (logits - cut).abs().min() > 5e-4 and (best is None or len(leaves.unique()) > best[0]):
            best = (len(leaves.unique()), cut, leaves)
    assert best is not None
    assert best[0] > 1, "no bar makes rows leave at different steps"
    with torch.no_grad():
        model.core.q_head.bias[0] -= best[1]
    return best[2]


@pytest.mark.parametrize(("variant", "kind"), MODELS)
def test_a_row_that_leaves_early_says_what_it_said_at_that_step(
    world: Any, batch: Batch, variant: str, kind: str
) -> None:
    model = model_of(world, variant, kind)
    leaves = shift_halting(model, every_step(model, batch))
    outputs, found = every_step(model, batch), solve(model, batch, early=True)
    assert torch.equal(found.steps, leaves)
    assert found.logits.shape == outputs[0].logits.shape
    for row, step in enumerate(leaves.tolist()):
        then = outputs[step - 1]
        real = slice(0, int(batch.valid[row].sum()))
        torch.testing.assert_close(found.logits[row, real], then.logits[row, real], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.q_halt[row], then.q_halt[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.context[row], then.context[row], rtol=1e-4, atol=1e-4)
        if then.kl is not None:
            torch.testing.assert_close(found.kl[row], outputs[0].kl[row])


@pytest.mark.parametrize(("variant", "kind"), MODELS)
def test_by_default_every_row_takes_every_step(world: Any, batch: Batch, variant: str, kind: str) -> None:
    model = model_of(world, variant, kind)
    shift_halting(model, every_step(model, batch))
    last, found = every_step(model, batch)[-1], solve(model, batch)
    assert found.steps.tolist() == [STEPS] * len(SIZES)
    for name in ("logits", "q_halt", "context"):
        torch.testing.assert_close(getattr(found, name), getattr(last, name))


def test_the_core_sees_no_row_after_it_left_and_no_needless_padding(world: Any, batch: Batch) -> None:
    model = model_of(world, "etrm", "standard")
    leaves = shift_halting(model, every_step(model, batch))
    seen: list[tuple[int, int]] = []
    model.core.register_forward_hook(lambda module, args, out: seen.append(tuple(args[3].shape)))
    solve(model, batch, early=True)
    lengths = torch.tensor([height * width for height, width in SIZES])
    for step, (rows, length) in enumerate(seen, start=1):
        present = leaves >= step
        assert rows == int(present.sum())
        assert length == int(lengths[present].max())
    assert len(seen) == int(leaves.max())


def test_nothing_runs_once_every_row_has_left(world: Any, batch: Batch) -> None:
    model = model_of(world, "etrm", "standard")
    with torch.no_grad():
        model.core.q_head.bias[0] += 1e4
    calls: list[int] = []
    model.core.register_forward_hook(lambda *_: calls.append(1))
    found = solve(model, batch, early=True)
    assert (len(calls), found.steps.tolist()) == (1, [1] * len(SIZES))
    first = every_step(model, batch)[0]
    torch.testing.assert_close(found.logits, first.logits)


def test_a_logit_of_exactly_zero_goes_on(world: Any, batch: Batch) -> None:
    model = model_of(world, "etrm", "standard")
    with torch.no_grad():
        model.core.q_head.weight.zero_()
        model.core.q_head.bias.zero_()
    assert solve(model, batch, early=True).steps.tolist() == [STEPS] * len(SIZES)


def test_the_whole_canvas_needs_no_mask(world: Any, batch: Batch) -> None:
    whole = replace(batch, valid=None, demos=replace(batch.demos, valid=None))
    model = model_of(world, "etrm", "standard")
    leaves = shift_halting(model, every_step(model, whole))
    outputs, found = every_step(model, whole), solve(model, whole, early=True)
    expected = torch.stack([outputs[step - 1].logits[row] for row, step in enumerate(leaves.tolist())])
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_is_cut_to_the_rows_that_are_kept(batch: Batch) -> None:
    kept = batch.select(torch.tensor([1, 2]))
    assert kept.inputs.shape == (2, 9)
    for name in ("inputs", "labels", "positions", "valid"):
        assert torch.equal(getattr(kept, name), getattr(batch, name)[1:3, :9])
    assert kept.puzzle_ids.tolist() == batch.puzzle_ids[1:3].tolist()
    assert kept.sample_ids.tolist() == [1, 2]
    assert (kept.demos.owner.tolist(), kept.demos.slots.tolist()) == ([0, 0, 1, 1, 1], [0, 1])
    assert torch.equal(kept.demos.tokens, batch.demos.tokens[1:6])
