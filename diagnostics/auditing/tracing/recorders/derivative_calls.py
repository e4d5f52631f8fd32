"""Derivatives that a step takes to compute a loss from them, as of a differential equation or a penalty."""

from __future__ import annotations

from torch import Tensor, nn

from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.recording.tensors import is_dense

_FEWEST = 2
"""Numbers of a derivative that are not 0 by chance."""


class DerivativeCalls:
    """Calls of `torch.autograd.grad` with `create_graph=True`, for tensors that are no weights.

    Attributes:
        zero: Those with a derivative that is 0 everywhere.
        others: Places of those with one that is not.
    """

    def __init__(self) -> None:
        self.zero: list[Operation] = []
        self.others: set[str] = set()

    def wants(self, name: str) -> bool:
        """That function alone."""
        return name == "grad"

    def note(self, call: TorchCall) -> None:
        """Note a call whose derivatives have a graph."""
        inputs = call.argument("inputs", 1)
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs or ())
        if not call.argument("create_graph", 4, False) or not isinstance(call.result, tuple):
            return
        for given, slope in zip(inputs, call.result, strict=False):
            if not isinstance(slope, Tensor) or not is_dense(slope) or slope.numel() < _FEWEST:
                continue
            if not given.is_leaf or isinstance(given, nn.Parameter):
                continue  # weights, those of an inner update among them
            if bool(slope.any()):
                self.others.add(call.place)
            else:
                self.zero.append(call.operation())
