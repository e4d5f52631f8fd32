"""Origins of noise that is scaled by a deviation and added to a mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from diagnostics.auditing.tracing.function_names import ARITHMETIC, LIMITS, PASSES
from diagnostics.auditing.tracing.origins.choice_probabilities import SCORE
from diagnostics.auditing.tracing.origins.origin_call import OriginCall, Product
from diagnostics.auditing.tracing.origins.outputs import OUTPUT
from diagnostics.auditing.tracing.random_draws import in_density

NOISE = "noise"
"""Random numbers of a fixed size, as randn() gives."""
ONE_SIDED = "noise-from-0-to-1"
DEVIATION = "deviation"
"""exp() or softplus() of an output, and its root."""
DETACHED = "detached-output"
"""What detach() gave for an output with a graph, and what is computed from it."""
SHIFTED = "one-sided-noise-times-deviation"
STOPPED = "noise-times-detached-deviation"

_NOISES = ("randn", "randn_like", "rand", "rand_like", "normal", "uniform")
_ONE_SIDED = ("rand", "rand_like")
_POSITIVE = ("exp", "softplus")


class ScaledNoise:
    """How noise is added to a mean.

    Attributes:
        shifted: Sums of an output and noise from 0 to 1 that is scaled by a deviation.
        stopped: Sums of a mean with a graph and noise that is scaled by a deviation whose graph detach() ended.
    """

    carried: Mapping[str, Collection[str]] = {
        NOISE: PASSES,
        ONE_SIDED: PASSES,
        DEVIATION: PASSES | LIMITS | {"sqrt"},
        DETACHED: PASSES | ARITHMETIC,
        SHIFTED: PASSES,
        STOPPED: PASSES,
    }

    def __init__(self) -> None:
        self.shifted: list[Product] = []
        self.stopped: list[Product] = []

    def begin(self, call: OriginCall) -> set[str]:
        """The origins that begin with a call."""
        name, trained = call.name, call.result.requires_grad
        if name in _NOISES and not trained:
            return {NOISE, ONE_SIDED} if name in _ONE_SIDED else {NOISE}
        if not call.given:
            return set()
        first = call.origins[0]
        if name == "detach" and call.given[0].requires_grad and OUTPUT in first:
            return {DETACHED}
        if name == "add" and len(call.given) == 1:  # and a number
            return set(first & {DEVIATION})
        if in_density():
            return set()
        if name in _POSITIVE and (SCORE not in first if trained else DETACHED in first):
            return {DEVIATION}
        if trained:
            return {SHIFTED} if call.has_pair(ONE_SIDED, DEVIATION) else set()
        return {STOPPED} if call.has_pair(NOISE, DEVIATION) else set()

    def look(self, call: OriginCall) -> None:
        """Keep a sum of a mean and noise that is scaled wrongly."""
        if call.name != "add" or len(call.given) != 2:
            return
        (one, other), (of_one, of_other) = call.given, call.origins
        if one.requires_grad and other.requires_grad and (SHIFTED in of_one) != (SHIFTED in of_other):
            self.shifted.append(Product.of(call))
        noise = of_one if other.requires_grad else of_other
        apart = one.requires_grad != other.requires_grad and one.shape == other.shape
        if apart and STOPPED in noise:
            self.stopped.append(Product.of(call))
