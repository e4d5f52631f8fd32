"""Turns what one step left of the named terms of its loss into their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diagnostics.causes import Cause
from diagnostics.recording.calls.module_records import module_record
from diagnostics.recording.process_group import ModuleFacts
from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.tensors import Scalars, read_scalars
from diagnostics.recording.updates.parameter_records import NO_REACH, reach
from diagnostics.recording.updates.watched_parameters import Tracked
from diagnostics.records import Absent, ModuleRecord, Number, ParameterRecord, Reach, TermReach, TermRecord

_SINGLE = 32  # bits: half precision repeats a loss by rounding
_NO_GRADIENT = Absent("no gradient of the term arrived", "no-gradient")


class Term:
    """One term while the step runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gradients: dict[int, Tensor] = {}  # position of the parameter -> sum over the micro-batches
        self.positions: list[int] = []  # of these, once the step is over
        self.unknown: Cause | None = None
        self.exact = True
        self.known = False  # there was a value
        self.keys: tuple[int, int, int, int] = (-1, -1, -1, -1)
        self._plain = 0.0
        self._values: list[Tensor] = []

    def total(self, readout: Readouts) -> Any:
        """The sum of its values, once the readout was fetched."""
        return self._plain + sum(readout.numbers(self.keys[3]))

    def add_value(self, value: Tensor | float) -> None:
        """Keep the value; `exact` says whether all are tensors of single precision or better."""
        self.known = True
        if isinstance(value, Tensor):
            self._values.append(value.detach().reshape(()))
            self.exact &= value.is_floating_point() and torch.finfo(value.dtype).bits >= _SINGLE
        else:
            self._plain += float(value)
            self.exact = False

    def add(self, position: int, gradient: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        known = self.gradients.get(position)
        self.gradients[position] = gradient if known is None else known + gradient

    def close(
        self,
        readout: Readout,
        norms: Scalars = (),
        counts: Scalars = (),
        falls: Scalars = (),
    ) -> None:
        """End of the step: add what has to be read on the CPU, and release the gradients."""
        self.positions = list(self.gradients)
        self.gradients = {}
        # copies: a loss may be changed in place until it is read
        values = read_scalars([value if value.is_cpu else value.clone() for value in self._values])
        first, second, third, last = (readout.add_scalars(each) for each in (norms, counts, falls, values))
        self.keys, self._values = (first, second, third, last), []


@dataclass(frozen=True, eq=False)
class TermStep:
    """The terms of one step, and the loss as a term of its own."""

    terms: Mapping[str, Term]
    loss: Term
    regularisers: frozenset[str]
    shared: bool

    @property
    def kind(self) -> tuple[bool, ...] | None:
        """What is the same in all steps of one kind; None where there are named terms."""
        return None if self.terms else (self.loss.known, self.loss.exact)

    def losses(self, readout: Readouts) -> dict[str, float]:
        """The loss, as "", and its terms, as far as they are known to single precision.

        None where several processes train the model: each knows a part of them.
        """
        if self.shared:
            return {}
        every = {"": self.loss, **self.terms}
        return {name: term.total(readout) for name, term in every.items() if term.known and term.exact}

    def records(
        self,
        readout: Readouts,
        parameters: Sequence[Tracked],
        samples: int,
        facts: Callable[[str, str], ModuleFacts],
        members: Mapping[str, Sequence[str]],
        records: Mapping[str, ParameterRecord],
    ) -> dict[str, TermRecord]:
        """The records of all terms, once the readout was fetched.

        Args:
            parameters: The watched parameters.
            samples: Samples in the loss, B.
            facts: Function (module, term) -> what was recorded of the module.
            members: Names of the parameters of each watched module.
            records: Records of the parameters.
        """
        found = {}
        for name, term in self.terms.items():
            value, regulariser = term.total(readout), name in self.regularisers
            if term.unknown is not None:
                found[name] = TermRecord(value, regulariser, {}, {}, term.unknown, term.exact)
                continue
            reaches, falls = _measured(term, readout, parameters)
            modules = {}
            for module, own in members.items():
                held = {each: replace(records[each], reach=reaches[each]) for each in own if each in records}
                whole = module_record(samples, facts(module, name), held)
                modules[module] = _reach(whole, [falls[each] for each in own if each in falls])
            found[name] = TermRecord(value, regulariser, modules, reaches, None, term.exact)
        return found


def _measured(
    term: Term, readout: Readouts, parameters: Sequence[Tracked]
) -> tuple[dict[str, Reach], dict[str, float]]:
    """Reach of every parameter, and fall of the term by the movement of those that have its gradient, by name."""
    norms, counts, falls = (readout.numbers(key) for key in term.keys[:3])
    names = [item.name for item in parameters]
    reaches = dict.fromkeys(names, NO_REACH)
    fall: dict[str, float] = {}
    for place, norm, count, number in zip(term.positions, norms, counts, falls, strict=True):
        reaches[names[place]] = reach(parameters[place].numel, (norm, count))
        fall[names[place]] = number
    return reaches, fall


def _reach(record: ModuleRecord, falls: Sequence[float]) -> TermReach:
    fall: Number = sum(falls) if falls else _NO_GRADIENT
    return TermReach(
        coverage=record.coverage,
        state=record.state,
        calls_with_gradient=record.calls_with_gradient,
        params_trainable=record.params_trainable,
        params_none=record.params_none,
        params_zero=record.params_zero,
        norm=record.grad_norm_pre_clip,
        descent=fall,
    )
