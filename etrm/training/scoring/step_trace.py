"""The answers of a model after each ACT step, with how far its latent state moves.

Shapes: B samples, L positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etrm.batch import IGNORE, Batch
from etrm.data import Sample
from etrm.device import to_device, to_host
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Variant
from etrm.training.scoring.predictor import make_batch

Tokens = npt.NDArray[np.integer]


@dataclass(frozen=True)
class StepTrace:
    """What a model did with B samples in T ACT steps.

    Attributes:
        samples: the samples.
        tokens: the (S,) tokens of the answers, by step and sample.
        q_halt: (T, B) halting logits.
        moved: (T, B) norm of the change of the latent state z_H of existing tokens, divided by its norm before.
    """

    samples: tuple[Sample, ...]
    tokens: tuple[tuple[Tokens, ...], ...]
    q_halt: npt.NDArray[np.floating]
    moved: npt.NDArray[np.floating]

    @property
    def steps(self) -> int:
        """The number T of ACT steps."""
        return len(self.tokens)

    def exact(self) -> npt.NDArray[np.bool_]:
        """Return (T, B), whether each answer is right: all scored tokens, of an output that fits into the region."""
        return np.array(
            [[is_right(s, t) for s, t in zip(self.samples, row, strict=True)] for row in self.tokens]
        )

    def accuracy(self) -> npt.NDArray[np.floating]:
        """Return (T, B), the share of right tokens among the scored ones of each answer; 0 where none is scored."""
        return np.array(
            [[share_right(s, t) for s, t in zip(self.samples, row, strict=True)] for row in self.tokens]
        )

    def changed(self) -> npt.NDArray[np.floating]:
        """Return (T, B), the share of tokens that differ from the step before; that of the query input at first."""
        before: Sequence[Tokens] = [sample.tokens for sample in self.samples]
        found = []
        for row in self.tokens:
            found.append([float((now != then).mean()) for now, then in zip(row, before, strict=True)])
            before = row
        return np.array(found)

    def halting_step(self) -> npt.NDArray[np.int64]:
        """Return (B,), the 0-based first step with a positive halting logit, or the last one."""
        positive = self.q_halt > 0
        return np.where(positive.any(0), positive.argmax(0), self.steps - 1)


def is_right(sample: Sample, tokens: Tokens) -> bool:
    """Whether an answer has all scored tokens of a known output that fits into the region."""
    scored = sample.labels != IGNORE
    return bool(sample.in_region and scored.any() and (tokens == sample.labels)[scored].all())


def share_right(sample: Sample, tokens: Tokens) -> float:
    """The share of right tokens among the scored ones; 0 where none is scored."""
    scored = sample.labels != IGNORE
    return float((tokens == sample.labels)[scored].mean()) if scored.any() else 0.0


@torch.no_grad()
def trace_steps(
    model: Variant,
    samples: Sequence[Sample],
    batch_size: int,
    *,
    policy: ContextPolicy | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> StepTrace:
    """Answer samples, and keep every ACT step.

    Args:
        model: the model; its mode is restored.
        samples: the samples, at least one.
        batch_size: the number of samples at a time.
        policy: the source of the contexts, by default the model's own.
        noise: the standard deviation of Gaussian noise that is added to both latent states before each step but the
            first, as a share of the standard deviation of the state.
        seed: the seed of the noise.
    """
    traced, training = copy(model), model.training
    model.eval()
    traced.training = False
    traced.context_policy = policy or model.context_policy
    generator = torch.Generator().manual_seed(seed)
    parts = [
        _trace_batch(traced, samples[first : first + batch_size], noise, generator)
        for first in range(0, len(samples), batch_size)
    ]
    model.train(training)
    return StepTrace(
        samples=tuple(samples),
        tokens=tuple(tuple(row for part in parts for row in part.tokens[t]) for t in range(parts[0].steps)),
        q_halt=np.concatenate([part.q_halt for part in parts], axis=1),
        moved=np.concatenate([part.moved for part in parts], axis=1),
    )


def _trace_batch(
    model: Variant, samples: Sequence[Sample], noise: float, generator: torch.Generator
) -> StepTrace:
    batch = make_batch(model, samples)
    carry = model.initial_carry(batch.size)
    tokens, q_halt, moved = [], [], []
    for step in range(model.config.halt.max_steps):
        if step and noise:
            carry = _disturb(carry, noise, generator)
        before = None if step == 0 else carry.z_H
        carry, output = model(carry, batch)
        answers = to_host(output.logits.argmax(-1)).numpy().astype(np.int16)
        tokens.append(tuple(row[: len(s.tokens)] for s, row in zip(samples, answers, strict=True)))
        q_halt.append(to_host(output.q_halt).numpy())
        moved.append(to_host(_measure_move(model, before, carry.z_H, batch)).numpy())
    return StepTrace(tuple(samples), tuple(tokens), np.stack(q_halt), np.stack(moved))


def _measure_move(model: Variant, before: Tensor | None, after: Tensor, batch: Batch) -> Tensor:
    """(B,) relative change of z_H (B, L, D); NaN of a model without such a state."""
    if not after.shape[1]:
        return torch.full((batch.size,), float("nan"))
    if before is None:
        start = getattr(model.core, "H_init", None)
        if start is None:
            return torch.full((batch.size,), float("nan"))
        before = start.expand_as(after)
    exists = torch.ones(after.shape[:2], dtype=torch.bool, device=after.device)
    if batch.valid is not None:
        exists[:, after.shape[1] - batch.valid.shape[1] :] = batch.valid
    weight = exists.unsqueeze(-1).to(after.dtype)
    return ((after - before) * weight).flatten(1).norm(dim=1) / (before * weight).flatten(1).norm(dim=1)


def _disturb(carry: Carry, noise: float, generator: torch.Generator) -> Carry:
    def disturbed(state: Tensor) -> Tensor:
        drawn = to_device(torch.randn(state.shape, generator=generator), state.device)
        return state + noise * state.std() * drawn.to(state.dtype)

    return replace(carry, z_H=disturbed(carry.z_H), z_L=disturbed(carry.z_L))
