"""Answering: all ACT steps on some samples, or, for each row, as many as its halting logit asks for.

Shapes: B samples, n rows that go on, S query tokens, P context tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from etrm.batch import Batch
from etrm.model.act import Carry, EncoderState
from etrm.model.variant import StepOutput, Variant

T = TypeVar("T")


@dataclass(frozen=True)
class _Running:
    """The rows that go on.

    Attributes:
        rows: (n,) int64, their places in the batch that was asked.
        batch: their samples, no longer than the longest of them.
        carry: their latent states.
        context: (n, P, D).
        kl: (n,) of a variational encoder, else None.
        state: of a stateful encoder, else None.
        sets: of a stateful encoder, the pair vectors (n, K, D) and their mask (n, K), else None.
    """

    rows: Tensor
    batch: Batch
    carry: Carry
    context: Tensor
    kl: Tensor | None
    state: EncoderState | None
    sets: tuple[Tensor, Tensor] | None


@torch.no_grad()
def solve(model: Variant, batch: Batch, *, early: bool = False) -> StepOutput:
    """The answers from a fresh start. The model must be in eval mode.

    The context is computed once, or moved on at every step by a stateful encoder, whose pair
    vectors are kept.

    Args:
        model: whose ``halt.max_steps`` is the most that a row gets.
        batch: B samples.
        early: a row whose halting logit is positive leaves with what it said at that step, and the
            batch shrinks to the others. By default, as published, all rows take all steps.

    Returns:
        what each row said at its last step, and in ``steps`` (B,) how many it took.
    """
    carry = model.initial_carry(batch.size)
    given = model.context_policy(model, carry, batch)
    sets = None if given.state is None or model.encoder is None else model.encoder.pair_sets(batch.demos)
    rows = torch.arange(batch.size, device=batch.inputs.device)
    running = _Running(rows, batch, carry, given.context, given.kl, given.state, sets)
    last, left = model.config.halt.max_steps, []
    for step in range(1, last + 1):
        if step > 1:
            running = _move_context(model, running)
        carry, output = model.step(running.carry, running.batch, running.context)
        running = replace(running, carry=carry)
        output = replace(output, kl=running.kl, steps=carry.steps)
        if step == last:
            left.append((running.rows, output))
        elif early and bool((halted := output.q_halt > 0).any()):
            leaving, staying = halted.nonzero().squeeze(1), (~halted).nonzero().squeeze(1)
            left.append((running.rows[leaving], _take(output, leaving)))
            if not len(staying):
                break
            running = _take(running, staying)
    return _gathered(left, batch.inputs.shape[1])


def _take(value: T, rows: Tensor) -> T:
    """Some rows, (n,) int64 and ascending, of every tensor in a value."""
    taken: Any = value
    if isinstance(value, Tensor):
        taken = value[rows]
    elif isinstance(value, Batch):
        taken = value.select(rows)
    elif isinstance(value, dict):
        taken = {name: _take(item, rows) for name, item in value.items()}
    elif isinstance(value, tuple):
        taken = tuple(_take(item, rows) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        taken = replace(
            value, **{field.name: _take(getattr(value, field.name), rows) for field in fields(value)}
        )
    return cast(T, taken)


def _move_context(model: Variant, running: _Running) -> _Running:
    """The context of the next step; the same unless the encoder is stateful."""
    if running.sets is None or model.encoder is None:
        return running
    encoded = model.encoder.read(*running.sets, running.state)
    return replace(running, context=encoded.context, state=encoded.state)


def _gathered(left: Sequence[tuple[Tensor, StepOutput]], length: int) -> StepOutput:
    """One output for all rows, in their order, from those of the rows that left together.

    ``length`` is the S of all rows; what left later may have been cut to less.
    """
    if len(left) == 1:
        return left[0][1]
    order = torch.cat([rows for rows, _ in left]).argsort()
    outputs = [
        replace(output, logits=pad(output.logits, (0, 0, 0, length - output.logits.shape[1])))
        for _, output in left
    ]
    names = [field.name for field in fields(outputs[0]) if getattr(outputs[0], field.name) is not None]
    joined = {name: torch.cat([getattr(output, name) for output in outputs])[order] for name in names}
    return replace(outputs[0], **joined)
