"""Whether samples of a batch influence each other; the rule is that of the assertion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from diagnostics.findings import Finding
from diagnostics.testing.failure import CheckFailed
from diagnostics.testing.output_assertions import LEAK001, assert_sample_independence


@dataclass(frozen=True)
class SampleIndependence:
    """LEAK001: changing one sample changes the outputs of that sample alone.

    Attributes:
        inputs: Function that takes a batch and returns the arguments of `forward`; their tensors have the samples
            as first dimension.
        forward: Function (model, inputs) -> output; by default `model(*inputs)` for a tuple, else `model(inputs)`.
        training: Whether to judge in training mode, in which batch statistics leak by design.
        watch: Names or patterns of modules, as for `Monitor`.
        tolerance: Largest change allowed, relative to the root mean square of the output. A recursion of our model
            reaches 1e-5 in single precision by rounding alone, since the order of sums depends on the batch.
    """

    inputs: Callable[[Any], Any]
    forward: Callable[[nn.Module, Any], Any] | None = None
    training: bool = False
    watch: Sequence[str] | None = None
    tolerance: float = 1e-4
    rule: ClassVar[str] = LEAK001.id

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """A finding for the first module that mixes samples, if one does."""
        model.train(self.training)
        forward = self.forward
        try:
            assert_sample_independence(
                model,
                self.inputs(batch),
                forward=None if forward is None else lambda inputs: forward(model, inputs),
                watch=self.watch,
                tolerance=self.tolerance,
            )
        except CheckFailed as failed:
            return list(failed.findings)
        return []
