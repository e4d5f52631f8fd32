"""Calls outside of all modules that limit numbers, and so may cut off all of them, or the branch with the gradient."""

from __future__ import annotations

from torch import Tensor

from diagnostics.auditing.tracing.origins.outputs import CLAMPED
from diagnostics.auditing.tracing.recorded_calls import Arrived, BranchCall, Operation
from diagnostics.auditing.tracing.torch_call import TorchCall

_EXTREMES = ("max", "min", "maximum", "minimum")
_CLAMPS = ("clamp", "clip", "relu")
_FEWEST = 8  # elements, from which all of them are not cut off by chance


class ClampCalls:
    """Calls that limit numbers.

    Attributes:
        clamped: Where clamp() or relu() outside of all modules cut off every number.
        branches: Maxima and minima of two tensors, one of which was clamped.
    """

    def __init__(self) -> None:
        self.clamped: list[Operation] = []
        self.branches: list[BranchCall] = []

    def wants(self, name: str) -> bool:
        """Those of clamps, maxima and minima."""
        return name.strip("_") in _CLAMPS or name in _EXTREMES

    def note(self, call: TorchCall) -> None:
        """Note a call outside of all modules."""
        result = call.result
        if call.step.running or not isinstance(result, Tensor) or not result.requires_grad:
            return
        if call.name in _EXTREMES:
            self._note_branch(call, result)
        else:
            self._note_clamp(call, result)

    def _note_clamp(self, call: TorchCall, result: Tensor) -> None:
        """Note where no number is left as it was."""
        given = call.args[0]
        alike = isinstance(given, Tensor) and given.shape == result.shape and result.numel() >= _FEWEST
        if alike and bool((given != result).all()):
            self.clamped.append(call.operation())

    def _note_branch(self, call: TorchCall, result: Tensor) -> None:
        given = call.pair
        if len(given) > 1 and sum(CLAMPED in call.step.origins.of(each) for each in given) == 1:
            self.branches.append(BranchCall(call.operation(), call.step.sources(given), Arrived(result)))
