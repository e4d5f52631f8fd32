"""Measures how much a context depends on its sample: variance, rank, retrieval, and the decoder's use of
it.

The fields of `Representation` define each quantity. Everything is computed in float64 on the CPU from a
detached copy, so a number does not depend on the device and cannot touch the graph. Shapes: B samples, T
tokens, D channels, N tasks; (B, D) is read as T = 1. A value that makes no sense for the given shape (the
variance over one sample) is None, never 0, and `Representation.absent` has the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diagnostics.errors import InvalidValue

_RANK_SAMPLES = 64  # samples whose token rank is averaged; bounds the cost where T is a whole canvas
_TIE = 1e-12  # distance between unit vectors below which float64 cannot distinguish two rows


@dataclass(frozen=True)
class Representation:
    """Numbers that describe one context, in its own units or squares of them, except where noted.

    None where a number is not defined: `absent` has the reason.
    """

    samples: int
    tokens: int
    channels: int
    non_finite: int
    """Elements that are NaN or infinite. If there is one, every other number is None."""
    cross_sample_var: float | None
    """mean((c - mean_b c)^2), biased; published as encoder_cross_sample_var."""
    share: float | None
    """cross_sample_var / mean(c^2), in [0, 1]: the only variance here that compares across encoders."""
    rank_over_samples: float | None
    """Effective rank of the B × (T·D) matrix, centred over samples: at most min(B - 1, T·D)."""
    rank_over_tokens: float | None
    """Effective rank of the T × D matrix, centred over tokens, averaged over at most 64 samples."""
    mean_cosine: float | None
    """Cosine of two different samples (flattened), averaged over all pairs, in [-1, 1]; zero rows left out.
    """
    across_token_var: float | None
    """mean((c - mean_t c)^2), biased: how different the tokens of one sample are."""
    mean: float | None
    """Mean of all elements; published as encoder_output_mean."""
    std: float | None
    """Unbiased std of all elements; published as encoder_output_std. Not evidence after an RMSNorm."""
    norm: float | None
    """|c[b, t]| averaged over tokens; published as encoder_output_norm. Not evidence after an RMSNorm."""
    std_over_samples: float | None
    """Unbiased std over the batch, averaged; published as encoder_token_std, in spite of that name."""

    @property
    def absent(self) -> dict[str, str]:
        """The name of every number that is None, with the reason."""
        return {f.name: self._reason(f.name) for f in fields(self) if getattr(self, f.name) is None}

    def _reason(self, name: str) -> str:
        if self.non_finite:
            return f"{self.non_finite} elements of the context are NaN or infinite"
        if name in ("rank_over_tokens", "across_token_var"):
            return "the context has a single token"
        if name == "std":
            return "the context has a single element"
        if self.samples == 1:
            return "the batch has a single sample"
        return "fewer than two samples are non-zero"


@dataclass(frozen=True)
class Retrieval:
    """How often the first half of a task finds the second half of the same task."""

    accuracy: float
    """Share of tasks found, in [0, 1]; a tie of k nearest rows that holds the right one counts 1/k."""
    chance: float
    """1 / n: the accuracy of a context without information about the task."""
    n: int
    """Number of tasks."""


@dataclass(frozen=True)
class ContextDependence:
    """The loss under the true context and under three without information about the sample, in the loss's own
    units.

    `shuffled` and `mean` are None where no context from another task exists.
    """

    true: float
    shuffled: float | None
    mean: float | None
    zeros: float

    @property
    def cost_of_shuffling(self) -> float | None:
        """shuffled - true. About 0: the decoder does not use what distinguishes tasks."""
        return None if self.shuffled is None else self.shuffled - self.true

    @property
    def cost_of_mean(self) -> float | None:
        """mean - true."""
        return None if self.mean is None else self.mean - self.true

    @property
    def cost_of_zeros(self) -> float:
        """zeros - true."""
        return self.zeros - self.true


@dataclass(frozen=True)
class WithinBetween:
    """Variance within and between tasks, over the rows whose task has at least two of them.

    None where fewer than two tasks have two rows, or the context is not finite; the ratios also where the
    rows of a task are all equal.
    """

    within: float | None
    """mean((c - mean of its task)^2), biased."""
    between: float | None
    """mean((mean of its task - grand mean)^2), biased: within + between is the variance of those rows."""
    ratio: float | None
    """between / within. Grows with noise when tasks have few rows: about 1 for noise in pairs."""
    f_ratio: float | None
    """The same with degrees of freedom, as in a one-way ANOVA: about 1 if the task makes no difference."""
    tasks: int
    rows: int


@dataclass(frozen=True)
class AgainstRandomStart:
    """The same numbers for the same encoder now and at its random start."""

    now: Representation
    start: Representation
    share_ratio: float | None
    """now.share / start.share; None where either is None or the start is fully collapsed (share 0)."""


def representation(context: Tensor) -> Representation:
    """Measure a context (B, T, D) or (B, D).

    Raises ValueError for another number of dimensions, an empty tensor, or a dtype that is not floating.
    The fields of `Representation` give the formulas and the names that ETRM published.
    """
    c = _context(context)
    b, t, d = c.shape
    bad = int((~torch.isfinite(c)).sum())
    if bad:
        return Representation(b, t, d, bad, *[None] * 10)
    deviation = _centred(c, 0)
    variance = float(deviation.square().mean())
    return Representation(
        samples=b,
        tokens=t,
        channels=d,
        non_finite=0,
        cross_sample_var=variance if b > 1 else None,
        share=_share(c, variance) if b > 1 else None,
        rank_over_samples=_effective_rank(deviation.flatten(1)) if b > 1 else None,
        rank_over_tokens=_rank_over_tokens(c) if t > 1 else None,
        mean_cosine=_mean_cosine(c.flatten(1)),
        across_token_var=float(_centred(c, 1).square().mean()) if t > 1 else None,
        mean=float(c.mean()),
        std=float(c.std()) if c.numel() > 1 else None,
        norm=float(c.norm(dim=-1).mean()),
        std_over_samples=float(c.std(dim=0).mean()) if b > 1 else None,
    )


def cross_sample_share(context: Tensor) -> float | None:
    """Share of a context's mean square that differs between samples, in [0, 1]; context (B, T, D) or (B, D).

    mean((c - mean_b c)^2) / mean(c^2). 0 where all samples are equal, all zero included; None where B = 1 or
    an element is not finite. Raises ValueError as `representation` does.
    """
    c = _context(context)
    if c.shape[0] == 1 or not bool(torch.isfinite(c).all()):
        return None
    return _share(c, float(_centred(c, 0).square().mean()))


def effective_rank(matrix: Tensor, *, centred: bool = False) -> float | None:
    """exp of the entropy of the normalised singular values of a matrix (N, M), between 1 and min(N, M).

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. `centred` first subtracts the mean row. The zero
    matrix has rank 0; a matrix with elements that are not finite has None. Singular values below 1e-8 of the
    largest are rounding here (they come from the Gram matrix) and weigh nothing in the entropy.
    Raises ValueError for another number of dimensions, an empty tensor, or a dtype that is not floating.
    """
    if matrix.dim() != 2:
        raise InvalidValue(
            "representations.matrix-shape",
            "a matrix has shape (N, M), found {got}",
            got=tuple(matrix.shape),
        )
    m = _context(matrix).squeeze(1)
    if not bool(torch.isfinite(m).all()):
        return None
    return _effective_rank(_centred(m, 0) if centred else m)


def task_retrieval(first: Tensor, second: Tensor) -> Retrieval:
    """Find each task's second half by its first; first, second (N, ...) hold the two halves of N tasks.

    A hit is the nearest row by cosine; rows that float64 cannot distinguish share the hit, so a collapsed encoder
    scores exactly 1/N. A zero row has no direction and is equally far from every other.
    Raises ValueError for halves of different shapes, fewer than two tasks, or elements that are not finite.
    """
    if first.shape != second.shape or first.dim() < 2:
        raise InvalidValue(
            "representations.halves-differ",
            "two halves (N, ...) of one shape are needed, found {first}, {second}",
            first=tuple(first.shape),
            second=tuple(second.shape),
        )
    n = first.shape[0]
    if n < 2:
        raise InvalidValue(
            "representations.too-few-tasks", "retrieval needs at least two tasks, found {got}", got=n
        )
    one, two = _unit(_copy(first).flatten(1)), _unit(_copy(second).flatten(1))
    if not bool(torch.isfinite(one).all() and torch.isfinite(two).all()):
        raise InvalidValue(
            "representations.not-finite", "retrieval needs finite contexts, found NaN or infinite elements"
        )
    # |u - v| orders as the cosine does, and keeps its digits where all cosines are near 1
    distance = torch.cdist(one, two, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance <= distance.min(dim=1, keepdim=True).values + _TIE
    hits = nearest.diagonal().double() / nearest.sum(dim=1)
    return Retrieval(accuracy=float(hits.mean()), chance=1 / n, n=n)


def context_use(
    loss_fn: Callable[[Tensor], float], context: Tensor, groups: Tensor | None = None
) -> ContextDependence:
    """Measure how much the loss grows without the context (B, ...).

    `loss_fn` maps a context of the same shape to a loss; it is called without gradients, up to four times,
    and must be deterministic (evaluation mode) for the differences to mean something. `groups` (B,) holds
    task ids: with it every sample gets the context of another task, else that of its neighbour. No random
    numbers.
    Raises ValueError where `groups` is not (B,).
    """
    with torch.no_grad():
        c = context.detach()
        order = _derangement(c.shape[0], groups)
        mean = c.mean(dim=0, keepdim=True).expand_as(c).clone()
        return ContextDependence(
            true=float(loss_fn(c.clone())),
            shuffled=None if order is None else float(loss_fn(c[order.to(c.device)])),
            mean=float(loss_fn(mean)) if c.shape[0] > 1 else None,
            zeros=float(loss_fn(torch.zeros_like(c))),
        )


def within_between(context: Tensor, groups: Tensor) -> WithinBetween:
    """Split the variance of a context (B, T, D) or (B, D) by task; groups (B,) holds integer task ids.

    Law of total variance over the rows whose task occurs at least twice; other rows are left out, since one
    row has no variance. Raises ValueError where `groups` is not (B,), and as `representation` does.
    """
    c = _context(context).flatten(1)
    ids = _groups(groups, c.shape[0])
    _, index, counts = ids.unique(return_inverse=True, return_counts=True)
    kept = counts[index] > 1
    tasks, rows = int((counts > 1).sum()), int(kept.sum())
    if tasks < 2 or not bool(torch.isfinite(c).all()):
        return WithinBetween(None, None, None, None, tasks, rows)
    c, index = c[kept] - c[kept][0], index[kept]
    sums = torch.zeros(len(counts), c.shape[1], dtype=c.dtype).index_add_(0, index, c)
    means = (sums / counts[:, None])[index]
    within = float((c - means).square().mean())
    between = float((means - c.mean(dim=0)).square().mean())
    ratio = between / within if within > 0 else None
    f_ratio = ratio * (rows - tasks) / (tasks - 1) if ratio is not None else None
    return WithinBetween(within, between, ratio, f_ratio, tasks, rows)


def sampling_noise_share(first: Tensor, second: Tensor) -> float | None:
    """Part of the cross-sample variance that is sampling noise, from two passes of the same batch.

    first, second (B, T, D) or (B, D). mean((first - second)^2) / 2 estimates the noise variance without bias,
    and the unbiased variance over samples, averaged over both passes, the total. About 1 where samples
    differ by noise alone; rounding of the estimate can put it a little above. None where B = 1, the total is
    0, or an element is not finite. Raises ValueError for different shapes and as `representation` does.
    """
    one, two = _context(first), _context(second)
    if one.shape != two.shape:
        raise InvalidValue(
            "representations.passes-differ",
            "two passes of one batch have one shape, found {first}, {second}",
            first=tuple(one.shape),
            second=tuple(two.shape),
        )
    if one.shape[0] == 1:
        return None
    noise = float((one - two).square().mean()) / 2
    total = float((one.var(dim=0).mean() + two.var(dim=0).mean()) / 2)
    finite = bool(torch.isfinite(one).all() and torch.isfinite(two).all())
    return noise / total if finite and total > 0 else None


def against_random_start(now: Representation, start: Representation) -> AgainstRandomStart:
    """Compare an encoder's numbers with those of its random start, the only reference for "healthy".

    A random standard encoder at paper size already has cross_sample_var .10.
    """
    known = now.share is not None and start.share is not None and start.share > 0
    ratio = now.share / start.share if known and now.share is not None and start.share else None
    return AgainstRandomStart(now, start, ratio)


def _copy(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _context(context: Tensor) -> Tensor:
    if context.dim() not in (2, 3) or context.numel() == 0:
        raise InvalidValue(
            "representations.context-shape",
            "a context has shape (B, T, D) or (B, D), not empty; found {got}",
            got=tuple(context.shape),
        )
    if not context.is_floating_point():
        raise InvalidValue(
            "representations.context-dtype",
            "a context has a floating dtype, found {got}",
            got=context.dtype,
        )
    c = _copy(context)
    return c if c.dim() == 3 else c.unsqueeze(1)


def _centred(values: Tensor, dim: int) -> Tensor:
    """Deviations from the mean along `dim`; shifted by the first entry so that equal entries give exact
    zeros.
    """
    shifted = values - values.narrow(dim, 0, 1)
    return shifted - shifted.mean(dim=dim, keepdim=True)


def _share(c: Tensor, variance: float) -> float:
    return min(1.0, variance / float(c.square().mean())) if variance > 0 else 0.0


def _effective_rank(m: Tensor) -> float:
    top = m.abs().max()
    if not float(top):
        return 0.0
    m = m / top  # squares of tiny values would underflow
    gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    singular = singular * (singular > 1e-8 * singular.max())
    p = singular / singular.sum()
    return float(torch.special.entr(p).sum().exp())


def _rank_over_tokens(c: Tensor) -> float:
    stride = -(-c.shape[0] // _RANK_SAMPLES)
    ranks = [_effective_rank(_centred(sample, 0)) for sample in c[::stride]]
    return sum(ranks) / len(ranks)


def _unit(rows: Tensor) -> Tensor:
    """Rows (N, M) at length 1; zero rows stay zero."""
    top = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.where(top > 0, top, 1.0)
    length = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1.0)


def _mean_cosine(rows: Tensor) -> float | None:
    rows = rows[rows.abs().amax(dim=1) > 0]
    n = rows.shape[0]
    if n < 2:
        return None
    # the sum over all pairs is the squared length of the sum, less the n pairs of a row with itself
    total = float(_unit(rows).sum(dim=0).square().sum())
    return max(-1.0, min(1.0, (total - n) / (n * (n - 1))))


def _groups(groups: Tensor, b: int) -> Tensor:
    if groups.shape != (b,):
        raise InvalidValue(
            "representations.groups-shape",
            "groups has shape {expected}, one task id per sample; found {got}",
            expected=(b,),
            got=tuple(groups.shape),
        )
    return groups.detach().cpu()


def _derangement(b: int, groups: Tensor | None) -> Tensor | None:
    """Indices (B,) that give each sample another one, of another group; None where there is no such order.

    Sorted by group and rolled by the size of the largest group, no sample can land in its own.
    """
    ids = torch.arange(b) if groups is None else _groups(groups, b)
    shift = int(ids.unique(return_counts=True)[1].max())
    if 2 * shift > b:
        return None
    order = ids.argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, order.roll(shift))
