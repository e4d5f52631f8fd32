"""Repeats one step of an audit up to its loss, and keeps everything that checks read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.operation_trace import OperationTrace, trace_operations
from diagnostics.auditing.tracing.own_functions import FunctionCall, recording_functions
from diagnostics.recording.tensors import address_of, tensors_in
from diagnostics.recording.weak_hooks import LocalHook

_MOST_SAVED = 2**24
"""Elements of saved tensors that are copied: 64 MB."""


@dataclass(eq=False)
class ObservedStep:
    """What a step left.

    Attributes:
        batch: Its batch.
        loss: The loss, with its graph.
        trace: The operations.
        looked_up: Name of each embedding -> the indices that it was given.
        inputs, output: Tensors that the model was given in its last call, and what it returned.
        call: Function that calls the model again as in its last call; None where it was not called.
        functions: Calls of the user's own autograd functions; the graph of the loss still has what they saved.
        changed: Modules in whose forward pass a value was saved that changed before the backward pass used it.
    """

    batch: Any
    loss: Tensor
    trace: OperationTrace
    looked_up: dict[str, list[Tensor]] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    output: Any = None
    call: Callable[[], Any] | None = None
    changed: list[str] = field(default_factory=list)
    functions: list[FunctionCall] = field(default_factory=list)


def observe_step(model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: Any) -> ObservedStep | None:
    """Run a step up to its loss; None where it does not return one with a graph."""
    with trace_operations(model) as trace, noting(model) as noted, _copying_saved(model, trace) as changed:
        with recording_functions(lambda: trace.module) as functions:
            loss = step(model, batch)
        trace.added.end(loss)
    if not isinstance(loss, Tensor) or not loss.requires_grad or loss.numel() != 1:
        return None
    return ObservedStep(batch, loss.reshape(()), trace, changed=changed, functions=functions, **noted)


@contextmanager
def noting(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Note calls of the model and of its embeddings."""
    noted: dict[str, Any] = {"looked_up": {}}

    def note_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        noted["inputs"], noted["output"] = list(tensors_in((args, kwargs))), output
        noted["call"] = lambda: module(*args, **kwargs)

    def note_lookup(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                noted["looked_up"].setdefault(name, []).append(args[0].detach())

        return note

    handles = [model.register_forward_hook(LocalHook(note_call), with_kwargs=True)]
    for name, module in model.named_modules():
        if type(module) is nn.Embedding:
            handles.append(module.register_forward_hook(LocalHook(note_lookup(name))))
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _copying_saved(model: nn.Module, trace: OperationTrace) -> Iterator[list[str]]:
    """Copy what autograd saves, and compare it when a backward pass uses it.

    A change that torch counts raises an error in the user's own step; what is found here went past the counter. Buffers
    are left out: batch norms save their running statistics, and update them in the same call.
    """
    buffers = {address_of(buffer) for buffer in model.buffers()}
    changed: list[str] = []
    left = [_MOST_SAVED]

    def pack(tensor: Tensor) -> tuple[Tensor, Tensor | None, int, str]:
        if address_of(tensor) in {-1, *buffers} or tensor.is_nested or tensor.numel() > left[0]:
            return tensor, None, 0, ""
        left[0] -= tensor.numel()
        with torch._C.DisableTorchFunction(), torch.no_grad():
            return tensor, tensor.detach().clone(), tensor._version, trace.module

    def unpack(saved: tuple[Tensor, Tensor | None, int, str]) -> Tensor:
        tensor, copy, version, module = saved
        if copy is not None and tensor._version == version:
            with torch.no_grad():
                now = tensor.detach()
                if not torch.equal(now, copy) and not bool(((now == copy) | (now != now)).all()):
                    changed.append(module)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield changed


def slope(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of a loss with respect to values inside its graph, which is kept."""
    return list(torch.autograd.grad(loss, list(tensors), retain_graph=True, allow_unused=True))
