"""One step on several processes: the facts of each, merged to those of a single process.

Rows of the processes follow each other in the order of their ranks. The n-th calls of a module are
taken for one call: where a module is called more often on one process than on another, the others had no
rows in those calls.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diagnostics.recording.sample_sizes import SampleSizes
from diagnostics.records import Absent, CallRecord, OutputStats

NO_STATS = Absent("no output with a row per sample, or fewer than two rows", "no-rows-to-compare")
_ALL_ZERO = Absent("the output is all zero", "zero-output")


@dataclass(frozen=True, eq=False)
class OutputSums:
    """Sums over a module's first call on one process, which add up over processes.

    Attributes:
        rows, elements: Numbers of rows and elements, as in `OutputStats`.
        variance: Variance over the rows, averaged over the inspected elements.
        mean_square, mean: Averages over rows and elements.
        row_mean: (inspected elements,) mean over the rows; None without other processes.
        inputs_differ: Whether the inputs differ, as in `OutputStats`.
    """

    rows: int
    elements: int
    variance: float
    mean_square: float
    mean: float
    row_mean: Tensor | None = None
    inputs_differ: bool | Absent = NO_STATS

    def stats(self) -> OutputStats | Absent:
        """What is recorded."""
        if self.rows < 2:
            return NO_STATS
        share = self.variance / self.mean_square if self.mean_square else _ALL_ZERO
        return OutputStats(
            self.rows, self.elements, self.mean, self.mean_square**0.5, share, self.inputs_differ
        )


@dataclass(frozen=True, eq=False)
class ModuleFacts:
    """The facts of one module in one step, of one process or of all.

    Attributes:
        calls: Its forward calls, in order.
        unmatched: Reasons why gradient came to outputs whose rows are not known, one per call.
        output: Output of its first call.
        evaluating: Layers in it that are in evaluation mode; see `ModuleRecord`.
        sizes: Gradients of its samples, where several steps are recorded together; None for a single step.
    """

    calls: tuple[CallRecord, ...]
    unmatched: list[Absent]
    output: OutputSums | Absent
    evaluating: tuple[str, ...] = ()
    sizes: SampleSizes | None = None


@dataclass(frozen=True, eq=False)
class StepFacts:
    """The facts of one step, of one process or of all.

    Attributes:
        samples: Samples in the loss.
        modules: Facts of each watched module, by name.
        order: Watched modules in the order of their first call.
        arrived: Positions of the parameters that a gradient came to.
        leftover: Position -> norm of what `.grad` held before the backward pass; None where none began.
        flow: Watched module -> those that feed it, as far as known; see `Flow`.
    """

    samples: int
    modules: Mapping[str, ModuleFacts]
    order: tuple[str, ...]
    arrived: frozenset[int]
    leftover: Mapping[int, float] | None
    flow: Mapping[str, frozenset[str]]


def everywhere(facts: StepFacts, group: dist.ProcessGroup | None) -> StepFacts:
    """The facts of all processes of a group, on each of them; of this one alone without a group."""
    if group is None:
        return facts
    return merge(_exchange(facts, group))


def gather_rows(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows (leading dimension) of all processes, in the order of their ranks, detached, on the CPU."""
    return torch.cat(_exchange(tensor.detach().cpu(), group))


def _exchange(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """The values of all processes, in the order of their ranks.

    As `dist.all_gather_object`, which needs numpy; the toolkit needs torch alone.
    """
    nccl = dist.get_backend(group) == "nccl"  # which exchanges tensors of GPUs only
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(device)
    sizes = _all_gather(torch.tensor([len(own)], device=device), group)
    padded = own.new_zeros(max(int(size) for size in sizes))
    padded[: len(own)] = own
    parts = [part.cpu() for part in _all_gather(padded, group)]
    return [
        pickle.loads(ctypes.string_at(part.data_ptr(), int(size)))
        for part, size in zip(parts, sizes, strict=True)
    ]


def _all_gather(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, tensor, group=group)
    return found


def merge(facts: Sequence[StepFacts]) -> StepFacts:
    """The facts of several processes as those of one that computed all their samples."""
    return StepFacts(
        samples=sum(part.samples for part in facts),
        modules={name: _merge_module(facts, name) for name in facts[0].modules},
        order=_merge_orders([part.order for part in facts]),
        arrived=frozenset().union(*(part.arrived for part in facts)),
        # reduced gradients are the same on all, but a process without gradient of its own did not look
        leftover=next((part.leftover for part in facts if part.leftover is not None), None),
        flow={
            name: frozenset().union(*(part.flow.get(name, frozenset()) for part in facts))
            for name in facts[0].modules
        },
    )


def _merge_orders(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """That of the process that called most modules; the others may have left some out."""
    fullest_first = sorted(orders, key=len, reverse=True)
    return tuple(dict.fromkeys(name for order in fullest_first for name in order))


def _merge_module(facts: Sequence[StepFacts], name: str) -> ModuleFacts:
    shifted, before = [], 0
    for part in facts:
        shifted.append([_shift(call, before) for call in part.modules[name].calls])
        before += part.samples
    found = [part.modules[name] for part in facts]
    return ModuleFacts(
        calls=tuple(
            _merge_calls([call for call in calls if call is not None]) for calls in zip_longest(*shifted)
        ),
        unmatched=[reason for part in found for reason in part.unmatched],
        output=_merge_outputs([part.output for part in found]),
        evaluating=tuple(dict.fromkeys(layer for part in found for layer in part.evaluating)),
    )


def _shift(call: CallRecord, samples: int) -> CallRecord:
    """The call with its samples numbered after those of the earlier processes."""
    return call if isinstance(call.samples, Absent) else replace(call, samples=call.samples + samples)


def _merge_calls(calls: Sequence[CallRecord]) -> CallRecord:
    if any(isinstance(call.row_gradients, Tensor) for call in calls):
        calls = [replace(call, row_gradients=_row_gradients(call)) for call in calls]
    merged = {
        item.name: _MERGED[item.name]([getattr(call, item.name) for call in calls])
        for item in fields(CallRecord)
    }
    return CallRecord(**merged)


def _row_gradients(call: CallRecord) -> Tensor | Absent:
    """A size per row: zeros where no gradient arrived, which it did on another process."""
    if isinstance(call.row_gradients, Absent) and not isinstance(call.rows, Absent):
        return torch.zeros(call.rows)
    return call.row_gradients


def _joined(parts: Sequence[Any], join: Any) -> Any:
    """All of them joined, or why one of them is absent."""
    absent = [part for part in parts if isinstance(part, Absent)]
    return absent[0] if absent else join(parts)


_MERGED: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "grad_enabled": any,
    "requires_grad": any,
    "reached": any,
    "gradient": any,
    "rows": lambda parts: _joined(parts, sum),
    "samples": lambda parts: _joined(parts, torch.cat),
    "row_gradients": lambda parts: _joined(parts, torch.cat),
    "recomputed": all,
    "unknown": lambda parts: next((part for part in parts if part is not None), None),
    "checkpointed": any,
    "raw": all,
    "in_sampling": all,
    "perturbed": any,
    "passes": lambda parts: frozenset().union(*parts),
    "largest": max,
}
"""Field of a `CallRecord` -> function from its values on all processes to that of the whole call."""


def _merge_outputs(outputs: Sequence[OutputSums | Absent]) -> OutputSums | Absent:
    known = [output for output in outputs if not isinstance(output, Absent)]
    if not known:
        return outputs[0]
    if len({output.elements for output in known}) > 1:
        return Absent("its output has another size on other processes", "other-size")
    rows = sum(output.rows for output in known)
    shares = [output.rows / rows for output in known]
    means = torch.stack([output.row_mean.double() for output in known if output.row_mean is not None])
    weights = torch.tensor(shares, dtype=torch.float64)
    between = ((means - weights @ means).square().mean(1) * weights).sum()
    return OutputSums(
        rows=rows,
        elements=known[0].elements,
        variance=sum(s * o.variance for s, o in zip(shares, known, strict=True)) + float(between),
        mean_square=sum(s * o.mean_square for s, o in zip(shares, known, strict=True)),
        mean=sum(s * o.mean for s, o in zip(shares, known, strict=True)),
        row_mean=weights @ means,
        inputs_differ=max((output.inputs_differ for output in known), key=_certainty),
    )


def _certainty(differ: bool | Absent) -> int:
    """Inputs differ if they do on one process, and are the same if that is known of all."""
    return 1 if isinstance(differ, Absent) else 2 * differ
