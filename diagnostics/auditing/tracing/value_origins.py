"""Where the numbers of a step come from, as far as a check asks: a maximum over all samples, a mean loss, a draw.

The result of a function gets an origin, and results of some functions inherit those of their arguments. A tensor that
no check asks about has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from diagnostics.auditing.tracing.random_draws import in_density
from diagnostics.recording.tensors import is_dense, memory_of, tensors_in

OUTPUT = "output"
"""What a linear function computed."""
LARGEST = "largest-of-all"
"""The largest number of all that a module returned for the samples of a batch, without graph."""
UNTRAINED = "untrained-loss"
"""A loss or log-probabilities of which neither side has a graph."""
MEAN_LOSS = "mean-loss"
"""A loss of several targets that is one number, or a multiple of it."""
ONE_NUMBER = "one-number"
"""A loss of several targets, or a sum or mean of several scores, that is one number; and what is computed from it."""
CHANCE = "chance"
"""exp() of a negative mean loss, and what is computed from it."""
NORMALISER = "normaliser"
LOG_PROBABILITIES = "log-probabilities"
DRAWN = "drawn"
SCORE = "score"
"""The log-probability of something drawn or chosen, with a graph."""
BLENDED = "blended"
"""Whole numbers of which a resize made averages."""
DECISION = "decision"
"""Indices of largest numbers."""
CLAMPED = "clamped"
"""What clamp() gave for numbers with a graph."""
NOISE = "noise"
"""Random numbers of a fixed size, as randn() gives."""
ONE_SIDED = "noise-from-0-to-1"
DEVIATION = "deviation"
"""exp() or softplus() of an output, and its root."""
DETACHED = "detached-output"
"""What detach() gave for an output with a graph, and what is computed from it."""
SHIFTED = "one-sided-noise-times-deviation"
STOPPED = "noise-times-detached-deviation"
LOWERED = "negative-score"
"""A number minus a score."""
INVERTED = "inverted-ratio"
"""exp() of it."""
RAISED = "score-minus-earlier"
"""A score minus numbers without graph, which are not its own."""
RATIO = "ratio"
"""exp() of it."""
SIGNED_SUM = "sum-of-both-signs"
"""A sum of what a linear function computed, with a graph, of numbers of both signs."""

RESHAPES = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "swapaxes",
        "movedim",
        "t",
        "contiguous",
        "clone",
        "float",
        "double",
        "to",
        "type_as",
        "getitem",
        "chunk",
        "split",
        "expand",
        "narrow",
        "select",
    ]
)
"""Functions whose result holds the numbers of their first argument, by their plain names."""
_PASSES = RESHAPES | {"detach", "type", "half", "bfloat16", "long", "int", "cat", "stack"}
"""The same, with those that round, that end the graph, or that join several tensors."""
_ARITHMETIC = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "true_divide",
        "multiply",
        "subtract",
        "divide",
        "neg",
        "negative",
        "pow",
        "square",
        "sqrt",
        "abs",
        "sum",
        "mean",
        "exp",
        "log",
        "clamp",
        "clip",
        "minimum",
        "maximum",
        "min",
        "max",
        "where",
        "addcmul",
        "lerp",
        "masked_fill",
    ]
)
_CARRIED: Mapping[str, Collection[str]] = {
    OUTPUT: _PASSES | _ARITHMETIC,
    LARGEST: _PASSES | {"add", "mul", "multiply"},
    UNTRAINED: _PASSES | _ARITHMETIC,
    MEAN_LOSS: frozenset(("neg", "negative", "mul", "div", "truediv", "clone", "squeeze", "mean", "sum")),
    CHANCE: _PASSES | _ARITHMETIC,
    ONE_NUMBER: _PASSES | _ARITHMETIC,
    NORMALISER: _PASSES,
    LOG_PROBABILITIES: _PASSES,
    DRAWN: _PASSES,
    SCORE: _PASSES | _ARITHMETIC,
    BLENDED: _PASSES | {"round", "floor", "ceil", "clamp"},
    DECISION: _PASSES,
    SIGNED_SUM: _PASSES | {"add", "mul", "multiply", "clamp"},
    CLAMPED: _PASSES | _ARITHMETIC,
    NOISE: _PASSES,
    ONE_SIDED: _PASSES,
    DEVIATION: _PASSES | {"sqrt", "clamp", "clip"},
    DETACHED: _PASSES | _ARITHMETIC,
    SHIFTED: _PASSES,
    STOPPED: _PASSES,
    LOWERED: _PASSES | {"clamp", "clip"},
    INVERTED: _PASSES | {"clamp", "clip"},
    RAISED: _PASSES | {"clamp", "clip"},
    RATIO: _PASSES | {"clamp", "clip"},
}
"""Origin -> functions whose result has the origin of their arguments."""
_SAME = 1e-6  # difference from 1 of a ratio of equal probabilities, by rounding
_PARTS = ("chunk", "split", "unbind", "tensor_split")
"""Functions whose results hold the numbers of their first argument together."""
_LINEAR = ("linear", "bilinear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "einsum")
_POSITIVE = ("exp", "softplus")
_NOISES = ("randn", "randn_like", "rand", "rand_like", "normal", "uniform")
_CHOICES = ("multinomial", "bernoulli")
_RANKS = ("argmax", "argmin")
_SMOOTH = ("linear", "bilinear", "bicubic", "trilinear", "area")
_CLASSIFYING = (F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
_RESIZES = ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d")
_LOSSES = (*_CLASSIFYING, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div)


def plain_name(name: str) -> str:
    """The name of a function without the marks of its variants: `__rsub__`, `sub_` and `isub` are `sub`."""
    short = name.strip("_")
    for mark in ("r", "i"):
        if short.removeprefix(mark) in _ARITHMETIC and short not in _ARITHMETIC:
            return short.removeprefix(mark)
    return short


@dataclass(frozen=True)
class Product:
    """A product or quotient of two numbers whose origins do not fit.

    Attributes:
        place: Text that says by which operation.
        line: File and line.
        gradient: The gradients that came to the product, none until a backward pass has run.
    """

    place: str
    line: str
    gradient: list[Tensor]


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


class ValueOrigins:
    """The origins of the tensors of one step.

    Attributes:
        weighted_means: Products of a mean loss and a chance that was computed from it.
        weighted_numbers: Products of one number for all samples, of their losses or scores, and a weight for each.
        divided: Quotients whose divisor is a sum of outputs of both signs.
        weighted_scores: Products of log-probabilities of choices and a weight of both signs that has a graph itself.
        inverted: Products of a weight of both signs and a ratio of the probability before to that of now.
        shifted: Sums of an output and noise from 0 to 1 that is scaled by a deviation.
        stopped: Sums of a mean with a graph and noise that is scaled by a deviation whose graph detach() ended.
        ratios: Products of a weight and a ratio of probabilities of choices to those before.
        updates: Updates of the optimisers so far.
    """

    def __init__(self) -> None:
        self.divided: list[Product] = []
        self.weighted_means: list[Product] = []
        self.weighted_numbers: list[Product] = []
        self._lengths: set[int] = set()  # of the losses and scores that became one number
        self.weighted_scores: list[Product] = []
        self.inverted: list[Product] = []
        self.shifted: list[Product] = []
        self.stopped: list[Product] = []
        self.ratios: list[Ratio] = []
        self.updates = 0
        # By id; the tensors are kept, so that no id is used again.
        self._known: dict[int, tuple[Tensor, frozenset[str]]] = {}

    def of(self, value: Any) -> frozenset[str]:
        """The origins of a value."""
        found = self._known.get(id(value))
        return found[1] if found is not None and found[0] is value else frozenset()

    def give(self, value: Any, *origins: str) -> None:
        """Add origins to all tensors in a value."""
        for each in tensors_in(value):
            self._known[id(each)] = (each, self.of(each) | set(origins))

    def note(
        self,
        func: Any,
        name: str,
        given: list[Tensor],
        kwargs: Mapping[str, Any],
        result: Any,
        place: Callable[[], tuple[str, str]],
    ) -> None:
        """A function was called.

        Args:
            given: All tensors that it was given.
            place: Function that says by which operation, and at which line.
        """
        reversed_ = name.startswith(("rsub", "__rsub"))
        name = plain_name(name)
        if name == "max" and not isinstance(result, Tensor):
            indices = getattr(result, "indices", None)
            self.give(indices, DECISION)
            return
        if name in _PARTS and isinstance(result, (tuple, list)):
            self.give(result, *(each for each in self.of(given[0]) if "split" in _CARRIED[each]))
            return
        if not isinstance(result, Tensor) or not is_dense(result):
            return
        origins = set().union(*(self.of(each) for each in given))
        carried = {each for each in origins if name in _CARRIED[each]}
        if name == "add" and len(given) == 1:  # and a number
            carried |= origins & {DEVIATION}
        carried |= self._first(func, name, given, kwargs, result, carried)
        carried |= self._of_scores(name, given[::-1] if reversed_ else given, result)
        if result.requires_grad:
            carried.discard(UNTRAINED)
        if carried:
            self._known[id(result)] = (result, frozenset(carried) | self.of(result))
        divides = name in ("div", "truediv", "true_divide", "divide") and len(given) == 2
        if divides and result.requires_grad and SIGNED_SUM in self.of(given[1]):
            self.divided.append(_product(result, place))
        if name in ("mul", "multiply") and len(given) == 2 and any(RATIO in self.of(each) for each in given):
            self._note_ratio(given, place)
        if name in ("mul", "multiply") and len(given) == 2 and result.requires_grad:
            self._look_at_product(given, result, place)
        sums = name == "add" and len(given) == 2 and all(each.requires_grad for each in given)
        if sums and sum(SHIFTED in self.of(each) for each in given) == 1:
            self.shifted.append(_product(result, place))
        if name == "add" and len(given) == 2 and any(map(self._is_stopped, given, given[::-1])):
            self.stopped.append(_product(result, place))

    def _note_ratio(self, given: Sequence[Tensor], place: Callable[[], tuple[str, str]]) -> None:
        for ratio, weight in (given, given[::-1]):
            fits = ratio.shape == weight.shape and not weight.requires_grad
            if RATIO in self.of(ratio) and fits:
                one = bool(((ratio - 1).abs() <= _SAME).all())
                self.ratios.append(Ratio(place()[0], one, weight.clone(), self.updates))

    def _is_stopped(self, noise: Tensor, mean: Tensor) -> bool:
        """Whether noise has a detached deviation, and the mean that it is added to has a graph."""
        alike = mean.requires_grad and not noise.requires_grad and mean.shape == noise.shape
        return alike and STOPPED in self.of(noise)

    def _first(
        self,
        func: Any,
        name: str,
        given: list[Tensor],
        kwargs: Mapping[str, Any],
        result: Tensor,
        carried: Collection[str],
    ) -> set[str]:
        """The origins that begin with this function."""
        if name in _NOISES and not result.requires_grad:
            return {NOISE, ONE_SIDED} if name in ("rand", "rand_like") else {NOISE}
        if not given:
            return set()
        first, found = given[0], set()
        if name in _LINEAR:
            found.add(OUTPUT)
        trained = any(each.requires_grad for each in given)
        if func in _LOSSES or name in ("log_softmax", "logsigmoid"):
            if not result.requires_grad and not trained:
                found.add(UNTRAINED)
            if func in _LOSSES and result.requires_grad and result.numel() == 1 and _targets(given) > 1:
                found |= {ONE_NUMBER, MEAN_LOSS} if func in _CLASSIFYING else {ONE_NUMBER}
                self._lengths.add(len(given[1]))
        if name in ("sum", "mean") and SCORE in self.of(first) and _is_one_of_several(first, result):
            found.add(ONE_NUMBER)
            self._lengths.add(len(first))
        if name == "exp" and MEAN_LOSS in self.of(first) and float(first.detach()) < 0:
            found.add(CHANCE)
        if name in ("max", "amax") and _is_of_all(given, result) and OUTPUT in self.of(first):
            found.add(LARGEST)
        if name == "sum" and OUTPUT in self.of(first) and result.requires_grad and _has_both_signs(first):
            found.add(SIGNED_SUM)
        if name == "detach" and first.requires_grad and OUTPUT in self.of(first):
            found.add(DETACHED)
        if name in ("clamp", "clip") and first.requires_grad:
            found.add(CLAMPED)
        if name == "logsumexp":
            found.add(NORMALISER)
        if name in ("log_softmax", "logsigmoid") or (name == "sub" and NORMALISER in self.of(given[-1])):
            found.add(LOG_PROBABILITIES)
        if name in _CHOICES:
            found.add(DRAWN)
        if result.requires_grad and name == "gather":
            index = set().union(*(self.of(each) for each in given[1:]))
            if DRAWN in index or LOG_PROBABILITIES in self.of(first):
                found.add(SCORE)
        elif result.requires_grad and in_density():
            found.add(SCORE)
        if name in _RANKS:
            found.add(DECISION)
        averaged = name in _RESIZES or (name == "interpolate" and kwargs.get("mode") in _SMOOTH)
        if averaged and _is_whole(first) and not _is_whole(result):
            found.add(BLENDED)
        return found

    def _of_scores(self, name: str, given: Sequence[Tensor], result: Tensor) -> set[str]:
        """The origins that tell a ratio of probabilities, and noise that is scaled, by the order of their arguments."""
        origins = [self.of(each) for each in given]
        if in_density():
            return set()
        if name in ("mul", "multiply") and len(given) == 2 and not result.requires_grad:
            stopped = any(NOISE in one and DEVIATION in other for one, other in (origins, origins[::-1]))
            return {STOPPED} if stopped else set()
        if not result.requires_grad:
            return {DEVIATION} if name in _POSITIVE and DETACHED in origins[0] else set()
        if name in _POSITIVE and SCORE not in origins[0]:
            return {DEVIATION}
        if name in ("sub", "subtract") and len(given) == 2 and SCORE in origins[0]:
            apart = memory_of(given[0]) != memory_of(given[1])
            return {RAISED} if apart and not given[1].requires_grad else set()
        if name in ("sub", "subtract") and len(given) == 2 and SCORE in origins[1]:
            return set() if given[0].requires_grad else {LOWERED}
        if name == "exp" and LOWERED in origins[0]:
            return {INVERTED}
        if name == "exp" and RAISED in origins[0]:
            return {RATIO}
        if name in ("mul", "multiply") and len(given) == 2:
            pairs = (origins, origins[::-1])
            return (
                {SHIFTED} if any(ONE_SIDED in one and DEVIATION in other for one, other in pairs) else set()
            )
        return set()

    def _look_at_product(
        self, given: list[Tensor], result: Tensor, place: Callable[[], tuple[str, str]]
    ) -> None:
        one, other = (self.of(each) for each in given)
        if any(CHANCE in first and MEAN_LOSS in second for first, second in ((one, other), (other, one))):
            self.weighted_means.append(_product(result, place))
        for number, weight in (given, given[::-1]):
            of_all = ONE_NUMBER in self.of(number) and number.numel() == 1
            if of_all and _is_weight(weight) and len(weight) in self._lengths:
                self.weighted_numbers.append(_product(result, place))
        for ratio, weight in (given, given[::-1]):
            plain = ratio.shape == weight.shape and weight.numel() > 1 and not weight.requires_grad
            if INVERTED in self.of(ratio) and plain and _has_both_signs(weight):
                self.inverted.append(_product(result, place))
        for score, weight in (given, given[::-1]):
            fits = score.shape == weight.shape and weight.numel() > 1 and weight.requires_grad
            if SCORE not in self.of(score) or SCORE in self.of(weight) or not fits or in_density():
                continue
            if _has_both_signs(weight):
                self.weighted_scores.append(_product(result, place))


def _product(result: Tensor, place: Callable[[], tuple[str, str]]) -> Product:
    gradient: list[Tensor] = []
    if result.grad_fn is not None:
        result.register_hook(gradient.append)
    return Product(*place(), gradient)


def _is_of_all(given: list[Tensor], result: Tensor) -> bool:
    """Whether a result without graph is one number for several rows."""
    several = len(given) == 1 and given[0].dim() > 1 and len(given[0]) > 1
    return several and result.dim() == 0 and not result.requires_grad


def _is_one_of_several(given: Tensor, result: Tensor) -> bool:
    """Whether one number with a graph was made of several rows; inside a density it belongs to that."""
    several = given.dim() > 0 and len(given) > 1
    return several and result.numel() == 1 and result.requires_grad and not in_density()


def _is_weight(values: Tensor) -> bool:
    """Whether these are different numbers without a graph."""
    plain = values.dim() > 0 and values.numel() > 1 and not values.requires_grad
    return plain and bool((values != values.flatten()[0]).any())


def _targets(given: list[Tensor]) -> int:
    return given[1].numel() if len(given) > 1 else 0


def _has_both_signs(values: Tensor) -> bool:
    return bool((values > 0).any()) and bool((values < 0).any())


def _is_whole(values: Tensor) -> bool:
    """Whether all numbers are whole, and there are several."""
    if not values.is_floating_point() or values.requires_grad:
        return False
    return bool((values == values.round()).all()) and bool((values != values.flatten()[0]).any())
