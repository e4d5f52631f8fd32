"""Inference: all ACT steps on some samples, or as many per row as its halting logit asks for.

Shapes: B samples, n rows that continue, S query tokens, P context tokens, D hidden.
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
    """The rows that continue.

    Attributes:
        rows: (n,) int64, their indices in the original batch.
        batch: the samples of the rows, cut to the longest of them.
        carry: the latent states of the rows.
        context: (n, P, D), their contexts.
        kl: (n,) KL divergence of a variational encoder, else None.
        state: the state of a stateful encoder, else None.
        sets: the pair vectors (n, K, D) and their mask (n, K) of a stateful encoder, else None.
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
    """Answer a batch from a fresh carry. The model must be in eval mode.

    The context is computed once; a stateful encoder updates it at every step from pair vectors that are
    computed once.

    Args:
        model: the model; its ``halt.max_steps`` is the maximum number of steps of a row.
        batch: B samples.
        early: whether a row stops at the first step with a positive halting logit, after which the batch
            shrinks to the other rows. By default, as published, all rows take all steps.

    Returns:
        the output of each row at its last step, and in ``steps`` (B,) the number of its steps.
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
    """Select rows, (n,) int64 and ascending, from every tensor in a value."""
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
    """Update the context for the next step; it changes only if the encoder is stateful."""
    if running.sets is None or model.encoder is None:
        return running
    encoded = model.encoder.read(*running.sets, running.state)
    return replace(running, context=encoded.context, state=encoded.state)


def _gathered(left: Sequence[tuple[Tensor, StepOutput]], length: int) -> StepOutput:
    """Join the outputs of the rows that stopped together into one output for all rows, in their order.

    ``length`` is the S of all rows; the outputs of rows that stopped later may be shorter.
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
