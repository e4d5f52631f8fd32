"""What a step leaves at its end, and how that becomes its record; steps of one kind together.

What is the same in all steps of one kind is looked at once; their numbers are columns. A step that differs, or whose
number falls on the other side of a comparison, is recorded apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch.distributed as dist

from diagnostics.recording.calls.call_intervals import CallIntervals
from diagnostics.recording.calls.capture import Capture
from diagnostics.recording.calls.covered_positions import CoveredPositions
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.calls.module_records import module_record
from diagnostics.recording.inspection.buffers import MovedBuffers
from diagnostics.recording.inspection.target_networks import TargetStep
from diagnostics.recording.process_group import StepFacts, everywhere
from diagnostics.recording.readout import Readout, Readouts
from diagnostics.recording.terms.term_records import TermStep
from diagnostics.recording.updates.parameter_records import ParameterStep, Settings
from diagnostics.records import (
    Absent,
    HiddenModule,
    LostTie,
    MergedAdapter,
    OddStatistics,
    StepRecord,
    StepScalars,
    Stranger,
)
from diagnostics.records.columns import Agreement, at_step, number_at, numbers_at


@dataclass(frozen=True, eq=False)
class FinishedStep:
    """What a step left, with the state of the model at its end.

    Steps of one kind share all but their numbers, so that those that wait to be read hold few objects.

    Attributes:
        settings: Settings of the optimisers' groups.
        alone: Whether no other process has part of the step.
    """

    number: int
    settings: Mapping[tuple[int, int], Settings]
    members: Mapping[str, Sequence[str]]
    capture: Capture
    readout: Readout
    parameters: ParameterStep
    terms: TermStep
    buffers: MovedBuffers
    targets: tuple[TargetStep, ...]
    equal_units: tuple[str, ...]
    odd_statistics: tuple[OddStatistics, ...]
    strangers: tuple[Stranger, ...]
    hidden: tuple[HiddenModule, ...]
    lost_ties: tuple[LostTie, ...]
    merged: tuple[MergedAdapter, ...]
    evaluating: Mapping[str, tuple[str, ...]]
    adapting: Mapping[str, tuple[str, ...]]
    related: bool
    alone: bool

    @cached_property
    def kind(self) -> tuple[Any, ...] | None:
        """What steps must have in common to be recorded together; None where a step is recorded alone."""
        parts = (self.capture.kind, self.parameters.kind, self.terms.kind)
        if not self.alone or self.targets or None in parts:
            return None
        state = (
            self.equal_units,
            self.odd_statistics,
            self.strangers,
            self.hidden,
            self.lost_ties,
            self.merged,
        )
        modes = (self.evaluating, self.adapting, self.buffers, self.related)
        return (*parts, *state, *modes, self.readout.layout)

    def like(self, before: FinishedStep | None) -> FinishedStep:
        """The same step, with the parts of an earlier one of its kind."""
        if before is None or self.kind is None or self.kind != before.kind:
            return self
        shared = replace(before, number=self.number, settings=self.settings, readout=self.readout)
        vars(shared)["kind"] = before.kind  # the cached property
        return shared


@dataclass(frozen=True)
class ConstantFacts:
    """What is the same in all steps of a monitor; see `StepRecord`."""

    partial: frozenset[str]
    gap: int
    copies: Mapping[str, str]
    kinds: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]]
    meant_frozen: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class RecordedSteps:
    """The record of one step, or of several that agree.

    Attributes:
        record: Its numbers are columns where `agreement` is not None.
        losses: The losses, as in `StepScalars`.
        positions: Which of the steps given to `RecordBuilder.records` these are.
    """

    record: StepRecord
    losses: Mapping[str, Any]
    positions: Sequence[int]
    agreement: Agreement | None = None

    def scalars(self, positions: Iterable[int]) -> Iterator[StepScalars]:
        """The scalars of steps, without the names of their batches."""
        record = self.record
        modules = {name: module.scalars() for name, module in record.modules.items()}
        for position in positions:
            own = {name: numbers_at(scalars, position) for name, scalars in modules.items()}
            losses = numbers_at(self.losses, position)
            rates = tuple(number_at(rate, position) for rate in record.rates.values())
            step = number_at(record.step, position)
            yield StepScalars(step, record.samples, own, record.order, losses, rates=rates)

    def at(self, position: int) -> StepRecord:
        """The record of one step."""
        return self.record if self.agreement is None else at_step(self.record, position)


def _kind_of(step: FinishedStep) -> object:
    return step.kind


class RecordBuilder:
    """Makes the records of the steps of one monitor, in their order.

    Args:
        flow: Which module feeds which.
        group: The processes that train the model together.
    """

    def __init__(self, constant: ConstantFacts, flow: Flow, group: dist.ProcessGroup | None) -> None:
        self._constant, self._flow, self._group = constant, flow, group
        self._positions = CoveredPositions()
        self._intervals = CallIntervals()
        self._left_out: frozenset[str] | None = None  # of the steps that are recorded now

    def runs(self, steps: Sequence[FinishedStep]) -> Iterator[list[FinishedStep]]:
        """The steps in their order, those together that can be; each must be recorded before the next is asked for."""
        for kind, found in groupby(steps, _kind_of):
            waiting = list(found)
            while waiting:
                first = waiting[0]
                ready = (
                    kind is not None
                    and self._positions.full_for(first.capture.samples)
                    and self._intervals.are_settled(first.members, first.capture.called)
                )
                count = len(waiting) if ready else 1
                yield waiting[:count]
                waiting = waiting[count:]

    def records(self, run: Sequence[FinishedStep]) -> list[RecordedSteps]:
        """The records of steps that `runs` gave together, whose readouts were fetched."""
        if len(run) > 1:
            columns = Readouts([step.readout for step in run], Agreement(range(len(run))))
            passes = run[0].parameters.passes
            if passes.history.skip(passes.events, columns, len(run)):
                return self._together(run, columns)
        return [self._alone(step, position) for position, step in enumerate(run)]

    def _together(self, run: Sequence[FinishedStep], columns: Readouts) -> list[RecordedSteps]:
        waiting = list(range(len(run)))
        self._left_out = None
        found = []
        while waiting:
            columns.agreement = agreement = Agreement(waiting)
            record, losses = self._build(run, columns)
            found.append(RecordedSteps(record, losses, agreement.steps, agreement))
            waiting = [position for position in waiting if position not in agreement.steps]
        return found

    def _alone(self, step: FinishedStep, position: int) -> RecordedSteps:
        self._left_out = None
        return RecordedSteps(*self._build([step], Readouts([step.readout], None)), [position])

    def _build(self, run: Sequence[FinishedStep], readout: Readouts) -> tuple[StepRecord, dict[str, Any]]:
        step, constant = run[0], self._constant
        capture = step.capture
        largest = capture.largest(readout)
        facts = everywhere(self._local_facts(step, readout, largest), self._group)
        self._flow.replace(facts.flow)
        if self._left_out is None:
            called = {
                name for name, own in facts.modules.items() if any(call.rows != 0 for call in own.calls)
            }
            self._left_out = self._intervals.add(step.members, called, len(run))
        settings = _settings(run, readout)
        parameters, passes = step.parameters.records(readout, facts.arrived, facts.leftover, settings)
        modules = {
            name: module_record(
                facts.samples,
                facts.modules[name],
                {member: parameters[member] for member in own if member in parameters},
            )
            for name, own in step.members.items()
        }
        losses = step.terms.losses(readout)
        terms = step.terms.records(
            readout,
            step.parameters.tracked,
            facts.samples,
            lambda name, term: capture.facts(name, readout, largest, term=term),
            step.members,
            parameters,
        )
        record = StepRecord(
            step=readout.column([each.number for each in run]),
            samples=facts.samples,
            modules=modules,
            parameters=parameters,
            order=facts.order,
            optimizers=step.parameters.steps,
            partial=constant.partial,
            gap=constant.gap,
            strangers=step.strangers,
            idle=step.parameters.idle,
            moved_buffers=step.buffers.read(readout),
            terms=terms,
            hidden=step.hidden,
            passes=passes,
            into=self._flow.into,
            gates=self._flow.gates,
            constant=frozenset(self._flow.constant),
            rates={group: rate for group, (rate, *_) in settings.items()},
            never=self._positions.never(modules.values(), facts.samples),
            copies=constant.copies,
            aliases=constant.aliases,
            lost_ties=step.lost_ties,
            merged=step.merged,
            adapting=step.adapting,
            equal_units=step.equal_units,
            odd_statistics=step.odd_statistics,
            targets=tuple(target.read(readout) for target in step.targets),
            kinds=constant.kinds,
            meant_frozen=constant.meant_frozen,
            left_out=self._left_out,
            related=step.related,
        )
        return record, losses

    def _local_facts(self, step: FinishedStep, readout: Readouts, largest: Mapping[int, Any]) -> StepFacts:
        capture = step.capture
        return StepFacts(
            capture.samples,
            {
                name: capture.facts(name, readout, largest, step.evaluating.get(name, ()))
                for name in step.members
            },
            tuple(capture.calls),
            step.parameters.arrived,
            step.parameters.leftover(readout),
            self._flow.into,
        )


def _settings(run: Sequence[FinishedStep], readout: Readouts) -> Mapping[tuple[int, int], Settings]:
    """The settings of the groups; those that change from step to step, as rates do, are columns."""
    first = run[0].settings
    if all(step.settings == first for step in run):
        return first
    found: dict[tuple[int, int], Settings] = {}
    for group in first:
        rate, decay, eps, mean, square = (
            each[0] if isinstance(each[0], Absent) else readout.column(each)
            for each in zip(*(step.settings[group] for step in run), strict=True)
        )
        found[group] = (rate, decay, eps, mean, square)
    return found
