"""Origins of losses that are one number for all samples of a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from diagnostics.auditing.tracing.function_names import ARITHMETIC, PASSES
from diagnostics.auditing.tracing.origins.choice_probabilities import LOG_SOFTMAXES, SCORE
from diagnostics.auditing.tracing.origins.origin_call import OriginCall, Product
from diagnostics.auditing.tracing.random_draws import in_density

UNTRAINED = "untrained-loss"
"""A loss or log-probabilities of which neither side has a graph."""
MEAN_LOSS = "mean-loss"
"""A loss of several targets that is one number, or a multiple of it."""
ONE_NUMBER = "one-number"
"""A loss of several targets, or a sum or mean of several scores, that is one number; and what is computed from it."""
CHANCE = "chance"
"""exp() of a negative mean loss, and what is computed from it."""

_CLASSIFYING = (F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
_LOSSES = (*_CLASSIFYING, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div)


class BatchLosses:
    """How losses that are one number are weighted.

    Attributes:
        weighted_means: Products of a mean loss and a chance that was computed from it.
        weighted_numbers: Products of one number for all samples, of their losses or scores, and a weight for each.
    """

    carried: Mapping[str, Collection[str]] = {
        UNTRAINED: PASSES | ARITHMETIC,
        MEAN_LOSS: frozenset(("neg", "negative", "mul", "div", "truediv", "clone", "squeeze", "mean", "sum")),
        ONE_NUMBER: PASSES | ARITHMETIC,
        CHANCE: PASSES | ARITHMETIC,
    }

    def __init__(self) -> None:
        self.weighted_means: list[Product] = []
        self.weighted_numbers: list[Product] = []
        self._lengths: set[int] = set()  # of the losses and scores that became one number

    def begin(self, call: OriginCall) -> set[str]:
        """The origins that begin with a call."""
        if not call.given:
            return set()
        name, given, result = call.name, call.given, call.result
        if call.func in _LOSSES or name in LOG_SOFTMAXES:
            if not result.requires_grad and not any(each.requires_grad for each in given):
                return {UNTRAINED}
            if call.func in _LOSSES and result.requires_grad and result.numel() == 1 and _targets(given) > 1:
                self._lengths.add(len(given[1]))
                return {ONE_NUMBER, MEAN_LOSS} if call.func in _CLASSIFYING else {ONE_NUMBER}
        elif name in ("sum", "mean") and SCORE in call.origins[0] and _is_one_of_several(given[0], result):
            self._lengths.add(len(given[0]))
            return {ONE_NUMBER}
        elif name == "exp" and MEAN_LOSS in call.origins[0] and float(given[0].detach()) < 0:
            return {CHANCE}
        return set()

    def look(self, call: OriginCall) -> None:
        """Keep a product of one number for all samples with a weight."""
        if not call.result.requires_grad:
            return
        if call.has_pair(CHANCE, MEAN_LOSS):
            self.weighted_means.append(Product.of(call))
        for number, origins, weight, _ in call.factors:
            of_all = ONE_NUMBER in origins and number.numel() == 1
            if of_all and _is_weight(weight) and len(weight) in self._lengths:
                self.weighted_numbers.append(Product.of(call))


def _targets(given: Sequence[Tensor]) -> int:
    return given[1].numel() if len(given) > 1 else 0


def _is_one_of_several(given: Tensor, result: Tensor) -> bool:
    """Whether one number with a graph was made of several rows; inside a density it belongs to that."""
    several = given.dim() > 0 and len(given) > 1
    return several and result.numel() == 1 and result.requires_grad and not in_density()


def _is_weight(values: Tensor) -> bool:
    """Whether these are different numbers without a graph."""
    plain = values.dim() > 0 and values.numel() > 1 and not values.requires_grad
    return plain and bool((values != values.flatten()[0]).any())
