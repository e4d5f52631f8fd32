"""The loss of one ACT step, and its accuracies.

Shapes: B samples, S tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etrm.batch import IGNORE
from etrm.config import TrainConfig
from etrm.model.recursive import StepOutput


def log_stablemax(x: Tensor) -> Tensor:
    """log(s(x) / sum s(x)) in float64, with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below.

    From "Grokking at the edge of numerical stability" (Prieto et al., 2025), as TRM uses it.
    """
    x = x.double()
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x.clamp(min=0) + 1)
    return s.log() - s.sum(-1, keepdim=True).log()


def log_softmax(x: Tensor) -> Tensor:
    """log(exp(x) / sum exp(x)) in float32, as in the published alternative."""
    return F.log_softmax(x.float(), dim=-1)


LOG_PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "stablemax": log_stablemax,
    "softmax": log_softmax,
}
"""From logits (..., V) to log probabilities, by the names of ``train.loss``."""


PIECE = 1 << 16
"""Tokens whose probabilities are computed at a time: their float64 tensors take 6 MiB each. Smaller pieces would save
little of the memory of a step and start more kernels on a GPU."""


class _TargetLogProbability(torch.autograd.Function):
    """Log probabilities (n,) of targets (n,) from logits (n, V), by a function of :data:`LOG_PROBABILITIES`.

    Only the logits are kept for the backward pass, which computes the probabilities again piece by piece, with the same
    operations and so the same bits. Plain autograd would keep several float64 tensors of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.function = function
        pieces = zip(logits.split(PIECE), targets.split(PIECE), strict=True)
        return torch.cat([_pick(function, part, wanted) for part, wanted in pieces])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        found = []
        for part, wanted, above in zip(*(x.split(PIECE) for x in (logits, targets, grad)), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                found += torch.autograd.grad(_pick(ctx.function, leaf, wanted), leaf, above)
        return torch.cat(found), None, None


def _pick(function: Callable[[Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    return function(logits).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Loss:
    """Loss and correctness of each sample; the sum over samples is trained on.

    Attributes:
        lm: (B,) float64 (float32 with softmax), cross entropy averaged over the sample's scored tokens.
        q_halt: (B,) float32, binary cross entropy of halting against "sequence all correct".
        scored: (B,) bool, samples with at least one scored token; the others count nowhere.
        token_accuracy: (B,) float32, share of the scored tokens that are right.
        exact: (B,) bool, every scored token right.
        q_correct: (B,) bool, halting predicted (logit >= 0) just where the sequence is right.
        kl: (B,) float32 divergence of a variational encoder, None where there is none.
        entropy: (B,) float32 entropy of the template weights, None where there is none.
    """

    lm: Tensor
    q_halt: Tensor
    scored: Tensor
    token_accuracy: Tensor
    exact: Tensor
    q_correct: Tensor
    kl: Tensor | None = None
    entropy: Tensor | None = None

    def terms(self, train: TrainConfig) -> dict[str, Tensor]:
        """Compute the weighted terms of the total by name: ``lm``, ``q_halt``, and ``kl`` and ``entropy`` if weighted.

        Only ``lm`` teaches the task: a module that it does not reach is trained by regularisers alone.
        """
        terms = {"lm": self.lm.sum(), "q_halt": train.q_halt_weight * self.q_halt.sum()}
        if self.kl is not None and train.kl_weight:
            terms["kl"] = train.kl_weight * self.kl.sum()
        if self.entropy is not None and train.entropy_weight:
            terms["entropy"] = train.entropy_weight * self.entropy.sum()
        return terms

    def total(self, train: TrainConfig) -> Tensor:
        """Compute the scalar to train on, the sum of the terms, before it is divided by the global batch size."""
        return reduce(add, self.terms(train).values())


def act_loss(output: StepOutput, labels: Tensor, kind: str = "stablemax") -> Loss:
    """Compute the loss for the carry's own labels (B, S), IGNORE where not scored; ``kind`` as ``train.loss``."""
    is_scored = labels != IGNORE
    count = is_scored.sum(1)
    divisor = count.clamp(min=1)
    targets = labels.masked_fill(~is_scored, 0)
    log_p: Tensor = _TargetLogProbability.apply(
        output.logits.flatten(0, 1), targets.flatten(), LOG_PROBABILITIES[kind]
    )
    log_p = log_p.view_as(targets)
    lm = -(log_p * is_scored).sum(1) / divisor
    with torch.no_grad():
        right = ((output.logits.argmax(-1) == labels) & is_scored).sum(1)
        scored = count > 0
        exact = (right == count) & scored
    q_halt = F.binary_cross_entropy_with_logits(output.q_halt, exact.float(), reduction="none")
    return Loss(
        lm=lm,
        q_halt=q_halt * scored,
        scored=scored,
        token_accuracy=right / divisor,
        exact=exact,
        q_correct=((output.q_halt >= 0) == exact) & scored,
        # A sum over rows in a lower precision would round.
        kl=None if output.kl is None else output.kl.float() * scored,
        entropy=None if output.entropy is None else output.entropy.float() * scored,
    )
