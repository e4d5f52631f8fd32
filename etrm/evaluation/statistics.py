"""Exact intervals, and the registered rule that turns an interval into a verdict. Does not need scipy.

Both the Clopper-Pearson interval and Student's t use the regularised incomplete beta function, which is computed by its
continued fraction (Numerical Recipes, section 6.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from etrm.errors import ArgumentError

FULL_SEEDS = 5
"""The number of seeds that a verdict needs. With fewer seeds a comparison is a screening and can validate nothing."""

MAX_SEEDS = 1_000_000
"""If more seeds than this are needed, their number is not reported, because nobody can run so many."""

VerdictName = Literal["VALIDATED", "INVALIDATED", "INCONCLUSIVE"]


@dataclass(frozen=True)
class PairedInterval:
    """The t interval of the mean of paired differences.

    Attributes:
        mean: the mean difference; -inf if a difference is not finite.
        low: the lower end; -inf if the mean is not bounded below.
        high: the upper end; inf if the mean is not bounded above.
        deviation: the sample standard deviation; NaN if it is undefined.
        seeds: the number of differences.
        level: the two-sided level of the interval.
        p_value: the one-sided p-value of the hypothesis that the mean is not above 0; 1 if it is undefined.
    """

    mean: float
    low: float
    high: float
    deviation: float
    seeds: int
    level: float
    p_value: float


@dataclass(frozen=True)
class Decision:
    """The result of the registered rule for one interval.

    Attributes:
        verdict: the name of the verdict.
        reason: the rule that applied, with its numbers.
        screening: whether there were fewer seeds than a verdict needs, so nothing could be validated.
        candidate: whether the verdict would be VALIDATED with more seeds.
        seeds_needed: the total number of seeds that would decide it if mean and deviation stayed the same;
            None if it is decided, or if the deviation is unknown.
    """

    verdict: VerdictName
    reason: str
    screening: bool
    candidate: bool
    seeds_needed: int | None

    @property
    def gained(self) -> bool:
        """Whether there is an effect that matters, even if there are too few seeds for a verdict."""
        return self.candidate or self.verdict == "VALIDATED"

    @property
    def ruled_out(self) -> bool | None:
        """Whether an effect that matters is ruled out; None if this is undecided."""
        return False if self.gained else True if self.verdict == "INVALIDATED" else None


def binomial_interval(solved: int, asked: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) interval of a share. Its coverage is at least its level.

    For instance, 0 of 4 gives 0 to .602, and 0 of 0 gives 0 to 1.
    """
    if not 0 <= solved <= asked:
        raise ArgumentError("statistics.not-a-share", f"{solved} solved of {asked} evaluated is not a share")
    tail = _tail(level)
    low = 0.0 if solved == 0 else _beta_quantile(tail, solved, asked - solved + 1)
    high = 1.0 if solved == asked else _beta_quantile(1 - tail, solved + 1, asked - solved)
    return low, high


def paired_t_interval(differences: Sequence[float], level: float = 0.90) -> PairedInterval:
    """Return the two-sided t interval of the mean of paired differences.

    A difference that is NaN or infinite means the worst score, whose size is unknown. The mean then becomes -inf and
    the interval the whole line, so nothing is validated and nothing is ruled out. To avoid this, give such runs
    the worst score of the comparison first. A single difference also gives the whole line.
    """
    seeds = len(differences)
    if seeds == 0:
        raise ArgumentError("statistics.no-differences", "an interval needs at least one difference")
    _tail(level)
    if not all(map(math.isfinite, differences)):
        return PairedInterval(-math.inf, -math.inf, math.inf, math.nan, seeds, level, 1.0)
    mean = math.fsum(differences) / seeds
    if seeds == 1:
        return PairedInterval(mean, -math.inf, math.inf, math.nan, seeds, level, 1.0)
    deviation = _deviation(differences, mean)
    half = _half_width(deviation, seeds, level)
    p_value = _p_value(mean, deviation, seeds)
    return PairedInterval(mean, mean - half, mean + half, deviation, seeds, level, p_value)


def decide(interval: PairedInterval, smallest_effect: float, *, full_seeds: int = FULL_SEEDS) -> Decision:
    """Return VALIDATED if low > 0 and mean >= m, INVALIDATED if high < m, else INCONCLUSIVE; m is ``smallest_effect``.

    With fewer than ``full_seeds`` seeds, VALIDATED becomes INCONCLUSIVE and is marked as a candidate.
    """
    if not smallest_effect > 0:
        raise ArgumentError(
            "statistics.bad-smallest-effect",
            f"the smallest effect that matters must be above 0, not {smallest_effect}",
        )
    m = smallest_effect
    screening = interval.seeds < full_seeds
    found = (
        f"mean {interval.mean:.4g}, {interval.level:.0%} interval [{interval.low:.4g}, {interval.high:.4g}], "
        f"{interval.seeds} seeds, smallest effect {m:.4g}"
    )
    if interval.low > 0 and interval.mean >= m:
        if not screening:
            return Decision("VALIDATED", f"low > 0 and mean >= m: {found}", False, False, None)
        reason = f"screening, {full_seeds} seeds can validate: {found}"
        return Decision("INCONCLUSIVE", reason, True, True, full_seeds)
    if interval.high < m:
        return Decision("INVALIDATED", f"high < m: {found}", screening, False, None)
    return Decision(
        "INCONCLUSIVE",
        f"neither rule holds: {found}",
        screening,
        False,
        count_seeds_needed(interval, m, full_seeds),
    )


def count_seeds_needed(
    interval: PairedInterval, smallest_effect: float, full_seeds: int = FULL_SEEDS
) -> int | None:
    """Return the smallest number of seeds at which the rule would decide if mean and deviation stayed the same.

    None if the deviation is unknown, or if more than a million seeds would be needed.
    """
    if not math.isfinite(interval.deviation):
        return None
    towards = interval.mean >= smallest_effect
    gap = interval.mean if towards else smallest_effect - interval.mean
    least, most = (full_seeds if towards else 2), MAX_SEEDS
    if _half_width(interval.deviation, most, interval.level) >= gap:
        return None
    least = max(least, 2)
    while least < most:  # bisection, because the half width shrinks with every seed
        middle = (least + most) // 2
        if _half_width(interval.deviation, middle, interval.level) < gap:
            most = middle
        else:
            least = middle + 1
    return least


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order of ``p_values``; NaN counts as 1."""
    values = [1.0 if math.isnan(value) else value for value in p_values]
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def t_quantile(share: float, freedom: int) -> float:
    """Return the value below which Student's t lies with probability ``share``."""
    if not 0 < share < 1 or freedom < 1:
        raise ArgumentError(
            "statistics.bad-quantile", f"no t quantile for share {share} and {freedom} degrees of freedom"
        )
    if share < 0.5:
        return -t_quantile(1 - share, freedom)
    x = _beta_quantile(2 * (1 - share), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ArgumentError("statistics.bad-level", f"level {level} is not between 0 and 1")
    return (1 - level) / 2


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _half_width(deviation: float, seeds: int, level: float) -> float:
    return t_quantile(1 - _tail(level), seeds - 1) * deviation / math.sqrt(seeds)


def _p_value(mean: float, deviation: float, seeds: int) -> float:
    if deviation == 0:
        return 0.0 if mean > 0 else 1.0
    freedom = seeds - 1
    t = mean / (deviation / math.sqrt(seeds))
    two_tails = _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)
    return two_tails / 2 if t > 0 else 1 - two_tails / 2


@lru_cache(maxsize=4096)
def _beta_quantile(share: float, a: float, b: float) -> float:
    """Return the x at which the regularised incomplete beta function I_x(a, b) equals ``share``."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):  # low and high are neighbouring floats
            return middle
        if _beta_share(middle, a, b) < share:
            low = middle
        else:
            high = middle


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the continued fraction converges fast only for smaller x
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of the incomplete beta function, computed by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the incomplete beta function of {x}, {a}, {b} did not converge")


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
