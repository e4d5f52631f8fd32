"""Assertions about outputs: samples do not influence each other, and differ from each other.

`inputs` is a tensor, or nested tuples, lists, mappings and dataclasses of them, with the samples as first dimension.
`forward` takes it, by default as `model(*inputs)` for a tuple and `model(inputs)` otherwise. Nothing of the model is
changed. `ignore` takes names and patterns as `pooler.*`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.findings import Finding
from diagnostics.measures.representations import cross_sample_share
from diagnostics.recording.tensors import map_tensors, tensors_in
from diagnostics.recording.weak_hooks import LocalHook
from diagnostics.report.tables import cell, text_table
from diagnostics.rules.families.outputs.collapse import COLLAPSE001, EQUAL_AT_START, FIRST_EQUAL
from diagnostics.rules.rule import CRITICAL, Family, Rule
from diagnostics.selection import check_list, check_patterns, named_by, select_modules
from diagnostics.testing.failure import CheckFailed, failure
from diagnostics.testing.trials import nudge, untouched

Forward = Callable[[Any], object]
_OUTPUT = "(output)"
MIXES_SAMPLES = Cause(
    "mixes-samples", "{module} is the first watched module, in order of execution, that mixes samples"
)
PLACE_IN_BATCH = Cause(
    "place-in-batch",
    "{module} is the first watched module whose result for a sample depends on the sample's place in the batch",
    remedy="Index tables by the token, not by the sample: table[:, : x.shape[1]] for batch-first inputs.",
)
RETURNS_SORTED = Cause(
    "returned-in-other-order",
    "the samples are sorted, as by length for packing, and the results are returned in sorted order, not in"
    " the order of the batch",
    remedy="Undo the order: result[order.argsort()], or pack with enforce_sorted=False.",
)
OVER_SAMPLES = Cause(
    "normalised-over-samples",
    "the features are divided by their norm over dimension 0, which holds the samples: {operation}",
    remedy="Normalise over the features: F.normalize(x, dim=-1).",
)
STEPS_ARE_SAMPLES = Cause(
    "steps-are-samples",
    "a recurrent layer reads dimension 0 as the time, but it holds the samples, so each sample starts from the state"
    " that the one before it left: {operation}",
    remedy="Make the layer with batch_first=True, or exchange the first two dimensions of its input.",
)
COMPETE = Cause(
    "samples-compete",
    "samples influence each other by a choice alone, as where they compete for a place in an expert: a small change of"
    " one changes no other",
    remedy="Nothing, if samples are to compete. If not, look for topk(), sort() or argmax() over the batch dimension.",
)
LEAK001 = Rule(
    "LEAK001",
    CRITICAL,
    "Samples of a batch influence each other",
    "output_change",
    "Look for batch statistics (BatchNorm in training mode), reductions and softmax over the batch"
    " dimension, and reshapes that mix it with another.",
    source="assertion",
    causes=(MIXES_SAMPLES, PLACE_IN_BATCH, RETURNS_SORTED, OVER_SAMPLES, STEPS_ARE_SAMPLES, COMPETE),
    arguments="assert_sample_independence",
    what="`assert_sample_independence`, or the probe `SampleIndependence`: replacing one sample changed the"
    " output of the model, or of a watched module, for another one, by more than the tolerance. An audit"
    " also tests whether a sample's output depends on its place in the batch, and has a note if a small change of a"
    " sample changes no other. A monitor sees recurrent layers that"
    " read the samples as time: the next tokens, or the one output that counts of each sample, are in dimension 1.",
    why="Test scores then depend on the batch, and labels can leak.",
    example="BatchNorm in training mode; a softmax over the batch dimension.",
    false_alarms="Modules that mix by design: `ignore` them, or test in evaluation mode. Rounding"
    " reached 1e-5, the tolerance is 1e-4.",
)
FAMILY = Family(140, "Samples and contexts", (LEAK001,))
_SEED = 0  # the same for every pass, so that dropout draws alike
_LITTLE = 0.01  # of the way to another sample: it seldom changes an order
_ALMOST_NONE = 1e-5  # of the full change; a smooth influence gives about _LITTLE
_SEEN = 8  # numbers of a row by which equal rows are looked for


def assert_sample_independence(
    model: nn.Module,
    inputs: Any,
    *,
    forward: Forward | None = None,
    watch: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    tolerance: float = 1e-4,
    tries: int = 4,
) -> None:
    """Changing one sample changes the outputs of that sample alone, in the mode that the model is in.

    Sample j is replaced by another sample of the batch, for `tries` of them; the rows of every watched module
    and of the output are compared, so that the first module that mixes samples is named. The rows of a module may
    come in another order, as after sorting by length; those of the output may not. A module whose
    output does not have the samples as first dimension is left out; the output of the model must.

    Args:
        tolerance: Relative to the root mean square of the output; other rows may be rounded otherwise.

    Raises:
        AssertionError: Another sample's rows changed.
        ValueError: Fewer than two samples, no tensor, samples that are all equal, or outputs not led by them.
    """
    __tracebackhide__ = True
    batch = _batch_size(inputs)
    judged = _judged(model, watch, ignore)
    with untouched(model):
        before = _outputs(model, judged, forward, inputs, batch)
        worst: dict[str, tuple[float, int, int]] = {}
        donors: dict[int, int] = {}
        reordered: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
        orders: set[str] = set()
        changes = 0
        for changed, donor in _swaps(inputs, batch, tries):
            after = _outputs(model, judged, forward, _replaced(inputs, changed, donor), batch)
            changes += 1
            donors[changed] = donor
            for name in before.keys() & after.keys():
                size, row = _leak(before[name], after[name], changed)
                places = _find_places(before[name], after[name], tolerance) if size > tolerance else None
                if places is not None:
                    reordered[name].append((size, changed, row))
                    # The row that the changed sample reaches may equal the row of its donor; others move in a sort.
                    if sum(place not in (None, own) for own, place in enumerate(places)) > 1:
                        orders.add(name)
                    size = 0.0
                if size > worst.get(name, (-1.0, 0, 0))[0]:
                    worst[name] = (size, changed, row)
        for name, sizes in reordered.items():
            if name not in orders:  # no row moves but that of a changed sample, at another's place
                worst[name] = max(worst[name], *sizes)
        leaking = [name for name in before if name in worst and worst[name][0] > tolerance]
        by_choice = bool(leaking) and all(each.is_floating_point() for each in tensors_in(inputs))
        for changed in {worst[name][1] for name in leaking} if by_choice else ():
            little = _replaced(inputs, changed, donors[changed], _LITTLE)
            after = _outputs(model, judged, forward, little, batch)
            left = {name: _leak(before[name], after[name], changed)[0] for name in leaking if name in after}
            by_choice &= all(size <= _ALMOST_NONE * worst[name][0] for name, size in left.items())
    if not changes:
        raise InvalidValue(
            "assertions.equal-samples", "all samples of the batch are equal: give a batch of different ones"
        )
    before = {name: rows for name, rows in before.items() if name in worst}
    _require_output(before, batch)
    if not leaking and _OUTPUT in orders:
        message = "the model returns the samples in an order that depends on them"
        raise CheckFailed([failure(LEAK001, "", message, 1.0, tolerance, RETURNS_SORTED)], "")
    if leaking:
        size, changed, row = worst[leaking[0]]
        message = (
            f"changing sample {changed} changes the result of {leaking[0]} for sample {row}"
            f" by {size:.3g} of its size"
        )
        rows = [(name, f"{worst[name][0]:.3g}", "yes" if name in leaking else "no") for name in before]
        table = text_table(("module, in order of execution", "change of other samples", "leaks"), rows)
        cause = COMPETE if by_choice else MIXES_SAMPLES.of(module=leaking[0])
        raise CheckFailed([failure(LEAK001, _name(leaking[0]), message, size, tolerance, cause)], table)


def find_place_dependence(
    model: nn.Module, inputs: Any, *, forward: Forward, watch: Sequence[str], tolerance: float = 1e-4
) -> Finding | None:
    """LEAK001 if samples get other outputs when all of them move on by one place; the mode is that of the model.

    None for a model that draws random numbers or keeps a state, because two calls with the same inputs then differ, and
    for inputs with values of samples that are no tensors, which do not move.
    """
    batch = _batch_size(inputs)
    if _hides_samples(inputs, batch):
        return None
    judged = _judged(model, watch, ())
    with untouched(model):
        before = _outputs(model, judged, forward, inputs, batch)
        again = _outputs(model, judged, forward, inputs, batch, seed=_SEED + 1)
        moved = _outputs(
            model, judged, forward, map_tensors(inputs, lambda each: each.detach().roll(1, 0)), batch
        )
    if not all(_differs(before[name], again[name]) <= tolerance for name in before):
        return None
    sizes = {name: _differs(rows, moved[name].roll(-1, 0)) for name, rows in before.items()}
    if sizes.get(_OUTPUT, 0.0) <= tolerance or _differs(before[_OUTPUT], moved[_OUTPUT]) <= tolerance:
        return None  # it moves with the samples, or does not read them
    first = next(name for name, size in sizes.items() if size > tolerance)
    message = (
        f"moving samples to another place in the batch changes their result of {first} by {sizes[first]:.3g}"
    )
    return failure(LEAK001, _name(first), message, sizes[first], tolerance, PLACE_IN_BATCH.of(module=first))


def _hides_samples(value: Any, batch: int) -> bool:
    """Whether something may hold values of single samples that are no tensors: a list of lengths, an unknown object."""
    if value is None or isinstance(value, (Tensor, bool, int, float, str, torch.dtype, torch.device)):
        return False
    if isinstance(value, Mapping):
        return any(_hides_samples(member, batch) for member in value.values())
    if isinstance(value, (tuple, list)):
        counted = len(value) == batch and not all(isinstance(member, Tensor) for member in value)
        return counted or any(_hides_samples(member, batch) for member in value)
    if is_dataclass(value) and not isinstance(value, type):
        return any(_hides_samples(getattr(value, item.name, None), batch) for item in fields(value))
    return True


def _differs(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the size of all."""
    if one.shape != other.shape:
        return float("inf")
    size = float(one.square().mean().sqrt())
    largest = float((one - other).abs().nan_to_num().amax())
    return largest / size if size else largest


def assert_output_diversity(
    model: nn.Module,
    inputs: Any,
    *,
    forward: Forward | None = None,
    at_least: float = COLLAPSE001.options["below"].default,
    watch: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    allow_zero_at_init: bool = True,
    seeds: int = 3,
) -> None:
    """The output of every watched module, and of the model, differs between samples.

    Measured is the share of the mean square that lies in differences between samples. A head that starts at
    zero gives the same for all: on too small a share the same is tried with the weights moved a little.

    Raises:
        AssertionError: Some output is nearly equal for all samples.
        ValueError: Fewer than two samples, no tensor, or outputs that are not led by them.
    """
    __tracebackhide__ = True
    batch = _batch_size(inputs)
    judged = _judged(model, watch, ignore)
    shares = _shares(model, judged, forward, inputs, batch)
    equal = {name for name, share in shares.items() if share is None or share < at_least}
    later: set[str] = set()
    for seed in range(seeds if equal else 0):
        again = _shares(model, judged, forward, inputs, batch, seed)
        later |= {name for name in equal if (share := again.get(name)) is not None and share >= at_least}
    failing = [name for name in shares if name in equal and not (allow_zero_at_init and name in later)]
    if failing:
        share = shares[failing[0]]
        message = (
            f"{failing[0]}: {cell(share)} of its mean square differs between samples, needed {at_least:.3g}"
        )
        cause = EQUAL_AT_START if failing[0] in later else FIRST_EQUAL.of(seeds=seeds)
        value = float("nan") if share is None else share
        rows = [(name, cell(share), "yes" if name in failing else "no") for name, share in shares.items()]
        raise CheckFailed(
            [failure(COLLAPSE001, _name(failing[0]), message, value, at_least, cause)],
            text_table(("module, in order of execution", "share between samples", "too small"), rows),
        )


def _name(module: str) -> str:
    return "" if module == _OUTPUT else module


def _judged(model: nn.Module, watch: Sequence[str] | None, ignore: Sequence[str]) -> dict[str, nn.Module]:
    alone = watch is None and not any(True for _ in model.children())  # its output is all there is to judge
    modules = {} if alone else select_modules(model, watch)
    check_list("ignore", ignore)
    check_patterns("ignore", [pattern.removesuffix(".*") for pattern in ignore], modules)
    return {name: module for name, module in modules.items() if not named_by(ignore, name)}


def _batch_size(inputs: Any) -> int:
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors_in(inputs)}
    if len(sizes) != 1:
        raise InvalidValue(
            "assertions.inputs-without-samples",
            "inputs must be tensors that all have the samples as first dimension, found sizes {got}",
            got=sorted(sizes),
        )
    (size,) = sizes
    if size < 2:
        raise InvalidValue(
            "assertions.too-few-samples", "at least two samples are needed, found {got}", got=size
        )
    return size


def _swaps(inputs: Any, batch: int, tries: int) -> Iterator[tuple[int, int]]:
    """(changed, donor) pairs in which the two samples differ, spread over the batch."""
    count = min(tries, batch)
    for place in range(count):
        changed = place * batch // count
        for offset in range(1, batch):
            donor = (changed + offset) % batch
            if any(not torch.equal(tensor[changed], tensor[donor]) for tensor in tensors_in(inputs)):
                yield changed, donor
                break


def _replaced(value: Any, changed: int, donor: int, share: float = 1.0) -> Any:
    """The inputs with one sample moved to another by a share of the way; below 1 for floating-point inputs."""

    def replaced(tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        copy[changed] = tensor[donor] if share == 1.0 else tensor[changed].lerp(tensor[donor], share)
        return copy

    return map_tensors(value, replaced)


@torch.no_grad()
def _outputs(
    model: nn.Module,
    judged: Mapping[str, nn.Module],
    forward: Forward | None,
    inputs: Any,
    batch: int,
    seed: int = _SEED,
) -> dict[str, Tensor]:
    """(B, elements) of each module's first call and of the output, in order of execution; float64.

    Each call starts from the same buffers: a model may keep a state that depends on the samples.
    """
    found: dict[str, Tensor] = {}
    with untouched(model), _hooked(judged, lambda name, output: found.setdefault(name, _rows(output, batch))):
        torch.manual_seed(seed)
        if forward is not None:
            output = forward(inputs)
        else:
            output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    found[_OUTPUT] = _rows(output, batch)
    return {name: rows for name, rows in found.items() if rows.numel()}


@contextmanager
def _hooked(judged: Mapping[str, nn.Module], note: Callable[[str, Any], object]) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            note(name, output)

        return record

    handles = [module.register_forward_hook(LocalHook(hook(name))) for name, module in judged.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(output: Any, batch: int) -> Tensor:
    """(B, elements) of all tensors with the samples as first dimension; empty if none has."""
    parts = [
        tensor.detach().flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
        for tensor in _unpacked(output)
        if tensor.dim() and tensor.shape[0] == batch and not tensor.is_complex()
    ]
    return torch.cat([part.double().cpu() for part in parts], 1) if parts else torch.zeros(0)


def _unpacked(output: Any) -> Iterator[Tensor]:
    """The tensors of an output; a packed sequence has rows of time steps, and indices that sort the samples."""
    if isinstance(output, nn.utils.rnn.PackedSequence):
        return
    if isinstance(output, tuple | list):
        for member in output:
            yield from _unpacked(member)
    else:
        yield from tensors_in(output)


def _leak(before: Tensor, after: Tensor, changed: int) -> tuple[float, int]:
    """Largest change of a row other than `changed`, relative to the size of all, and which row."""
    if before.shape != after.shape:
        return float("inf"), changed
    difference = (after - before).abs().nan_to_num().amax(1)
    difference[changed] = 0.0
    size = float(before.nan_to_num().square().mean().sqrt())
    row = int(difference.argmax())
    return float(difference[row]) / size if size else float(difference[row]), row


def _find_places(before: Tensor, after: Tensor, tolerance: float) -> list[int | None] | None:
    """The earlier place of each row, its own if equal rows were there; None for a new row.

    None if more rows than that of the changed sample are gone. In a model that sorts all others are still there.
    """
    if before.shape != after.shape:
        return None
    before, after = before.nan_to_num(), after.nan_to_num()
    limit = tolerance * float(before.square().mean().sqrt())
    places = torch.arange(len(before))
    others = ((after - before).abs().amax(1) > limit).nonzero().squeeze(1)
    # Which row may be the same is seen in few numbers of each: all of all rows would be too many to compare.
    random = torch.Generator().manual_seed(_SEED)
    seen = torch.randn(before.shape[1], _SEEN, generator=random, dtype=before.dtype)
    places[others] = torch.cdist(after[others] @ seen, before @ seen).argmin(1)
    new = (after - before[places]).abs().amax(1) > limit
    if int(new.sum()) > 1:  # one sample changed
        return None
    kept = before[places[~new]].unique(dim=0)
    found = [None if gone else place for place, gone in zip(places.tolist(), new.tolist(), strict=True)]
    return found if len(kept) >= len(before.unique(dim=0)) - 1 else None


def _require_output(found: Mapping[str, Tensor], batch: int) -> None:
    if _OUTPUT not in found:
        raise InvalidValue(
            "assertions.output-without-samples",
            "no tensor of the output has the {samples} samples as first dimension: pass a `forward` that returns one",
            samples=batch,
        )


def _shares(
    model: nn.Module,
    judged: Mapping[str, nn.Module],
    forward: Forward | None,
    inputs: Any,
    batch: int,
    seed: int | None = None,
) -> dict[str, float | None]:
    with untouched(model):
        if seed is not None:
            nudge(model, seed)
        found = _outputs(model, judged, forward, inputs, batch)
    _require_output(found, batch)
    return {name: cross_sample_share(rows) for name, rows in found.items()}
