"""The loss of a step, written plainly.

Shapes: B rows, S tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.config import TrainConfig

NOT_SCORED = -100  # label of a token that counts nowhere


@dataclass(frozen=True)
class RowLosses:
    """Losses of rows, each (B,): cross entropy, halting, and the scalar that is trained on before its division."""

    cross_entropy: Tensor
    halting: Tensor
    total: Tensor


def log_shares(logits: Tensor, kind: str) -> Tensor:
    """Logarithms of the shares of (..., V) by softmax, or by stablemax (Prieto et al., 2025) in float64."""
    if kind == "softmax":
        return logits.float() - torch.logsumexp(logits.float(), -1, keepdim=True)
    x = logits.double()
    shares = torch.where(x >= 0, x + 1, 1 / (1 - torch.minimum(x, torch.zeros_like(x))))
    return torch.log(shares / shares.sum(-1, keepdim=True))


def row_losses(
    logits: Tensor,
    q_halt: Tensor,
    labels: Tensor,
    kl: Tensor | None,
    entropy: Tensor | None,
    train: TrainConfig,
) -> RowLosses:
    """The losses of rows.

    Args:
        logits: (B, S, V).
        q_halt: (B,) halting logits.
        labels: (B, S) int64, NOT_SCORED where a token does not count.
        kl: (B,) divergence of a variational encoder, None where there is none.
        entropy: (B,) entropy of the weights of templates, None where there are none.
        train: the weights of the terms, and the kind of the cross entropy.
    """
    scored = labels != NOT_SCORED
    count = scored.sum(1)
    picked = log_shares(logits, train.loss).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    cross_entropy = torch.where(scored, -picked, torch.zeros_like(picked)).sum(1) / count.clamp(min=1)
    counts = (count > 0).float()
    solved = ((logits.argmax(-1) == labels) | ~scored).all(1).float() * counts
    # -[t log s(q) + (1 - t) log(1 - s(q))], with s the logistic function
    halting = torch.nn.functional.softplus(q_halt.float()) - q_halt.float() * solved
    halting = halting * counts
    total = cross_entropy + train.q_halt_weight * halting
    if kl is not None:
        total = total + train.kl_weight * kl.double() * counts
    if entropy is not None:
        total = total + train.entropy_weight * entropy.double() * counts
    return RowLosses(cross_entropy, halting, total)
