"""One call that judges a training step: it runs the step a few times under a monitor, then restores everything.

report = audit(model, lambda model, batch: loss(model(batch["x"]), batch["y"]), batches, optimizer)
print(report)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.auditing.default_checks import (
    BATCHES,
    add_responses,
    check_response,
    explain_broken,
    fold_terms,
    respondents,
    run_checks,
)
from diagnostics.auditing.probes.input_checks import ChangedBatches
from diagnostics.auditing.probes.late_changes import LateChanges
from diagnostics.auditing.probes.operations.bookkeeping import fold_own_copies
from diagnostics.auditing.probes.operations.branch_checks import without_idle
from diagnostics.auditing.probes.operations.mask_checks import fold_masked
from diagnostics.auditing.probes.probe import Probe, check_probe, explain_by_probes, run_probe
from diagnostics.auditing.probes.response_probe import RESPONSE001
from diagnostics.auditing.replay import StepStart
from diagnostics.auditing.sample_counts import count_samples
from diagnostics.errors import InvalidType, InvalidValue
from diagnostics.findings import Finding, Severity, ordered, to_json, to_json_lines, to_markdown
from diagnostics.monitor import Monitor
from diagnostics.recording.calls.capture import RowsFunction
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.tensors import tensors_in
from diagnostics.recording.terms.loss_terms import name_terms, sum_terms
from diagnostics.recording.updates.optimizers import list_optimizers
from diagnostics.records import StepRecord, StepScalars
from diagnostics.report.finding_filter import choose
from diagnostics.report.sarif_and_html import to_fragment, to_html, to_sarif
from diagnostics.report.tables import module_table, term_table
from diagnostics.report.text import PIPE_WIDTH, to_text
from diagnostics.rules.options import Values
from diagnostics.rules.registry import with_own
from diagnostics.rules.rule import Rule
from diagnostics.testing.output_assertions import LEAK001
from diagnostics.testing.trials import arrivals, untouched

Step = Callable[[nn.Module, Any], Any]
"""`step(model, batch)`: a whole training step, or the forward pass alone, which returns the loss or its terms."""

FORMATS = ("table", "markdown", "json", "jsonl", "sarif", "html")


@dataclass(frozen=True)
class Audit:
    """What an audit found. As text it is the table of the last step, and the findings with cause and remedy.

    Attributes:
        findings: Worst first.
        last: The record of the last step.
        history: The scalars of every step.
        losses: Return values of the steps, where they were numbers.
        rules: Rules of the user's own.
    """

    findings: tuple[Finding, ...]
    last: StepRecord = field(repr=False)
    history: tuple[StepScalars, ...] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    rules: tuple[Rule, ...] = field(default=(), repr=False)

    @property
    def clean(self) -> bool:
        """Whether nothing is above a note."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)

    def __str__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_fragment(self.findings, module_table(self.last))

    def as_text(self, width: int = PIPE_WIDTH, color: bool = False) -> str:
        """The tables and findings, in lines of `width` characters, with the colours of a terminal if wanted."""
        terms = f"{term_table(self.last)}\n" if self.last.terms else ""
        return f"{module_table(self.last, width)}\n{terms}{to_text(self.findings, width=width, color=color)}"

    def render(
        self, form: str = "table", artifact: str = "", width: int = PIPE_WIDTH, color: bool = False
    ) -> str:
        """The report as one of `FORMATS`.

        Args:
            artifact: The audited file, for SARIF.
            width, color: Arguments of `as_text`, for the format "table".

        Raises:
            ValueError: The format does not exist.
        """
        if form == "table":
            return self.as_text(width, color)
        if form == "markdown":
            return f"```\n{module_table(self.last)}```\n\n{to_markdown(self.findings)}"
        if form == "json":
            return to_json(self.findings) + "\n"
        if form == "jsonl":
            return to_json_lines(self.findings)
        if form == "sarif":
            return to_sarif(self.findings, artifact, self.rules) + "\n"
        if form == "html":
            return to_html(self.findings, f"Audit of {artifact or 'a model'}", module_table(self.last))
        raise InvalidValue(
            "auditing.unknown-format",
            "there is no format {got!r}; there are {allowed}",
            got=form,
            allowed=", ".join(FORMATS),
        )


def audit(
    model: nn.Module,
    step: Step,
    batches: Iterable[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    steps: int = 20,
    samples: Callable[[Any], int] | None = None,
    watch: Sequence[str] | None = None,
    rows: Mapping[str, RowsFunction] | None = None,
    expect_frozen: Sequence[str] = (),
    expect_partial: Sequence[str] = (),
    probes: Sequence[Probe] = (),
    rules: Sequence[Rule] = (),
    regularisers: Sequence[str] = (),
    expect_tied: Sequence[Sequence[str]] = (),
    targets: Mapping[str, str] | None = None,
    terms: Sequence[str] = (),
    options: Mapping[str, Values] | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    baseline: Collection[str] = (),
) -> Audit:
    """Runs the training step `steps` times under a `Monitor`; model, optimisers and random numbers are restored.

    Args:
        step: Called as `step(model, batch)`. Either it is the whole step, with backward and update inside, or it
            returns the loss, a scalar tensor, and the audit does backward, update and zero_grad. It is
            a whole step if a parameter received gradient before it returned. Instead of a scalar it may return
            the terms of the loss by name, or a tuple of them that `terms` names; the loss is their sum, and each
            is measured (`Monitor.terms`).
        batches: Batches in the order of training, a DataLoader for instance; it starts again where it ends. One
            batch is `[batch]`.
        optimizer: The optimiser or optimisers that the step uses, so that they are restored and rules about
            movement run. Without any, a step that returns the loss is never followed by an update.
        steps: Number of training steps; with fewer than 20 some rules do not run, which a note lists.
        samples: Function that takes a batch and returns the number of samples in its loss; by default the first
            dimension of its tensors.
        watch, rows, expect_frozen, expect_partial: Arguments of `Monitor`.
        probes: Probes to run once each, on the last batch, after the steps.
        rules, regularisers, expect_tied, targets: Arguments of `Monitor`.
        terms: Names of the terms that a step returns as a tuple, in order; of a step that returns them by name,
            those to measure, by default all.
        options: Options of rules, as for `Monitor`.
        select, ignore, baseline: Arguments of `Monitor.findings`.

    Raises:
        ValueError: There is no batch, its samples are not known, `steps` is below 1, the returned loss is no
            scalar, or a pattern matches nothing.
        TypeError: `batches` is one batch, or something in `rules` or `probes` is of another type.
    """
    if steps < 1:
        raise InvalidValue("auditing.too-few-steps", "steps must be at least 1, found {got}", got=steps)
    if isinstance(batches, (Tensor, Mapping)):
        raise InvalidType(
            "auditing.single-batch",
            "batches must be an iterable of batches, found a {got}; for one batch give [batch]",
            got=type(batches).__name__,
        )
    for probe in probes:
        check_probe(probe)
    optimizers = list_optimizers(optimizer)
    with (
        untouched(model, optimizers, keep_gradients=True),
        Monitor(
            model,
            optimizers,
            watch=watch,
            rows=rows,
            expect_frozen=expect_frozen,
            expect_partial=expect_partial,
            history=steps,
            options=options,
            rules=rules,
            regularisers=regularisers,
            expect_tied=expect_tied,
            targets=targets,
            operations=False,
        ) as monitor,
    ):
        ran = _run_steps(
            model,
            step,
            islice(_endless(batches), steps),
            optimizers,
            monitor,
            samples or count_samples,
            terms,
        )
        monitor.detach()  # probes are not training steps
        found = _judge(model, step, optimizers, monitor, ran, probes, regularisers, terms)
    names = {*monitor.last.modules, *(finding.module for finding in found)}
    ids = [*(rule.id for rule in with_own(rules)), *(probe.rule for probe in probes)]
    ids += [finding.rule for finding in found]
    findings = ordered(choose(found, ids, sorted(names), select, ignore, baseline))
    return Audit(tuple(findings), monitor.last, tuple(monitor.history), tuple(ran.losses), tuple(rules))


@dataclass
class _StepsRun:
    """What the steps of an audit left besides the records of the monitor.

    Attributes:
        losses: Return values of the steps, where they were numbers.
        batches: Up to `BATCHES` different batches, by name.
        last: The last batch, and `samples` the number of samples in it.
        gives_loss: Whether a step ends at the loss; otherwise it is a whole one.
        broken: Start of the first step that did not stay finite.
        findings: What happened to batches and gradients while the steps ran.
    """

    losses: list[float] = field(default_factory=list)
    batches: dict[Hashable, Any] = field(default_factory=dict)
    last: Any = None
    samples: int = 0
    gives_loss: bool = False
    broken: StepStart | None = None
    findings: list[Finding] = field(default_factory=list)


def _run_steps(
    model: nn.Module,
    step: Step,
    batches: Iterable[Any],
    optimizers: Sequence[Optimizer],
    monitor: Monitor,
    samples: Callable[[Any], int],
    terms: Sequence[str],
) -> _StepsRun:
    """Do a step with each batch."""
    ran = _StepsRun()
    changed, late = ChangedBatches(), LateChanges(optimizers)
    for number, batch in enumerate(batches):
        name, start = _name_batch(batch), None if ran.broken else StepStart(model, batch, number)
        changed.start(batch)
        ran.last, ran.samples = batch, samples(batch)
        with late.watch(), monitor.step(samples=ran.samples, batch=name):
            returned, ran.gives_loss = _train(model, step, batch, optimizers, monitor, terms)
        if returned is not None:
            ran.losses.append(returned)
        if _name_batch(batch) != name:
            changed.end(batch)
        if start is not None and not _is_finite(monitor, returned):
            ran.broken = start
        if len(ran.batches) < BATCHES:
            ran.batches.setdefault(name, batch)
    if not monitor.history:
        raise InvalidValue("auditing.no-batch", "there is no batch in batches")
    ran.findings = [*changed.findings(), *late.findings()]
    return ran


def _judge(
    model: nn.Module,
    step: Step,
    optimizers: Sequence[Optimizer],
    monitor: Monitor,
    ran: _StepsRun,
    probes: Sequence[Probe],
    regularisers: Sequence[str],
    terms: Sequence[str],
) -> list[Finding]:
    """The findings of the monitor, the probes and the checks of every audit, consequences under their causes."""
    ids = {probe.rule for probe in probes}
    probed = [finding for probe in probes for finding in run_probe(probe, model, ran.last)]
    probed += ran.findings
    whole = _summed(step, terms)
    probed += run_checks(
        model,
        whole,
        [] if ran.broken else list(ran.batches.values()),
        optimizers,
        monitor.modules,
        ran.samples,
        independence=LEAK001.id not in ids,
    )
    own = explain_broken(monitor.findings(), model, whole, ran.broken, optimizers, monitor.modules)
    own, probed = fold_masked(*fold_terms(own, probed))
    flow = Flow()
    flow.replace(monitor.last.into)
    if ran.gives_loss and not ran.broken and RESPONSE001.id not in ids:
        loss = _named_terms(step, terms)
        responses = check_response(model, loss, ran.last, respondents(monitor.last), regularisers)
        probed = explain_by_probes(add_responses(own, responses), probed, flow)
    return fold_own_copies(without_idle(explain_by_probes(own, probed, flow)))


def _is_finite(monitor: Monitor, loss: float | None) -> bool:
    """Whether a step left the loss, the gradients and the weights finite, as far as it was recorded."""
    if loss is not None and not math.isfinite(loss):
        return False
    parameters = monitor.last.parameters.values() if monitor.history else ()
    return all(each.reach.finite is not False and not each.broken for each in parameters)


def _name_batch(batch: Any) -> Hashable:
    """A name that batches of equal content share; None where nothing is known of the content."""
    parts = []
    for tensor in tensors_in(batch):
        flat = tensor.detach().flatten()
        some = flat[: 64 if flat.numel() else 0].tolist()
        whole = torch.view_as_real(flat) if flat.is_complex() else flat
        total = whole.double()
        parts.append((tuple(tensor.shape), repr(some), float(total.sum()), float(total.square().sum())))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16] if parts else None


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Ends only if a second iteration over `batches` gives nothing, as with a generator."""
    while True:
        count = 0
        for count, batch in enumerate(batches, start=1):  # noqa: B007 - used after the loop
            yield batch
        if not count:
            return


def _summed(step: Step, terms: Sequence[str]) -> Step:
    """The step, with the sum of the terms of its loss if it returns terms."""

    def run(model: nn.Module, batch: Any) -> Any:
        returned = step(model, batch)
        named = {} if _is_log(returned, terms) else name_terms(returned, terms)
        return sum_terms(named) if named else returned

    return run


def _is_log(returned: Any, terms: Sequence[str]) -> bool:
    """Whether what a step returned by name are no terms of the loss: numbers without a graph, which nobody named."""
    values = returned.values() if isinstance(returned, Mapping) and not terms else ()
    return bool(values) and not any(isinstance(each, Tensor) and each.requires_grad for each in values)


def _named_terms(step: Step, terms: Sequence[str]) -> Step:
    """The step, which returns the terms of its loss by name, or the loss."""

    def run(model: nn.Module, batch: Any) -> Any:
        returned = step(model, batch)
        return name_terms(returned, terms) or returned

    return run


def _train(
    model: nn.Module,
    step: Step,
    batch: Any,
    optimizers: Sequence[Optimizer],
    monitor: Monitor,
    terms: Sequence[str],
) -> tuple[float | None, bool]:
    """One step, completed where the user's ends at the loss.

    Returns:
        The loss if it returned one, and whether it had to be completed.
    """
    with arrivals(model) as arrived:
        returned = step(model, batch)
    if _is_log(returned, terms) or (arrived and isinstance(returned, Mapping) and not terms):
        returned = returned.get("loss")
    named = name_terms(returned, terms)
    if named:
        monitor.terms({name: value for name, value in named.items() if name in (terms or named)})
        returned = sum_terms(named)
    if isinstance(returned, Tensor) and returned.numel() == 1:
        monitor.loss(returned)
    ends_at_loss = isinstance(returned, Tensor) and returned.requires_grad and not arrived
    if isinstance(returned, Tensor) and ends_at_loss:
        if returned.numel() != 1:
            raise InvalidValue(
                "auditing.loss-not-scalar",
                "step must return the loss as a scalar, found the shape {got}",
                got=tuple(returned.shape),
            )
        returned.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        model.zero_grad()  # what no optimiser holds has gradient too
    return _number(returned), ends_at_loss


def _number(returned: Any) -> float | None:
    """What a step returned as a number, None where it is none."""
    if isinstance(returned, Tensor):
        return float(returned.detach()) if returned.numel() == 1 else None
    return float(returned) if isinstance(returned, (int, float)) else None
