"""Watches the training steps of any model: coverage, waste, calls, reach and movement.

    monitor = Monitor(model, optimizer, watch=["encoder", "core"])
    for batch in batches:
        with monitor.step(samples=len(batch)):
            model(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    print(to_markdown(monitor.findings()))

The monitor reads and never writes: weights, gradients and random numbers are bit for bit what they are
without it. It keeps no graph beyond the step. Gradient sizes are as the backward pass leaves them: under
a GradScaler they are scaled. The hooks break a graph of torch.compile at each watched module; a graph
that was compiled before the monitor was made runs without them, and what it does is not known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.causes import Cause
from diagnostics.errors import InvalidType, InvalidValue, NothingRecorded, ToolkitError, WrongOrder
from diagnostics.findings import Finding, ordered
from diagnostics.measures.drift import DriftProbe, DriftRecord
from diagnostics.module_sources import locate_finding
from diagnostics.recording.calls.capture import RowsFunction, sample_index
from diagnostics.recording.finished_steps import RecordBuilder, RecordedSteps
from diagnostics.recording.inspection.aliases import check_ties
from diagnostics.recording.recorder import Recorder, Setup
from diagnostics.recording.terms.loss_terms import LossTerms
from diagnostics.recording.updates.optimizers import list_optimizers
from diagnostics.recording.waiting_steps import WaitingSteps
from diagnostics.records import CallRecord, Number, Reach, StepRecord, StepScalars
from diagnostics.report.figures import StepPlot, draw_steps
from diagnostics.report.finding_filter import choose
from diagnostics.report.notebook import NotebookView, render_monitor
from diagnostics.rules.families.not_run import ON_ACCELERATOR, MissingData, find_not_run
from diagnostics.rules.families.outputs.drifts import DRIFT001
from diagnostics.rules.folding import fold
from diagnostics.rules.options import Values, settle
from diagnostics.rules.registry import first_steps, options_of, with_own
from diagnostics.rules.rule import Rule
from diagnostics.rules.run_history import RunHistory
from diagnostics.rules.tally import Tally
from diagnostics.selection import (
    check_list,
    check_patterns,
    covers,
    innermost,
    named_by,
    select_modules,
    watched_one,
    with_submodules,
)

_MOST_WAITING = 256
"""Steps whose records are made together, in one transfer from a GPU."""


class Monitor:
    """Measures every `every`-th step between its entry and its exit.

    Args:
        model: Any module. Parameters are looked up when the monitor is made: make a new one after
            replacing some.
        optimizer: The optimiser or optimisers of the training loop. Without any, movement is still
            measured, and rules about the cause of missing movement do not run.
        watch: Names or fnmatch patterns of submodules; by default the direct children of the model.
        rows: Functions by name or pattern of modules that compute only some samples, or several rows per sample:
            function (args, kwargs, output) -> integer tensor, the sample of each leading row of the output:
            (rows,), or (T, B) for a sequence-first layout. Without it, rows are matched where the leading
            dimension is the number of samples.
        every: Interval of the recorded steps: one step in `every`; the others cost next to nothing.
        expect_frozen: Names or patterns of modules or parameters that must not move. Buffers of such modules,
            as running statistics, must not either.
        expect_partial: Names or patterns of watched modules that run some of their calls with gradients disabled
            on purpose, as in a recursion that trains only its last cycles.
        drift: Probes to use for the outputs given to `probe`, by module, where the default does not suit.
        history: Number of past steps whose scalars are kept.
        group: Process group that trains one model, each process on its share of the batch. Every record, finding and
            number is then about the samples of all of them, and the same on each. Losses must be scaled so that
            gradients add up to those of the whole batch, and `gradients_reduced` called in every step.
        options: Options of rules, such as {"COV001": {"below": 0.3}}; `explain(id)` lists those of a rule.
        rules: Your own rules, in addition to those of the toolkit.
        regularisers: Names of those terms of the loss, given to `terms`, that are not of the task: penalties,
            entropy bonuses, balancing losses.
        expect_tied: Groups of names of modules or parameters that must hold the same tensors, such as
            [("embed.weight", "head.weight")].
        targets: Target and EMA networks of the model: name of each -> name of the module that it follows, such as
            {"target_net": "policy_net"}. They have no gradient on purpose, and must move towards it.
        operations: Whether to record the operations of three of the first ten recorded steps too, which tells what loss
            functions and softmaxes receive. Those steps take several times as long. None for a model on the CPU alone:
            values are read, for which an accelerator waits.

    Raises:
        ValueError: A name or pattern matches nothing, `every` or `history` is below 1, or a rule has no such
            option or does not allow the value, or a rule of `rules` cannot be used or has the id of another one.
        TypeError: Something in `rules` is not a rule, `model` is not a module, or a string is given instead of a list.
        KeyError: A module of `drift` is not watched.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        watch: Sequence[str] | None = None,
        rows: Mapping[str, RowsFunction] | None = None,
        every: int = 1,
        expect_frozen: Sequence[str] = (),
        history: int = 2000,
        expect_partial: Sequence[str] = (),
        drift: Mapping[str, DriftProbe] | None = None,
        group: dist.ProcessGroup | None = None,
        options: Mapping[str, Values] | None = None,
        rules: Sequence[Rule] = (),
        regularisers: Sequence[str] = (),
        expect_tied: Sequence[Sequence[str]] = (),
        targets: Mapping[str, str] | None = None,
        operations: bool | None = None,
    ) -> None:
        if every < 1 or history < 1:
            raise InvalidValue(
                "monitor.count-below-1",
                "every and history must be at least 1, found every={every}, history={history}",
                every=every,
                history=history,
            )
        model = with_submodules(getattr(model, "_orig_mod", model))  # what torch.compile(model) wraps
        self._modules = select_modules(model, watch)
        check_patterns("expect_partial", expect_partial, self._modules)
        check_list("expect_frozen", expect_frozen)
        self._probes = {
            name: probe for name, probe in (drift or {}).items() if watched_one(self._modules, name)
        }
        self._rules = with_own(rules)
        self._options = settle(options_of(self._rules), options)
        self._every = every
        check_ties(model, expect_tied)
        setup = Setup(
            modules=self._modules,
            optimizers=list_optimizers(optimizer),
            rows=_resolve_rows(rows or {}, self._modules),
            every=every,
            expect_frozen=tuple(expect_frozen),
            partial=frozenset(name for name in self._modules if named_by(expect_partial, name)),
            ties=[tuple(names) for names in expect_tied],
            targets=dict(targets or {}),
            group=group,
            whole=not watch or "" in watch,
        )
        self._setup, self._model = setup, model
        self._terms = LossTerms(model, regularisers, shared=group is not None)
        self._recorder = Recorder(model, setup, self._terms)
        builder = RecordBuilder(self._recorder.constant, self._recorder.flow, group)
        self._waiting = WaitingSteps(builder, 1 if group is not None or rules else _MOST_WAITING)
        elsewhere = any(parameter.device.type != "cpu" for parameter in model.parameters())
        self._waits = operations is None and elsewhere and group is None
        follow = (not elsewhere if operations is None else operations) and group is None
        watched = self._modules  # without a reference to the monitor, which could not be released then
        self._first = first_steps(model, lambda name: innermost(f"{name}.", watched)) if follow else None
        self._steps = 0
        self._last: RecordedSteps | None = None
        self._last_position = 0
        self._tally = Tally(self._rules, self._options)
        self._history: deque[StepScalars] = deque(maxlen=history)
        self._view: NotebookView | None = None
        self.attach()

    def attach(self) -> None:
        """Register the hooks; done when the monitor is made, needed again only after `detach`."""
        self._recorder.attach()

    def detach(self) -> None:
        """Remove every hook, as torch.jit.script(model) requires. What was recorded stays."""
        self._settle()
        self._recorder.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of what holds the monitor, such as an average of the model, is not monitored: it holds this one."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with what holds it, it is None when that is loaded."""
        return type(None), ()

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @contextmanager
    def step(self, samples: int, batch: Hashable = None) -> Iterator[None]:
        """Surrounds forward, backward and optimiser step of one training step.

        Args:
            samples: Samples in the loss, B, however many of them each module computes; with a group, those
                of this process.
            batch: Name of the batch, such as its number or the ids of its samples, where it comes back in later
                steps; LOSS002 then compares its losses.

        Raises:
            ValueError: `samples` is below 1.
            RuntimeError: The monitor is detached, or a step is already open.
        """
        samples = _whole(samples)
        if samples < 1:
            raise InvalidValue(
                "monitor.too-few-samples",
                "samples must be the number of samples in the loss, at least 1; found {got}",
                got=samples,
            )
        recorder = self._recorder
        if not recorder.attached:
            raise WrongOrder("monitor.detached", "the monitor is detached; call attach() first")
        if recorder.capture is not None:
            raise WrongOrder("monitor.step-open", "a step of this monitor is already open")
        number = self._steps
        self._steps += 1
        if number % self._every or not self._begin(number, samples):
            yield
            return
        try:
            with nullcontext() if self._first is None else self._first.watch(samples):
                yield
            self._finish(number, batch)
        except BaseException:
            self._settle()  # what is known of gradients in earlier steps ends here
            raise
        finally:
            recorder.abandon()

    @contextmanager
    def rows(self, sample_index_of_rows: Tensor) -> Iterator[None]:
        """States to which samples the leading rows of everything that runs in the block belong.

        Args:
            sample_index_of_rows: Integers in 0..B-1 of shape (rows,), or of the leading dimensions that hold
                samples, (T, B) for a sequence-first layout. It overrides the `rows` of the monitor.

        Raises:
            TypeError: It is not a tensor of integers.
        """
        capture = self._recorder.capture
        if capture is None:
            yield
            return
        capture.declared.append(sample_index(sample_index_of_rows, "rows"))
        try:
            yield
        finally:
            capture.declared.pop()

    def terms(self, terms: Mapping[str, Tensor | float]) -> None:
        """Measures the parts of the loss by name; call it in the step, before `backward()`.

        For each term: which modules, parameters and samples its gradient reaches, and whether the update lowers it.
        It costs a backward pass per term and keeps the gradients until the step ends; training stays bit for bit
        what it is. Give all terms of the task. Terms of several micro-batches add up.

        Args:
            terms: Name -> scalar as it enters the loss, with its weight; numbers and terms without a graph too.

        Raises:
            TypeError: It is no mapping of names to scalars.
            ValueError: A term has more than one element.
        """
        self._recorder.measure_terms(terms)

    def loss(self, loss: Tensor) -> None:
        """Notes the loss of the step, a scalar; with `step(batch=...)` LOSS002 can tell whether it is a constant."""
        if self._recorder.capture is not None:
            self._terms.note(loss)

    def trace_also(self, modules: Mapping[str, nn.Module]) -> None:
        """Record calls of modules outside of the model too where operations are recorded, as of a target network."""
        if self._first is not None:
            self._first.others = dict(modules)

    def gradients_reduced(self) -> None:
        """States that the gradients are now those of all processes; call it before clipping.

        Needed in every step of a monitor with a `group`, right after the reduction (with torch's
        DistributedDataParallel: after `backward`). Without a group it does nothing.
        """
        if self._setup.group is not None:
            self._recorder.measure_again()

    def _begin(self, number: int, samples: int) -> bool:
        """Start to record a step; where that fails, a note says so, and the step runs without."""
        try:
            self._recorder.begin(samples)
        except Exception as error:  # noqa: BLE001 - what cannot be measured must not end the training
            self._settle()  # as in a step that broke off
            self._recorder.abandon()
            self._waiting.note_lost(number, error)
            return False
        return True

    def _finish(self, number: int, batch: Hashable) -> None:
        """Keep what the step left until its record is read; where measuring it failed, a note says so."""
        try:
            self._waiting.add(self._recorder.finish(number), batch)
        except ToolkitError:
            raise
        except Exception as error:  # noqa: BLE001 - what cannot be measured must not end the training
            self._waiting.note_lost(number, error)
        if self._waiting.is_full or self._view is not None:
            self._settle()

    def _settle(self) -> None:
        """Make the records of the steps that wait, and apply the rules to them."""
        for found, batches in self._waiting.take():
            self._keep(found, batches)

    def _keep(self, found: Sequence[RecordedSteps], batches: Sequence[Hashable]) -> None:
        """Keep the scalars of steps of one kind, and apply the rules to them."""
        scalars: dict[int, StepScalars] = {}
        for each in found:
            scalars.update(zip(each.positions, each.scalars(each.positions), strict=True))
        self._history.extend(
            replace(scalars[position], batch=batch) if batch is not None else scalars[position]
            for position, batch in enumerate(batches)
        )
        self._last_position = len(batches) - 1
        self._last = next(each for each in found if self._last_position in each.positions)
        self._tally.observe(found)
        if self._view is not None:
            self._view.advance(len(batches), self._repr_html_)

    @property
    def history(self) -> deque[StepScalars]:
        """The scalars of the recorded steps, oldest first."""
        self._settle()
        return self._history

    @property
    def last(self) -> StepRecord:
        """The latest recorded step.

        Raises:
            LookupError: No step was recorded yet.
        """
        self._settle()
        if self._last is None:
            raise NothingRecorded(
                "monitor.no-step", "no step was recorded yet; run one inside `with monitor.step(samples=...)`"
            )
        return self._last.at(self._last_position)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The watched modules, by name."""
        return self._modules

    @property
    def reached(self) -> bool:
        """Whether gradient has come to a parameter in the step that is open."""
        return self._recorder.reached

    def coverage(self, module: str) -> Number:
        """Share of the samples whose loss has gradient through `module`, in the latest step."""
        return watched_one(self.last.modules, module).coverage

    def waste(self, module: str) -> Number:
        """Share of the samples that `module` computed for nothing, in the latest step."""
        return watched_one(self.last.modules, module).waste

    def evenness(self, module: str) -> Number:
        """How evenly the samples pull on `module`, from 1/B to 1, in the latest step."""
        return watched_one(self.last.modules, module).evenness

    def calls(self, module: str) -> tuple[CallRecord, ...]:
        """The forward calls of `module` in the latest step, in order."""
        return watched_one(self.last.modules, module).calls

    def reach(self, parameter: str) -> Reach:
        """How far the gradient came to `parameter` in the latest step, before clipping."""
        return watched_one(self.last.parameters, parameter).reach

    def moved(self, parameter: str) -> Number:
        """Change of `parameter` over the latest step relative to its norm."""
        return watched_one(self.last.parameters, parameter).moved

    def probe(self, module: str, output: Tensor, movement: float | None = None) -> DriftRecord:
        """Feed the drift rule: what `module` gives for a fixed probe batch, after the latest step.

        Args:
            output: (B, T, D) or (B, D), of the same batch in the same mode every time, best without dropout.
                Compute it outside the step, without gradients. Five probes make the reference.
            movement: Relative movement since the reference of the module that reads the output, if known.

        Raises:
            KeyError: The module is not watched.
            ValueError: The shape changed, or there was a probe of this module since the latest step.
        """
        watched_one(self._modules, module)
        if module not in self._probes:
            options = self._options[DRIFT001.id]
            self._probes[module] = DriftProbe(
                int(options["reference"]), min_size=options["min_size"], noise=options["noise"]
            )
        return self._probes[module].add(self._steps, output, movement)

    def findings(
        self, select: Sequence[str] = (), ignore: Sequence[str] = (), baseline: Collection[str] = ()
    ) -> list[Finding]:
        """What persisted so far, worst first, consequences folded under their causes.

        Rules that could not run are named in a note.

        Args:
            select: Rules (`COV*`), modules (`pooler.*`) or both (`REACH*:pooler`); empty for all.
            ignore: The same, for what is to be left out.
            baseline: Fingerprints of findings that are known: `diagnostics.read_baseline(path)`.

        Raises:
            ValueError: A pattern names no rule and no module.
        """
        self._settle()
        last = self.last if self._last is not None else None
        run = RunHistory(self._history, last, self._terms.regularisers, self._probes)
        found = self.fold([*self._tally.findings(), *self._tally.judge_history(run)])
        if self._first is not None and last is not None:
            found = self._first.explain(found, last.into)
        found += find_not_run(self._rules, self._options, run, self._missing_data())
        names = {*self._modules, *(module for finding in found if (module := finding.module))}
        rules = [rule.id for rule in self._rules]
        chosen = ordered(choose(found, rules, sorted(names), select, ignore, baseline))
        return [locate_finding(finding, self._model, self._recorder.quiet) for finding in chosen]

    def plot(self) -> StepPlot:
        """Pictures of the history: gradient flow and coverage by module and step, and samples by call in the last step.

        Raises:
            UnknownName: matplotlib is not installed.
            LookupError: No step was recorded yet.
        """
        return draw_steps(self.history, self.last)

    def live(self, every: int = 20) -> None:
        """In a notebook: show findings and pictures under the cell, and renew them each `every` recorded steps.

        Raises:
            UnknownName: IPython is not installed.
        """
        self._view = NotebookView(every)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return render_monitor(
            self.findings() if self.history else [], self.last if self._last else None, self.history
        )

    def fold(self, findings: list[Finding]) -> list[Finding]:
        """Findings about the watched modules as causes with their consequences, by which module feeds which."""
        self._settle()
        if self._last is None:
            return findings
        last = self.last
        modules = last.modules
        trained = [name for name, module in modules.items() if module.params_trainable]
        outermost = [name for name in trained if innermost(name, modules) == ""]
        return fold(findings, outermost, last.order, self._recorder.flow, self._rules)

    def _missing_data(self) -> MissingData:
        return MissingData(
            optimizers=not self._setup.optimizers,
            every=self._every,
            regularisers=self._terms.undeclared,
            unmeasured=self._terms.unmeasured,
            lost=self._waiting.lost,
            failed=self._tally.failed,
            operations=self._unfollowed(),
        )

    def _unfollowed(self) -> Cause | None:
        """Why the operations of the first steps were not judged, if they should be."""
        if self._first is not None:
            return self._first.unfollowed
        return ON_ACCELERATOR if self._waits else None


def _whole(samples: Any) -> int:
    """The number of samples as an int; a tensor or a float with a whole value will do.

    Raises:
        InvalidType: It is no whole number.
    """
    try:
        if int(samples) == samples:
            return int(samples)
    except (TypeError, ValueError):
        pass
    raise InvalidType(
        "monitor.samples-not-whole", "samples must be a whole number, found {got!r}", got=samples
    )


def _resolve_rows(
    rows: Mapping[str, RowsFunction], modules: Mapping[str, nn.Module]
) -> dict[str, RowsFunction]:
    check_patterns("rows", rows, modules)
    return {name: function for pattern, function in rows.items() for name in modules if covers(pattern, name)}
