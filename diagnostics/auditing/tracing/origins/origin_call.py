"""One call of a function with the origins of its arguments, and what a subject does with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from diagnostics.auditing.tracing.function_names import PRODUCTS

Origins = frozenset[str]


@dataclass(frozen=True, slots=True)
class OriginCall:
    """One call of a function that made a tensor.

    Attributes:
        func: The function.
        name: Its plain name.
        given: All tensors that it was given, the minuend first.
        origins: The origins of each of them.
        kwargs: Its named arguments.
        result: What it made.
        place: Function that says by which operation, and at which line.
    """

    func: Any
    name: str
    given: Sequence[Tensor]
    origins: Sequence[Origins]
    kwargs: Mapping[str, Any]
    result: Tensor
    place: Callable[[], tuple[str, str]]

    @property
    def factors(self) -> Iterator[tuple[Tensor, Origins, Tensor, Origins]]:
        """The two factors with their origins, in both orders; none if this is no product of two tensors."""
        if self.name in PRODUCTS and len(self.given) == 2:
            (one, other), (of_one, of_other) = self.given, self.origins
            yield one, of_one, other, of_other
            yield other, of_other, one, of_one

    def has_pair(self, one: str, other: str) -> bool:
        """Whether this is a product of two tensors, one of each origin."""
        return any(one in first and other in second for _, first, _, second in self.factors)


@dataclass(frozen=True)
class Product:
    """A product, quotient or sum of two numbers whose origins do not fit.

    Attributes:
        place: Text that says by which operation.
        line: File and line.
        gradient: The gradients that came to it, none until a backward pass has run.
    """

    place: str
    line: str
    gradient: list[Tensor]

    @classmethod
    def of(cls, call: OriginCall) -> Product:
        """The result of a call."""
        gradient: list[Tensor] = []
        if call.result.grad_fn is not None:
            call.result.register_hook(gradient.append)
        return cls(*call.place(), gradient)


class OriginSubject(Protocol):
    """Origins that belong together, and the calls in which they do not fit.

    Attributes:
        carried: Origin -> plain names of the functions whose result has the origin of their arguments.
    """

    carried: Mapping[str, Collection[str]]

    def begin(self, call: OriginCall) -> set[str]:
        """The origins that begin with a call."""

    def look(self, call: OriginCall) -> None:
        """Keep a call whose arguments do not fit."""


def has_both_signs(values: Tensor) -> bool:
    """Whether some numbers are above and some are below 0."""
    return bool((values > 0).any()) and bool((values < 0).any())
