"""How a forward pass is computed: the precision of its products, what is kept for the backward pass, its shapes.

All are context variables, so that no network has settings of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Products:
    """The precision of matrix products, with the weights that were cast to it, by the identity of the parameter."""

    dtype: torch.dtype
    weights: dict[int, Tensor]


_PRODUCTS: ContextVar[Products | None] = ContextVar("products", default=None)
_RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)
_FEW_SHAPES: ContextVar[bool] = ContextVar("few_shapes", default=False)


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
def few_shapes(enabled: bool) -> Iterator[None]:
    """Round the shapes of the tensors of demonstration pairs to few values, which changes results by rounding alone."""
    token = _FEW_SHAPES.set(enabled)
    try:
        yield
    finally:
        _FEW_SHAPES.reset(token)


def has_few_shapes() -> bool:
    """Whether the shapes of this forward pass are rounded to few values."""
    return _FEW_SHAPES.get()
