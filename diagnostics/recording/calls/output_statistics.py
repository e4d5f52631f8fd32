"""How much the output of a module's first call in a step differs between samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.recording.calls.unknown_rows import find_opaque
from diagnostics.recording.process_group import NO_STATS, OutputSums
from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.tensors import Scalars, read_scalars
from diagnostics.records import Absent

_STATS_WIDTH = 4096  # elements of a row: a share of 1e-3 is then measured to a few percent, at a small cost
_STATS_ROWS = 64  # the spread of so many samples is known to a tenth; more would only cost
_HALF = (torch.float16, torch.bfloat16)
_NOT_RAW = Absent("gradient flows into its inputs, or samples are not their first dimension", "not-raw")


class OutputStatistics:
    """Statistics of one output, over at most 64 of its rows and 4096 elements of each.

    Args:
        output: (rows, ...), of a floating-point or complex type.
        inputs: The tensors that the call was given; None where some may be hidden.
        shared: Whether other processes have more rows.
    """

    def __init__(self, output: Tensor, inputs: Sequence[Tensor] | None, shared: bool) -> None:
        rows = len(output)
        some = _some_rows(output.detach())
        self._numbers, total = _sums(some)
        differ = None if inputs is None else _inputs_differ(inputs, rows)
        self._sizes = (rows, output.numel() // rows, len(some), total.numel())
        self._differ: bool | Absent = _NOT_RAW
        if isinstance(differ, Tensor):
            self._numbers = [*self._numbers, differ.to(output.device).float()]
        elif differ is not None:
            self._differ = differ
        self._row_mean = total / len(some) if shared else None
        self._keys = (-1, -1)

    def close(self, readout: Readout) -> None:
        """Add what has to be read on the CPU."""
        row_mean = -1 if self._row_mean is None else readout.add(self._row_mean)
        self._keys = (readout.add_scalars(self._numbers), row_mean)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What is the same in all steps of one kind."""
        return (*self._sizes, self._differ)

    def read(self, readout: Readouts) -> OutputSums:
        """The statistics, once the readout was fetched."""
        rows, elements, seen, width = self._sizes
        apart, of_total, total, *differ = readout.numbers(self._keys[0])
        variance = apart / (seen * width)
        return OutputSums(
            rows,
            elements,
            variance,
            variance + of_total / (seen**2 * width),
            total / (seen * width),
            None if self._row_mean is None else readout[self._keys[1]],
            bool(differ[0]) if differ else self._differ,
        )


def read_statistics(found: OutputStatistics | None, readout: Readouts) -> OutputSums | Absent:
    """The statistics of a module that may have none."""
    return NO_STATS if found is None else found.read(readout)


def _some_rows(output: Tensor) -> Tensor:
    """(at most 64, at most 4096), in single precision or better."""
    rows = output if len(output) <= _STATS_ROWS else output[:: -(-len(output) // _STATS_ROWS)]
    flat = _some_of_each_row(rows.abs() if rows.is_complex() else rows)
    return flat.float() if flat.dtype in _HALF else flat


def _sums(rows: Tensor) -> tuple[Scalars, Tensor]:
    """Three sums: squares of (rows - their mean), squares of their total, that total; and the total itself."""
    total = rows.sum(0)
    apart = torch.sub(rows, total, alpha=1.0 / len(rows)).reshape(-1)
    return read_scalars([torch.dot(apart, apart), torch.dot(total, total), total.sum()]), total


def _inputs_differ(inputs: Sequence[Tensor], rows: int) -> Tensor | bool | None:
    """Whether raw inputs differ between rows; None where they are not raw, or it is not known."""
    leading = []
    for tensor in inputs:
        if tensor.requires_grad and tensor.dim() and tensor.numel():
            return None
        if tensor.dim() and tensor.numel() and tensor.shape[0] == rows:
            leading.append(tensor)
    if not leading:
        return None
    looked_at = [_some_of_each_row(tensor) for tensor in leading]
    if all(some.is_cpu for some in looked_at):
        return any(not torch.equal(some, some[:1].expand_as(some)) for some in looked_at)
    return torch.stack([(some[1:] != some[:1]).any().to(leading[0].device) for some in looked_at]).any()


def raw_inputs(
    given: Sequence[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Sequence[Tensor] | None:
    """The inputs of a call, None where an argument may hide some."""
    if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
        return given
    return None if find_opaque((args, kwargs)) else given


def _some_of_each_row(tensor: Tensor) -> Tensor:
    """(rows, at most 4096)."""
    flat = tensor if tensor.dim() == 2 else tensor.reshape(len(tensor), -1)
    width = flat.shape[1]
    if width <= _STATS_WIDTH:
        return flat
    return flat[:, :: -(-width // _STATS_WIDTH) | 1]  # odd, so that it meets every channel
