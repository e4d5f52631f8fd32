"""Origins of log-probabilities of choices, and of ratios of these to earlier ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from diagnostics.auditing.tracing.function_names import ARITHMETIC, DIFFERENCES, LIMITS, PASSES
from diagnostics.auditing.tracing.origins.origin_call import OriginCall, Product, has_both_signs
from diagnostics.auditing.tracing.random_draws import in_density
from diagnostics.recording.tensors import memory_of

NORMALISER = "normaliser"
LOG_PROBABILITIES = "log-probabilities"
DRAWN = "drawn"
SCORE = "score"
"""The log-probability of something drawn or chosen, with a graph."""
LOWERED = "negative-score"
"""A number minus a score."""
INVERTED = "inverted-ratio"
"""exp() of it."""
RAISED = "score-minus-earlier"
"""A score minus numbers without graph, which are not its own."""
RATIO = "ratio"
"""exp() of it."""

LOG_SOFTMAXES = ("log_softmax", "logsigmoid")
_CHOICES = ("multinomial", "bernoulli")
_SAME = 1e-6  # difference from 1 of a ratio of equal probabilities, by rounding


@dataclass(frozen=True)
class Ratio:
    """A product of a weight and a ratio of probabilities of choices to those before.

    Attributes:
        place: Text that says by which operation.
        is_one: Whether the ratio is 1 for all choices.
        weight: The weight of each choice.
        updates: Updates of the optimisers before it.
    """

    place: str
    is_one: bool
    weight: Tensor
    updates: int


class ChoiceProbabilities:
    """How probabilities of choices are weighted.

    Attributes:
        weighted_scores: Products of log-probabilities of choices and a weight of both signs that has a graph itself.
        inverted: Products of a weight of both signs and a ratio of the probability before to that of now.
        ratios: Products of a weight and a ratio of probabilities of choices to those before.
        updates: Updates of the optimisers so far.
    """

    carried: Mapping[str, Collection[str]] = {
        NORMALISER: PASSES,
        LOG_PROBABILITIES: PASSES,
        DRAWN: PASSES,
        SCORE: PASSES | ARITHMETIC,
        LOWERED: PASSES | LIMITS,
        INVERTED: PASSES | LIMITS,
        RAISED: PASSES | LIMITS,
        RATIO: PASSES | LIMITS,
    }

    def __init__(self) -> None:
        self.weighted_scores: list[Product] = []
        self.inverted: list[Product] = []
        self.ratios: list[Ratio] = []
        self.updates = 0

    def begin(self, call: OriginCall) -> set[str]:
        """The origins that begin with a call."""
        if not call.given:
            return set()
        name, trained, inside = call.name, call.result.requires_grad, in_density()
        differs_from_norm = name == "sub" and NORMALISER in call.origins[-1]
        begun = {
            NORMALISER: name == "logsumexp",
            LOG_PROBABILITIES: name in LOG_SOFTMAXES or differs_from_norm,
            DRAWN: name in _CHOICES,
            SCORE: trained and (_chooses(call) if name == "gather" else inside),
        }
        found = {origin for origin, begins in begun.items() if begins}
        return found | _compare(call) if trained and not inside else found

    def look(self, call: OriginCall) -> None:
        """Keep a product with a score or a ratio whose weight does not fit."""
        for factor, origins, weight, of_weight in call.factors:
            if factor.shape != weight.shape:
                continue
            if RATIO in origins and not weight.requires_grad:
                one = bool(((factor - 1).abs() <= _SAME).all())
                self.ratios.append(Ratio(call.place()[0], one, weight.clone(), self.updates))
            if not call.result.requires_grad or weight.numel() < 2:
                continue
            if INVERTED in origins and not weight.requires_grad and has_both_signs(weight):
                self.inverted.append(Product.of(call))
            known = SCORE in origins and SCORE not in of_weight and weight.requires_grad
            if known and not in_density() and has_both_signs(weight):
                self.weighted_scores.append(Product.of(call))


def _chooses(call: OriginCall) -> bool:
    """Whether gather() takes what was drawn, or log-probabilities."""
    return LOG_PROBABILITIES in call.origins[0] or any(DRAWN in each for each in call.origins[1:])


def _compare(call: OriginCall) -> set[str]:
    """What a difference with a score is, or its exp()."""
    if call.name == "exp" and LOWERED in call.origins[0]:
        return {INVERTED}
    if call.name == "exp" and RAISED in call.origins[0]:
        return {RATIO}
    if call.name not in DIFFERENCES or len(call.given) != 2:
        return set()
    (one, other), (of_one, of_other) = call.given, call.origins
    if SCORE in of_one:
        earlier = not other.requires_grad and memory_of(one) != memory_of(other)
        return {RAISED} if earlier else set()
    return {LOWERED} if SCORE in of_other and not one.requires_grad else set()
