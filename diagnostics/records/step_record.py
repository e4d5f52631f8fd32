"""Record of one step, and the scalars of it that are kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from diagnostics.records.absent import Absent, Number
from diagnostics.records.model_state import (
    HiddenModule,
    LostTie,
    MergedAdapter,
    MovedBuffer,
    OddStatistics,
    Stranger,
    TargetRecord,
)
from diagnostics.records.module_record import ModuleRecord
from diagnostics.records.parameter_record import BackwardPasses, ParameterRecord
from diagnostics.records.term_record import TermRecord


@dataclass(frozen=True, eq=False, slots=True)
class StepRecord:
    """Everything measured in one step.

    Attributes:
        step: Number of the step, from 0, counted over all `Monitor.step` blocks, recorded or not.
        samples: Samples in the loss, B.
        modules: Record per watched module.
        parameters: Record per parameter, by its full name.
        order: Watched modules in the order of their first call.
        optimizers: Number of steps of each optimiser given.
        partial: Watched modules that are declared to run some of their calls with gradients disabled.
        gap: Steps since the one recorded before it, 1 where each is recorded.
        strangers: Tensors that learn outside the model.
        idle: Tensors that optimisers hold, that are not in the model, and that had no gradient when they stepped.
        moved_buffers: Buffers that are declared frozen and changed; those that no checkpoint has are left out.
        hidden: Modules and parameters that the model holds without registering them.
        terms: Record per named term of the loss, as far as any was given to `Monitor.terms`.
        passes: The backward passes of the step.
        into: Watched module -> those that feed it directly, as far as the first recorded step shows.
        gates: Watched modules whose result is only ever a factor of something that it was computed from.
        constant: Watched modules whose first call reads no sample, but a learnt value that is repeated for each.
        meant_frozen: Module or parameter that is trainable -> its attribute that should have frozen it, and that torch
            does not read.
        rates: Optimiser and group -> the learning rate.
        never: Share of the positions in the batch that no watched module had gradient for in any step so far.
        copies: Watched module -> another one of the same class and shapes.
        aliases: Module -> other names under which the model holds the same object.
        lost_ties: Weights that should be tied and are not.
        merged: Low-rank adapters that were merged between steps so far, and left in.
        kinds: Watched module -> name of its class.
        targets: The declared target networks.
        odd_statistics: Batch norms in training mode whose statistics say little.
        equal_units: Weights whose rows were all equal when the monitor was made, and still are.
        left_out: Watched modules that the step does not call, and that may be called again: at random, as in stochastic
            depth, or it is too early to tell.
        adapting: Watched module without trainable parameters -> its layers that update running statistics.
        related: Whether the rows of the batch are related, as the nodes of a graph, so that they are no samples apart.
    """

    step: int
    samples: int
    modules: Mapping[str, ModuleRecord]
    parameters: Mapping[str, ParameterRecord]
    order: tuple[str, ...]
    optimizers: tuple[int, ...]
    partial: frozenset[str] = frozenset()
    gap: int = 1
    strangers: tuple[Stranger, ...] = ()
    moved_buffers: tuple[MovedBuffer, ...] = ()
    terms: Mapping[str, TermRecord] = field(default_factory=dict)
    hidden: tuple[HiddenModule, ...] = ()
    passes: BackwardPasses = field(default_factory=BackwardPasses)
    into: Mapping[str, frozenset[str]] = field(default_factory=dict)
    never: float = 0.0
    copies: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lost_ties: tuple[LostTie, ...] = ()
    merged: tuple[MergedAdapter, ...] = ()
    adapting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: tuple[TargetRecord, ...] = ()
    odd_statistics: tuple[OddStatistics, ...] = ()
    equal_units: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    gates: frozenset[str] = frozenset()
    constant: frozenset[str] = frozenset()
    rates: Mapping[tuple[int, int], Number] = field(default_factory=dict)
    meant_frozen: Mapping[str, str] = field(default_factory=dict)
    related: bool = False
    idle: int = 0

    def is_declared_target(self, module: str) -> bool:
        """Whether a module is a declared target network, or inside one."""
        names = [each.name for each in self.targets if each.declared]
        return any(module == name or module.startswith(f"{name}.") for name in names)

    def changed_by_hand(self) -> bool:
        """Whether every trainable weight changes, none has a gradient, and no optimiser steps."""
        every = [each for each in self.parameters.values() if each.requires_grad and not each.expect_frozen]
        changed = all(each.changed and each.reach.kind == "none" and not each.assigned for each in every)
        return bool(every) and changed and not any(self.optimizers)

    def is_head_of_some(self, module: str) -> bool:
        """Whether no module reads it, and every sample trains all modules that feed it: a head for some samples."""
        feeders = self.into.get(module, frozenset()) - {module}
        read = any(module in sources for other, sources in self.into.items() if other != module)
        return bool(feeders) and not read and all(self._is_covered(each) for each in feeders)

    def is_one_of_several(self, module: str) -> bool:
        """Whether each sample trains equally many, but not all, of a list of modules of one class: a choice of them.

        Their shares of the samples then add up to a whole number, and differ.
        """
        path, kind = module.rpartition(".")[0], self.kinds.get(module)
        alike = [
            each.coverage
            for name, each in self.modules.items()
            if path and name.rpartition(".")[0] == path and self.kinds.get(name) == kind
        ]
        known = [each for each in alike if not isinstance(each, Absent)]
        if len(known) < len(alike) or all(each == known[0] for each in known):
            return False
        total = sum(known[1:], known[0])
        return any(abs(total - chosen) < 1e-6 for chosen in range(1, len(known)))

    def _is_covered(self, module: str) -> bool:
        coverage = self.modules[module].coverage if module in self.modules else 0.0
        return not isinstance(coverage, Absent) and coverage >= 1.0

    def held_by(self, module: str) -> list[ParameterRecord]:
        """The parameters in a module."""
        return [each for name, each in self.parameters.items() if name.startswith(f"{module}.")]


@dataclass(frozen=True, slots=True)
class StepScalars:
    """The scalars of one past step: `modules[name]` is `ModuleRecord.scalars()`.

    Attributes:
        losses: The loss, as "", and its named terms, as far as they were given in single precision or better.
        batch: Name of the batch that `Monitor.step` received; None where there is none.
        rates: The learning rate of each group of the optimisers.
    """

    step: int
    samples: int
    modules: Mapping[str, Mapping[str, Number]] = field(repr=False)
    order: tuple[str, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    batch: Hashable = None
    rates: tuple[Number, ...] = ()
