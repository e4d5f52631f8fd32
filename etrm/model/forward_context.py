"""How a forward pass is computed: the precision of its products, what is kept for the backward pass, its shapes.

All are context variables, so that no network has settings of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Products:
    """The precision of matrix products, with the weights that were cast to it, by the identity of the parameter."""

    dtype: torch.dtype
    weights: dict[int, Tensor]


class Shapes(Enum):
    """The shapes of the tensors of demonstration pairs."""

    ALL = auto()
    """Groups of similar length, each as large as its pairs need."""
    ALIGNED = auto()
    """The same, with lengths that are multiples of eight and groups of at least two pairs."""
    FEW = auto()
    """Groups of a fixed number of pairs, of rounded length."""
    ONE_GROUP = auto()
    """A single group of a rounded number of pairs, of rounded length."""


Replay = Callable[[nn.Module, Callable[..., Any], tuple[Tensor | None, ...]], Any]
"""From a part, a function of tensors that uses no weights but those of the part, and its arguments, to its result."""

_PRODUCTS: ContextVar[Products | None] = ContextVar("products", default=None)
_RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)
_SHAPES: ContextVar[Shapes] = ContextVar("shapes", default=Shapes.ALL)
_REPLAY: ContextVar[Replay | None] = ContextVar("replay", default=None)


@contextmanager
def products_in(dtype: torch.dtype) -> Iterator[None]:
    """Compute the products of :class:`etrm.model.layers.Linear` in a precision, inside autocast.

    Each weight is cast once. Autocast alone would cast a weight at each of its uses, of which a recursive model has
    dozens in a step. Its cache does not hold parts of weights, nor weights that are first used without gradient.
    """
    with _with_products(Products(dtype, {})):
        yield


@contextmanager
def _with_products(products: Products | None) -> Iterator[None]:
    token = _PRODUCTS.set(products)
    try:
        yield
    finally:
        _PRODUCTS.reset(token)


def find_products() -> Products | None:
    """The precision of products, if it is not that of the weights.

    Always None for a compiler, which fuses the casts and cannot read a context variable.
    """
    return None if torch.compiler.is_compiling() else _PRODUCTS.get()


def cast_input(x: Tensor) -> Tensor:
    """Cast the input of several products to their precision."""
    products = find_products()
    return x if products is None else x.to(products.dtype)


@contextmanager
def recomputing(enabled: bool) -> Iterator[None]:
    """Keep only the arguments of networks for the backward pass, which computes their activations again."""
    token = _RECOMPUTING.set(enabled)
    try:
        yield
    finally:
        _RECOMPUTING.reset(token)


def run_network(network: nn.Module, *args: Any) -> Any:
    """Call a network without randomness; its activations are kept, or computed again in the backward pass."""
    if not _RECOMPUTING.get() or not torch.is_grad_enabled():
        return network(*args)
    products = find_products()  # whose casts the backward pass uses too

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _with_products(products)

    return checkpoint(network, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def rounded_to(shapes: Shapes) -> Iterator[None]:
    """Round the shapes of the tensors of demonstration pairs, which changes results by rounding alone."""
    token = _SHAPES.set(shapes)
    try:
        yield
    finally:
        _SHAPES.reset(token)


def find_shapes() -> Shapes:
    """The shapes of this forward pass."""
    return _SHAPES.get()


@contextmanager
def replaying(replay: Replay | None) -> Iterator[None]:
    """Call the parts of a model through a function, or with None as usual."""
    token = _REPLAY.set(replay)
    try:
        yield
    finally:
        _REPLAY.reset(token)


def run_part(part: nn.Module, function: Callable[..., Any], *args: Tensor | None) -> Any:
    """Call a function of a part, which is called once per forward pass, so that its kernels can be replayed."""
    replay = _REPLAY.get()
    return function(*args) if replay is None else replay(part, function, args)
