"""How far values of a step are from those of the reference, and how far precision explains it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.device import to_device
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.recorded import RecordedBatch

ULPS = 8 * torch.finfo(torch.float32).eps  # rounding of a float32 sum of a few terms, relative to its largest
SMALLEST = torch.finfo(torch.float32).tiny  # below it float32 loses digits, and the square of 1e-23 is zero


@dataclass(frozen=True)
class Limits:
    """The largest relative difference that precision explains.

    Attributes:
        forward: limit of contexts, states and logits, row by row.
        gradient: limit of the gradient of a parameter.
        exact: limit of what is computed in float32 or better on any device: losses, updates, averages.
        clipping: limit of clipped gradients; torch sums the squares of a large tensor in float32, to 4e-4 on a CPU.
    """

    forward: float
    gradient: float
    exact: float = 1e-5
    clipping: float = 2e-3


LIMITS = {"float32": Limits(forward=2e-4, gradient=1e-3), "bfloat16": Limits(forward=0.1, gradient=0.5)}
"""By ``train.precision``. Healthy runs of every encoder on a CPU stay below 5e-6 and 3e-5 in float32, and below 0.02
and 0.2 in bfloat16; a GPU sums in another order."""


def row_sizes(real: Tensor, wanted: Tensor) -> Tensor:
    """The differences of rows (B, ...) relative to their own norm, or a tenth of the usual one."""
    real, wanted = real.reshape(len(real), -1), wanted.reshape(len(wanted), -1)
    scale = wanted.norm(dim=1)
    typical = float(scale.square().mean().sqrt())
    sizes = (real - wanted).norm(dim=1) / scale.clamp(min=max(0.1 * typical, 1e-12))
    return sizes.nan_to_num(math.inf)


def dither(value: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return floating-point values, every element moved by at most half the spacing of a precision at its size."""
    noise = to_device(torch.rand(value.shape, generator=generator), value.device) - 0.5
    return value * (1 + torch.finfo(dtype).eps * noise)


def existing_tokens(batch: RecordedBatch, lead: int, length: int) -> Tensor | None:
    """(B, L) bool of tokens that exist, context tokens included."""
    if batch.valid is None or lead + batch.valid.shape[1] != length:
        return None
    ahead = torch.ones(len(batch.valid), lead, dtype=torch.bool, device=batch.valid.device)
    return torch.cat((ahead, batch.valid), dim=1)


def compare_rows(
    stage: PipelineStage,
    tensor: str,
    real: Tensor,
    wanted: Tensor,
    limit: float,
    exists: Tensor | None = None,
    first: int = 0,
) -> Iterator[Departure]:
    """A departure where one row (B, ...) differs by more than the limit.

    Args:
        stage: the stage of the tensor.
        tensor: the name of the tensor.
        real: the value of the step.
        wanted: the value of the reference.
        limit: the largest relative difference of a row.
        exists: (B, L) bool of tokens that count; all if None.
        first: the number of the first row.
    """
    if real.shape != wanted.shape:
        yield Departure(stage, tensor, math.inf, 0.0, f"shape {tuple(real.shape)}, not {tuple(wanted.shape)}")
        return
    sizes = row_sizes(existing(real, exists), existing(wanted, exists))
    worst = int(sizes.argmax())
    if not float(sizes[worst]) <= limit:
        yield Departure(stage, tensor, float(sizes[worst]), limit, f"row {first + worst}")


def existing(value: Tensor, exists: Tensor | None) -> Tensor:
    """Rows (B, L, ...) in float64, with zeros for tokens that do not exist."""
    value = value.detach().double()
    return value if exists is None else value * exists[..., None]


def compare_values(stage: PipelineStage, tensor: str, real: object, wanted: object) -> Iterator[Departure]:
    """A departure where two values are not equal."""
    if real != wanted:
        yield Departure(stage, tensor, 1.0, 0.0, f"{real}, not {wanted}")


def compare_exactly(stage: PipelineStage, tensor: str, real: Tensor, wanted: Tensor) -> Iterator[Departure]:
    """A departure where two tensors are not equal bit for bit; what is no number in both is equal."""
    if real.shape != wanted.shape:
        yield Departure(stage, tensor, math.inf, 0.0, f"shape {tuple(real.shape)}, not {tuple(wanted.shape)}")
        return
    differs = (real != wanted) & ((real == real) | (wanted == wanted))
    if bool(differs.any()):
        row = int(differs.reshape(len(real), -1).any(1).nonzero()[0])
        yield Departure(stage, tensor, float(differs.double().mean()), 0.0, f"row {row}")


def dense(value: Tensor) -> Tensor:
    """A gradient as a dense tensor."""
    return value.to_dense() if value.is_sparse else value


def double(value: Tensor | None) -> Tensor | None:
    """A tensor in float64; None of None."""
    return None if value is None else value.double()


def norm(values: Sequence[Tensor]) -> float:
    """The norm of all elements of some tensors."""
    return math.sqrt(sum(float(value.detach().double().square().sum()) for value in values))


def ratio(difference: float, base: float) -> float:
    """A difference as a share of a base; infinite where it is not a number, or where the base is zero and it is not."""
    if math.isnan(difference):
        return math.inf
    return difference / base if base else (0.0 if difference == 0 else math.inf)


def share_of(real: float, wanted: float) -> float:
    """The difference of two numbers as a share of the second; none where neither is a number, or both are infinite."""
    if real == wanted or (math.isnan(real) and math.isnan(wanted)):
        return 0.0
    return ratio(abs(real - wanted), abs(wanted))


def kept_apart(real: Tensor, wanted: Tensor) -> float:
    """How far a running mean is from what it should be, relative to it, apart from what float32 cannot hold."""
    apart = ((real.double() - wanted).abs() - SMALLEST).clamp(min=0)
    return ratio(norm([apart]), norm([wanted]))


def moved_apart(real: Tensor, wanted: Tensor, old: Tensor) -> float:
    """How far a tensor is from where it should be, as a share of the distance to go, apart from rounding."""
    wanted = wanted.double()
    rounding = ULPS * torch.maximum(old.double().abs(), wanted.abs())
    apart = ((real.double() - wanted).abs() - rounding).clamp(min=0)
    return ratio(norm([apart]), norm([wanted - old.double()]))
