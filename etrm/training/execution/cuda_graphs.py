"""CUDA graphs of the parts of a model, for models so small that starting their kernels takes most of a step.

The reader of the pairs' vectors and the core are captured, each with its backward pass, once for every shape of their
arguments, and with ``train.static_shapes`` the encoder of the pairs too, which then takes all pairs at once. What
watches a part from inside (hooks) is not called in a replay, so steps that the monitor records or that are compared
with the reference are computed as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from etrm.config import TrainConfig
from etrm.errors import ConfigError
from etrm.model.forward_context import find_products, products_in, replaying

MOST_GRAPHS = 128
"""Shapes that are captured at most, all parts together; others are computed as usual. Few runs have 20."""

Capture = Callable[..., Callable[..., Any]]
"""From a module, its arguments, and the named memory pool to a function that replays it."""

_WATCHED: ContextVar[bool] = ContextVar("watched", default=False)


@contextmanager
def watched() -> Iterator[None]:
    """Replay no graph inside, because hooks must be called."""
    token = _WATCHED.set(True)
    try:
        yield
    finally:
        _WATCHED.reset(token)


class _Part(nn.Module):
    """A function of tensors that uses the weights of a part, as the module that is captured.

    Args:
        part: the module that holds the weights.
        function: the function.
        exists: flag of each argument, whether it is a tensor; the others are None.
    """

    def __init__(self, part: nn.Module, function: Callable[..., Any], exists: tuple[bool, ...]) -> None:
        super().__init__()
        self.part = part
        self._call = (function,)  # in a tuple, so that a function that is the part is not registered twice
        self._exists = exists
        self.train(part.training)

    def forward(self, *tensors: Tensor) -> Any:
        rest = iter(tensors)
        args = [next(rest) if exists else None for exists in self._exists]
        products = find_products()
        # Casts of weights belong to the graph: those of the step outside are of other weights when it is replayed.
        with nullcontext() if products is None else products_in(products.dtype):
            return self._call[0](*args)


class CudaGraphs:
    """The captured parts of one run.

    A part is called once per step: its second call would overwrite what the backward pass of the first one reads.

    Args:
        train: the settings of the run.
        device: its device.
        capture: the function that captures a module, by default torch's for CUDA.
        make_pool: the function that returns a new pool of memory for graphs.

    Raises:
        ConfigError: there is no GPU, or the settings call a part more than once per step.
    """

    def __init__(
        self,
        train: TrainConfig,
        device: torch.device,
        capture: Capture | None = None,
        make_pool: Callable[[], object] = torch.cuda.graph_pool_handle,
    ) -> None:
        if capture is None and device.type != "cuda":
            raise ConfigError(
                "train.no-cuda-graphs",
                f"train.cuda_graphs is not available on this device ({device.type})",
                allowed="a GPU with CUDA",
                next_step="train.cuda_graphs=false",
            )
        if train.accumulate > 1:
            raise ConfigError(
                "train.cuda-graphs-in-parts",
                "train.cuda_graphs cannot replay several parts of a batch before one update",
                got=f"train.accumulate={train.accumulate}",
                allowed="train.accumulate=1",
                next_step="train.cuda_graphs=false",
            )
        self._capture: Capture = capture or torch.cuda.make_graphed_callables
        # torch captures in a stream of its own. The nodes that accumulate gradients stay there, of which newer versions
        # warn.
        warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if warn is not None:
            warn(False)
        self._make_pool = make_pool
        # One for each part. All shapes of a part share it, because only one of them is in use at a time. Two parts
        # in one pool would overwrite what the backward pass of the other reads.
        self._pools: dict[int, object] = {}
        self._captured: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @property
    def count(self) -> int:
        """Number of captured shapes of all parts."""
        return len(self._captured)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Replay the parts of a model that is called inside, unless something watches it."""
        with replaying(None if _WATCHED.get() else self._call):
            yield

    def _call(self, part: nn.Module, function: Callable[..., Any], args: tuple[Tensor | None, ...]) -> Any:
        given = tuple(arg for arg in args if arg is not None)
        if not torch.is_grad_enabled() or not part.training:
            return function(*args)
        exists = tuple(arg is not None for arg in args)
        shapes = tuple((arg.shape, arg.stride(), arg.dtype, arg.requires_grad) for arg in given)
        trained = tuple(weight.requires_grad for weight in part.parameters())
        key = (id(part), exists, shapes, trained)
        replay = self._captured.get(key)
        if replay is None:
            if len(self._captured) >= MOST_GRAPHS or not (
                any(trained) or any(a.requires_grad for a in given)
            ):
                return function(*args)
            if id(part) not in self._pools:
                self._pools[id(part)] = self._make_pool()
            samples = tuple(arg.detach().clone().requires_grad_(arg.requires_grad) for arg in given)
            replay = self._captured[key] = self._capture(
                _Part(part, function, exists), samples, allow_unused_input=True, pool=self._pools[id(part)]
            )
        found: Tensor | tuple[Tensor, ...] = replay(*given)
        # Copies, because the next replay of the same shapes, maybe in another bucket, writes to the same memory.
        return found.clone() if isinstance(found, Tensor) else tuple(each.clone() for each in found)
