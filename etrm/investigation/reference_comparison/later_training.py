"""Situations of later training, which the first steps of a new model do not reach.

A new model halts at no row by itself, so that all rows begin together, and it answers few of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from etrm.data.sample import CELLS
from etrm.device import to_device
from etrm.model.core import Core
from etrm.training.trainer import Trainer

SPREAD = 2.0
"""Standard deviation of the halting logits over the rows. About half of them are positive."""

ENLARGED_LOGITS, ENLARGED_HALTING = 30.0, 10.0
"""Factors of the two readers of :func:`enlarge_readers`. Logits then reach hundreds, which stablemax needs to be
sure of a token, and halting logits tens."""


@torch.no_grad()
def unsettle(trainer: Trainer, states: Tensor) -> None:
    """Give a model weights with which some rows halt and others continue, and many tokens are answers.

    The readers of the state become random: a direction in which the states of the rows differ decides on halting. A
    model with another decoder is left as it is.

    Args:
        trainer: the run.
        states: (B, L, D) the states of the rows after a step, context tokens included.
    """
    core = trainer.model.core
    if not isinstance(core, Core):
        return
    random = torch.Generator().manual_seed(trainer.config.train.seed)

    def draw(like: Tensor) -> Tensor:
        return to_device(torch.randn(like.shape, generator=random), like.device)

    tokens = states[:, core.context_tokens :].flatten(0, 1)
    core.lm_head.weight.copy_(_leave_out(draw(core.lm_head.weight), tokens.mean(0)))
    firsts = states[:, 0]
    direction = _leave_out(draw(core.q_head.weight[:1]), firsts.mean(0))[0]
    logits = firsts @ direction
    scale = SPREAD / logits.std() if len(logits) > 1 and float(logits.std()) > 0 else 1.0
    core.q_head.weight[0] = direction * scale
    core.q_head.bias[0] = -median((logits * scale).tolist())  # between the two middle ones of an even number


@torch.no_grad()
def enlarge_readers(trainer: Trainer) -> None:
    """Give a model logits as large as after long training; which is the largest, and which rows halt, stays.

    A bound on a logit does nothing before.
    """
    core = trainer.model.core
    if isinstance(core, Core):
        core.lm_head.weight.mul_(ENLARGED_LOGITS)
        core.q_head.weight.mul_(ENLARGED_HALTING)
        core.q_head.bias.mul_(ENLARGED_HALTING)


def _leave_out(rows: Tensor, common: Tensor) -> Tensor:
    """Return (n, D) rows without their part along (D,) what all states share, which would decide for all alike."""
    return rows - torch.outer(rows @ common, common) / (common @ common)


def continues(trainer: Trainer) -> bool:
    """Whether a row of the next step works on the sample that it has."""
    return not bool(trainer.state.carries[trainer.state.bucket].halted.all())


@torch.no_grad()
def lengthen_states(trainer: Trainer) -> None:
    """Give the rows of the next step states up to the end of the canvas, as after a batch with so long a row.

    A batch gets shorter while rows continue only where the row with the longest query halts before them.
    """
    bucket = trainer.state.bucket
    carry = trainer.state.carries[bucket]
    more = trainer.config.model.context_tokens + CELLS - carry.z_H.shape[1]
    if carry.z_H.dim() != 3 or carry.z_H.shape[1] == 0 or more <= 0:
        return
    random = torch.Generator().manual_seed(trainer.config.train.seed)

    def lengthen(states: Tensor) -> Tensor:
        drawn = torch.randn(len(states), more, states.shape[-1], generator=random)
        return torch.cat((states, to_device(drawn, states.device).to(states.dtype)), dim=1)

    # Only the states: the flags of halted rows, by which rows take samples, stay those that the run itself left.
    trainer.state.carries[bucket] = replace(carry, z_H=lengthen(carry.z_H), z_L=lengthen(carry.z_L))


def next_states(trainer: Trainer) -> Tensor:
    """Take a step, and return the states (B, L, D) of its rows after it."""
    bucket = trainer.state.bucket
    trainer.advance()
    return trainer.state.carries[bucket].z_H.float().clone()


@torch.no_grad()
def exchange_readers(trainer: Trainer, counts: Sequence[int]) -> bool:
    """Let a model answer tokens that it never answered: they get the readers of those that it answers most.

    Args:
        trainer: the run.
        counts: the number of answers that each token was so far.

    Returns:
        Whether there were such tokens, and a reader for them.
    """
    core = trainer.model.core
    if not isinstance(core, Core):
        return False
    never = [token for token, count in enumerate(counts) if not count]
    often = sorted((token for token, count in enumerate(counts) if count), key=lambda token: -counts[token])
    rows = core.lm_head.weight.clone()
    for one, other in zip(never, often, strict=False):
        core.lm_head.weight[one], core.lm_head.weight[other] = rows[other], rows[one]
    return bool(never and often)
