"""Statistics of the tensors of a checkpoint, and the differences between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from etrm.checkpoints.published_names import to_our_name
from etrm.checkpoints.weights import Weights
from etrm.errors import CheckpointError
from etrm.setting_texts import flatten

PARTS = {"core.": "core", "encoder.": "encoder", "puzzle_table.": "puzzle table"}


@dataclass(frozen=True)
class TensorSummary:
    """A tensor with statistics of its finite values, computed in float64; None if it has no finite values.

    Attributes:
        name: the name of the tensor in the file.
        part: the part of the model: core, encoder, puzzle table or other.
        std: the population standard deviation (divided by n).
        norm: the Euclidean norm.
        non_finite: the number of values that are NaN or infinite.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    norm: float | None
    non_finite: int


@dataclass(frozen=True)
class Total:
    """Totals over several tensors."""

    tensors: int
    values: int
    bytes: int
    non_finite: int


@dataclass(frozen=True)
class Inspection:
    """A file of weights: its metadata, as in :class:`~etrm.checkpoints.weights.Weights`, and its tensors."""

    path: str
    weights: str
    verified: bool
    step: int | None
    data_hash: str | None
    settings: dict[str, Any] | None
    totals: dict[str, Total]
    tensors: tuple[TensorSummary, ...]


@dataclass(frozen=True)
class TensorComparison:
    """A tensor that both files hold.

    Attributes:
        name: our name of the tensor.
        status: the result of the comparison; ``equal`` means bit for bit, in the same type.
        largest, mean: the largest and mean absolute difference where both values are finite; None if there are none.
        non_finite: the number of positions where at least one of the two values is NaN or infinite.
    """

    name: str
    status: Literal["equal", "different", "other dtype", "other shape"]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    largest: float | None = None
    mean: float | None = None
    non_finite: int = 0


@dataclass(frozen=True)
class WeightsComparison:
    """The comparison of two files of weights.

    Attributes:
        matched: the number of tensors that are equal bit for bit.
        total: the number of tensor names in either file.
        settings: the model settings that differ, with both values; None if a file does not contain its settings.
    """

    first: str
    second: str
    matched: int
    total: int
    tensors: tuple[TensorComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    settings: dict[str, tuple[Any, Any]] | None

    @property
    def equal(self) -> bool:
        """Whether all tensors are in both files and equal bit for bit, and no known setting differs."""
        return self.matched == self.total and not self.settings


def inspect_weights(weights: Weights) -> Inspection:
    """Return statistics of every tensor and the totals."""
    tensors = tuple(_summary(name, tensor) for name, tensor in sorted(weights.tensors.items()))
    parts = dict.fromkeys(tensor.part for tensor in tensors)
    totals = {part: _total([t for t in tensors if t.part == part], weights.tensors) for part in parts}
    if len(totals) > 1:
        totals["all"] = _total(tensors, weights.tensors)
    return Inspection(
        path=str(weights.path),
        weights=weights.kind,
        verified=weights.verified,
        step=weights.step,
        data_hash=weights.data_hash,
        settings=weights.settings,
        totals=totals,
        tensors=tensors,
    )


def compare_weights(first: Weights, second: Weights) -> WeightsComparison:
    """Compare two files tensor by tensor, under our names.

    Raises:
        CheckpointError: two tensors in a file map to the same name.
    """
    ours, theirs = use_our_names(first), use_our_names(second)
    both = sorted(ours.keys() & theirs.keys())
    tensors = tuple(_compare(name, ours[name], theirs[name]) for name in both)
    return WeightsComparison(
        first=str(first.path),
        second=str(second.path),
        matched=sum(tensor.status == "equal" for tensor in tensors),
        total=len(ours.keys() | theirs.keys()),
        tensors=tensors,
        only_first=tuple(sorted(ours.keys() - theirs.keys())),
        only_second=tuple(sorted(theirs.keys() - ours.keys())),
        settings=_differing(first.settings, second.settings),
    )


def use_our_names(weights: Weights) -> dict[str, Tensor]:
    """Return the tensors under our names.

    Raises:
        CheckpointError: two names in the file denote the same tensor.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in weights.tensors.items():
        ours = to_our_name(name)
        if ours in found:
            raise CheckpointError(
                "checkpoint.duplicate-tensor",
                f"{weights.path} holds the tensor {ours} twice",
                got=f"{found[ours][0]} and {name}",
                next_step="remove one of the two from the file",
            )
        found[ours] = (name, tensor)
    return {ours: tensor for ours, (_, tensor) in found.items()}


def _summary(name: str, tensor: Tensor) -> TensorSummary:
    values = tensor.double().flatten()
    finite = values[values.isfinite()]
    numbers: dict[str, float | None] = dict.fromkeys(("mean", "std", "min", "max", "norm"))
    if len(finite):
        found = finite.mean(), finite.std(correction=0), finite.min(), finite.max(), finite.norm()
        numbers = {name: float(number) for name, number in zip(numbers, found, strict=True)}
    part = next((part for start, part in PARTS.items() if to_our_name(name).startswith(start)), "other")
    return TensorSummary(
        name=name,
        part=part,
        shape=tuple(tensor.shape),
        dtype=_dtype(tensor),
        non_finite=len(values) - len(finite),
        **numbers,
    )


def _total(summaries: Iterable[TensorSummary], tensors: dict[str, Tensor]) -> Total:
    held = list(summaries)
    return Total(
        tensors=len(held),
        values=sum(tensors[summary.name].numel() for summary in held),
        bytes=sum(tensors[summary.name].nbytes for summary in held),
        non_finite=sum(summary.non_finite for summary in held),
    )


def _compare(name: str, first: Tensor, second: Tensor) -> TensorComparison:
    shapes = tuple(first.shape), tuple(second.shape)
    dtypes = _dtype(first), _dtype(second)
    if shapes[0] != shapes[1]:
        return TensorComparison(name, "other shape", shapes, dtypes)
    one, two = first.double(), second.double()
    finite = one.isfinite() & two.isfinite()
    differences = (one - two)[finite].abs()
    if dtypes[0] != dtypes[1]:
        status: Literal["equal", "different", "other dtype"] = "other dtype"
    else:
        status = "equal" if _bytes(first) == _bytes(second) else "different"
    return TensorComparison(
        name,
        status,
        shapes,
        dtypes,
        largest=float(differences.max()) if len(differences) else None,
        mean=float(differences.mean()) if len(differences) else None,
        non_finite=int((~finite).sum()),
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _differing(
    first: dict[str, Any] | None, second: dict[str, Any] | None
) -> dict[str, tuple[Any, Any]] | None:
    if first is None or second is None:
        return None
    ours, theirs = flatten(first), flatten(second)
    names = sorted(ours.keys() | theirs.keys())
    return {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}
