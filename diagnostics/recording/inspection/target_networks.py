"""Measures target networks: how far they are from their sources, and whether a step moves them there."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diagnostics.errors import InvalidValue
from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.tensors import inner_product, measure_norms
from diagnostics.recording.updates.parameters import ParameterWatch
from diagnostics.records import Absent, Number, TargetRecord, root_sum_squares
from diagnostics.selection import check_patterns

_STILL = Absent("the target did not move, or is its source", "no-movement")


class TargetNetworks:
    """The targets of a model.

    Args:
        targets: Name of a target -> name of its source, both modules of the model, as declared.
        guessed: The same of modules whose names say that they are targets.

    Raises:
        InvalidValue: The model lacks one, or the two have other parameters.
    """

    def __init__(
        self, model: nn.Module, targets: Mapping[str, str], guessed: Mapping[str, str] | None = None
    ) -> None:
        self._declared = frozenset(targets)
        known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        self._pairs: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
        self._parts: dict[tuple[str, str], tuple[nn.Module, nn.Module]] = {}
        for target, source in {**(guessed or {}), **targets}.items():
            for name in (target, source):
                if name not in known:
                    check_patterns("targets", [glob.escape(name)], known)
            one, other = (dict(model.get_submodule(name).named_parameters()) for name in (target, source))
            shapes = [{name: weight.shape for name, weight in each.items()} for each in (one, other)]
            if shapes[0] != shapes[1] or target == source:
                raise InvalidValue(
                    "monitor.target-differs",
                    "the target {target!r} must have parameters of the same names and shapes as its source {source!r}",
                    target=target,
                    source=source,
                )
            self._pairs[target, source] = [(one[name], other[name]) for name in one]
            self._parts[target, source] = (model.get_submodule(target), model.get_submodule(source))
        self._starts = {names: [_copy_buffers(each) for each in both] for names, both in self._parts.items()}
        self._versions = {names: _versions(pairs) for names, pairs in self._pairs.items()}

    @torch.no_grad()
    def finish(self, readout: Readout, parameters: ParameterWatch) -> tuple[TargetStep, ...]:
        """End of the step, after that of the parameters."""
        if not self._pairs:
            return ()
        place = {id(tensor): index for index, tensor in enumerate(parameters.tensors)}
        found = []
        for names, pairs in self._pairs.items():
            if all(id(each) in place for pair in pairs for each in pair):
                falls = [tuple(parameters.fall[place[id(each)]] for each in pair) for pair in pairs]
                versions = _versions(pairs)
                written, self._versions[names] = versions != self._versions[names], versions
                stuck = (
                    readout.add_scalars(_count_stuck(pairs, falls)) if written and _is_half(pairs) else None
                )
                parts = zip(self._parts[names], self._starts[names], strict=True)
                buffers = [_measure_buffers(part, start, readout) for part, start in parts]
                known = _Extras(stuck, *buffers)
                found.append(_measure(names, pairs, falls, readout, names[0] in self._declared, known))
        return tuple(found)


@dataclass(frozen=True)
class _Extras:
    """Keys of what is read of some targets only, None where it is not."""

    stuck: int | None
    buffers: int | None
    source_buffers: int | None


def _versions(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[int, ...]:
    """How often torch counted a write to each parameter of the target."""
    return tuple(target._version for target, _ in pairs)


def _is_half(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    return any(target.dtype in (torch.float16, torch.bfloat16) for target, _ in pairs)


def _count_stuck(pairs: Sequence[tuple[Tensor, Tensor]], falls: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Per parameter of the target, how many numbers differ from the source, then how many of these did not change."""
    apart = [source != target for target, source in pairs]
    still = [differs & (fall == 0) for differs, (fall, _) in zip(apart, falls, strict=True)]
    return [each.sum().float() for each in (*apart, *still)]


def _copy_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in _floating_buffers(module)}


def _floating_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point()]


def _measure_buffers(module: nn.Module, start: Mapping[str, Tensor], readout: Readout) -> int | None:
    """Key of how far the buffers are from what they were; None where there are none, or they are others."""
    now = dict(_floating_buffers(module))
    if not now or now.keys() != start.keys() or any(now[name].shape != start[name].shape for name in now):
        return None
    return readout.add_scalars(measure_norms([now[name] - start[name].to(now[name]) for name in now]))


@dataclass(frozen=True)
class TargetStep:
    """What one step left of a target: keys of the readout."""

    target: str
    source: str
    gaps: int
    falls: int
    sources: int
    products: int
    earlier: int
    changes: int
    declared: bool
    extras: _Extras

    def read(self, readout: Readouts) -> TargetRecord:
        """The record, once the readout was fetched."""
        gap, fall, size = (
            root_sum_squares(readout.numbers(key)) for key in (self.gaps, self.falls, self.sources)
        )
        product = sum(readout.numbers(self.products))
        before = gap**2 - 2 * product + fall**2  # square of the distance when the step began
        towards: Number = _STILL
        if fall and before > 0:
            towards = (fall**2 - product) / (fall * before**0.5)
        unit = size or 1.0
        earlier, change = (root_sum_squares(readout.numbers(key)) for key in (self.earlier, self.changes))
        lag: Number = min(gap, earlier) / change if change else _STILL
        known: dict[str, Number] = {}
        if self.extras.stuck is not None:
            counts = readout.numbers(self.extras.stuck)
            apart, still = (sum(part) for part in (counts[: len(counts) // 2], counts[len(counts) // 2 :]))
            known["stuck"] = still / apart if apart else 0.0
        for name, key in (
            ("buffers_moved", self.extras.buffers),
            ("source_buffers_moved", self.extras.source_buffers),
        ):
            if key is not None:
                known[name] = root_sum_squares(readout.numbers(key))
        return TargetRecord(
            self.target, self.source, gap / unit, fall / unit, towards, lag, self.declared, **known
        )


def _measure(
    names: tuple[str, str],
    pairs: Sequence[tuple[Tensor, Tensor]],
    both: Sequence[tuple[Tensor, ...]],
    readout: Readout,
    declared: bool,
    extras: _Extras,
) -> TargetStep:
    """Add what is read of a target; `both` is what target and source lost in the step."""
    gaps = [source - target for target, source in pairs]
    falls, changes = [own for own, _ in both], [source for _, source in both]
    earlier = [gap + change for gap, change in zip(gaps, changes, strict=True)]
    return TargetStep(
        *names,
        gaps=readout.add_scalars(measure_norms(gaps)),
        falls=readout.add_scalars(measure_norms(falls)),
        sources=readout.add_scalars(measure_norms([source for _, source in pairs])),
        products=readout.add_scalars(list(map(inner_product, gaps, falls))),
        earlier=readout.add_scalars(measure_norms(earlier)),
        changes=readout.add_scalars(measure_norms(changes)),
        declared=declared,
        extras=extras,
    )
