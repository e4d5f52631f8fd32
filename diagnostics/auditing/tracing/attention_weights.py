"""Follows scores of an attention from their product to that of their softmax: over which dimension it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from diagnostics.auditing.tracing.function_names import plain_name
from diagnostics.auditing.tracing.recorded_calls import SoftmaxCall

_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")
_KEEP_SCORES = frozenset(
    [
        "add",
        "sub",
        "mul",
        "multiply",
        "div",
        "divide",
        "truediv",
        "true_divide",
        "masked_fill",
        "where",
        "clamp",
    ]
)
"""Functions after which scores are scores: a scale, a mask, a bias of positions."""
_KEEP_WEIGHTS = frozenset(
    ["dropout", "masked_fill", "to", "float", "half", "bfloat16", "type", "type_as", "contiguous"]
)
"""Functions after which weights sum to what they summed to; a division may normalise them over other elements."""
_LEAST = 1e-6  # weight from which a place counts as seen


class AttentionWeights:
    """Products of two computed tensors, the softmax over them, and the dimension that the next product sums over.

    Attributes:
        reaches: For each use of square weights (..., T, T), T and how many of the places after it each place sees.
    """

    def __init__(self) -> None:
        self.reaches: list[tuple[int, int]] = []
        self._scores: dict[int, Tensor] = {}  # tensors are kept, so that no id comes twice
        self._weights: dict[int, tuple[Tensor, SoftmaxCall, Tensor]] = {}  # the last as before a dropout

    def wants(self, name: str) -> bool:
        """Whether scores or weights go through functions of this name."""
        return plain_name(name) in (*_PRODUCTS, *_KEEP_SCORES, *_KEEP_WEIGHTS)

    def note(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Tensor,
        computed: Callable[[Tensor], bool],
    ) -> None:
        """Note a call.

        Args:
            computed: Function that says whether a tensor comes from the outputs of modules.
        """
        plain = plain_name(name)
        if plain in _PRODUCTS:
            left, right, summed = _factors(plain, args)
            if left is None or right is None:
                return
            self._note_use(left, right, summed)
            if result.dim() > 2 and computed(left) and computed(right):
                self._scores[id(result)] = result
            return
        if plain in _KEEP_SCORES and any(self._is_scores(each, result) for each in args):
            self._scores[id(result)] = result
        if plain in _KEEP_WEIGHTS and args and id(args[0]) in self._weights:
            known, call, whole = self._weights[id(args[0])]
            if known is args[0] and result.shape == known.shape:
                self._weights[id(result)] = (result, call, result if plain == "masked_fill" else whole)

    def add_softmax(self, scores: Any, result: Tensor, call: SoftmaxCall) -> None:
        """Follow the weights that a softmax makes of scores."""
        if self._is_scores(scores, result):
            self._weights[id(result)] = (result, call, result)

    def _is_scores(self, value: Any, result: Tensor) -> bool:
        return (
            self._scores.get(id(value)) is value and isinstance(value, Tensor) and value.shape == result.shape
        )

    def _note_use(self, left: Tensor, right: Tensor, summed: Callable[[Tensor, Tensor], set[int]]) -> None:
        for weights, values in ((left, right), (right, left)):
            known = self._weights.get(id(weights))
            if known is not None and known[0] is weights:
                kept = summed(weights, values)
                queries = [size for dim, size in enumerate(weights.shape) if dim not in kept][-1:]
                if kept and queries != [
                    1
                ]:  # one query for each of several sums, as in capsules, is another design
                    known[1].summed.append(known[1].dim in kept)
                    if weights.dim() > 2 and kept == {weights.dim() - 1} and queries == [weights.shape[-1]]:
                        self.reaches.append((weights.shape[-1], count_later(known[2] > _LEAST)))


def count_later(seen: Tensor) -> int:
    """How many of the places after it each place sees in a mask (..., T, T), as far as there are so many."""
    later = range(1, seen.shape[-1])
    hidden = (each for each in later if not bool(seen.diagonal(each, -2, -1).all()))
    return next(hidden, seen.shape[-1]) - 1


def _factors(
    name: str, args: tuple[Any, ...]
) -> tuple[Tensor | None, Tensor | None, Callable[[Tensor, Tensor], set[int]]]:
    """The two factors of a product, and a function (one, the other) -> the dimensions of the one that it sums over."""
    given = [each for each in _flat(args) if isinstance(each, Tensor)]
    if name == "baddbmm":
        given = given[1:]
    if len(given) != 2:
        return None, None, lambda one, other: set()
    left, right = given
    if name == "einsum":
        return left, right, _summed_by(str(args[0]), left, right)
    return left, right, lambda one, other: {one.dim() - 1} if one is left else {one.dim() - 2}


def _flat(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, (tuple, list)):
            yield from _flat(each)
        else:
            yield each


def _summed_by(equation: str, left: Tensor, right: Tensor) -> Callable[[Tensor, Tensor], set[int]]:
    terms, _, output = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if len(names) != 2 or not output or "." in equation or any(map(_is_odd, names, (left, right))):
        return lambda one, other: set()
    by_id = {id(left): names[0], id(right): names[1]}
    return lambda one, other: {dim for dim, letter in enumerate(by_id[id(one)]) if letter not in output}


def _is_odd(names: str, tensor: Tensor) -> bool:
    return len(names) != tensor.dim()
