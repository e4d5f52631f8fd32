"""H2 of an own model: a part does not get its gradients, or does not move with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics import Absent, Finding, Monitor, Severity
from diagnostics.findings import to_json
from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.own_model import injected_faults as faults
from etrm.investigation.own_model.batch_rows import count_rows
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    CheckedRow,
    InspectedHypothesis,
    InspectedModel,
)
from etrm.investigation.own_model.hypotheses.loss_slopes import (
    Gradients,
    check_slopes,
    compute_gradient,
    find_unused,
    is_within,
    list_parts,
    list_trained,
)
from etrm.investigation.own_model.hypotheses.missing_slopes import check_missing_gradients
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial
from etrm.investigation.records import NotMeasured
from etrm.investigation.result import AdditionalFinding

COMPARED_STEPS = 3
"""Steps in which the optimiser's gradient is compared with that of the loss."""
SMALLEST_COSINE = 0.9
"""Smallest cosine of the angle between the optimiser's gradient and that of the loss. Clipping does not turn it."""
OPENING_STEPS = 3
"""Most first steps without any gradient that count as healthy: a layer that starts at zero passes none on until its
first update."""
DECIDING = ("COV", "GRAD", "REACH", "MOVE", "STEP", "LOSS002", "HIDDEN", "CALL002")
"""Rules of the toolkit, or the beginning of their names, that are about gradient and movement."""

COVERAGE = Metric("own.coverage", "lowest coverage of a step: {item}", Direction.HIGHER)
FINDING = Metric("own.gradient-finding", "the toolkit's rule {item}", Direction.LOWER)
NO_GRAPH = Metric("own.loss-without-graph", "steps whose loss has no graph", Direction.LOWER)
NOT_FINITE = Metric("own.loss-not-finite", "steps whose loss is not finite", Direction.LOWER)
FROZEN = Metric(
    "own.frozen-tensors", "tensors that take no gradient and are not frozen on purpose", Direction.LOWER
)
OPTIMIZER = Metric(
    "own.optimizer-gradient", "lowest cosine of the optimiser's and the loss's gradient", Direction.HIGHER
)
DOWNHILL = Metric(
    "own.first-update", "cosine of the first update and the negative gradient: {item}", Direction.HIGHER
)
UNUSED = Metric("own.unused-modules", "modules that are never called and get no gradient")
COVERED = Figure(
    key="own-coverage",
    title="Coverage by part",
    x_label="step",
    y_label="coverage",
    caption="Share of the batch's samples whose loss has a gradient through the part. 1 is healthy.",
    y_range=(-0.05, 1.05),
)


class OwnGradients(InspectedHypothesis):
    """H2 of an own model."""

    figures = (COVERED,)
    next_step = (
        "Restore the gradients first: look for a detach, a no_grad, a cache, a frozen module or an update that does "
        "not happen at the part that page H2 names. Then run the same command again."
    )
    statement = Statement(
        id="H2",
        title="Gradients",
        statement="A part of the model does not receive its gradients, or does not follow them.",
        refuted_by=(
            "On every step every sample has a gradient through the parts; every weight that is not frozen on purpose "
            "receives a gradient and moves; the gradient is the slope of the loss, it reaches the optimiser, and the "
            "first update follows it."
        ),
        mechanism=(
            "If a part is detached, cached, frozen, missing from the optimiser, or trained with old or negated "
            "gradients, the loss may still fall, because the rest of the model learns without it."
        ),
        kind="mechanistic",
        would_change="One step on which a sample has no gradient through a part, or a weight that does not move.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """A model without weights cannot be tested."""
        return "" if any(True for _ in subject.model.parameters()) else "the model has no weights"

    def list_faults(self, subject: ModelUnderTest) -> tuple[faults.InjectedFault, ...]:
        """A frozen part, and a context without its graph, as far as the context module has weights."""
        found = [faults.FROZEN_PART] if faults.name_trained_part(subject) else []
        context = subject.context_module
        if context and any(p.requires_grad for p in subject.model.get_submodule(context).parameters()):
            several = count_rows(subject.batch(0)) > 1
            found += [faults.DETACHED_CONTEXT, *([faults.PARTLY_DETACHED] if several else [])]
        return tuple(found)

    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Train some steps under the monitor, and compare gradients with slopes."""
        slopes = [*check_slopes(factory, seed), *check_missing_gradients(factory, seed)]
        watched = _watch_steps(factory, seed)
        deciding, others = _split_findings(watched.findings)
        subject = factory.build(seed)
        n = f"{len(list(subject.model.modules()))} modules"
        unused = UNUSED.row(
            len(watched.unused), threshold="(decides nothing)", n=n, note=", ".join(watched.unused[:5])
        )
        checks = (_check_frozen_tensors(subject), CheckedRow(unused), *_make_rows(watched, deciding), *slopes)
        found = InspectedModel(checks, watched.curves(seed), tuple(map(_as_additional, others)))
        explained_by = "H4" if _begins_later(found, watched, deciding) else None
        if _is_unread(watched, deciding, subject.context_module):
            explained_by = "H3"
        return replace(found, explained_by=explained_by)


def _check_frozen_tensors(subject: ModelUnderTest) -> CheckedRow:
    named = list(subject.model.named_parameters())
    frozen = [
        name
        for name, p in named
        if not p.requires_grad and not any(is_within(name, part) for part in subject.frozen)
    ]
    words = f"{len(frozen)} of {len(named)} tensors take no gradient and are not named in frozen=(...)"
    words += f" (first: {frozen[0]})" if frozen else ""
    return CheckedRow(
        FROZEN.expect_none(len(frozen), f"{len(named)} tensors", note=", ".join(frozen[:5])), words
    )


@dataclass
class WatchedSteps:
    """What the monitor saw.

    Attributes:
        coverage: coverage of each part on each step; only where it is known.
        unknown: the reason why a part's coverage is not known.
        findings: the toolkit's findings above a note.
        graphless: number of steps whose loss has no graph.
        not_finite: steps whose loss is not finite.
        cosines: cosines of the optimiser's gradient and that of the loss; none if an update accumulates gradients.
        unused: names of modules that are never called and get no gradient.
        downhill: cosine of the first update and the negative gradient, by part.
    """

    coverage: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    graphless: int = 0
    not_finite: list[int] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    downhill: dict[str, float] = field(default_factory=dict)

    def curves(self, seed: int) -> tuple[Series, ...]:
        """The coverage of each part over the steps."""
        return tuple(
            Series(
                figure=COVERED.key,
                arm="h2-model",
                seed=seed,
                label=name,
                x=tuple(float(x) for x, _ in points),
                y=tuple(round(y, 6) for _, y in points),
            )
            for name, points in self.coverage.items()
        )


def _watch_steps(factory: ModelFactory, seed: int) -> WatchedSteps:
    trial, seen = TrainingTrial(factory, seed), WatchedSteps()
    subject, parts = trial.subject, [part for part in list_parts(trial.subject) if part]
    children = any(True for _ in trial.model.children())
    root = trial.model if children else nn.Sequential(trial.model)
    modules = dict(trial.model.named_modules())  # the others are parameters, which have no calls
    partial = [name for name in subject.approximate if name and name in modules]
    seen.unused = find_unused(trial)
    accumulates = False
    with Monitor(
        root,
        trial.optimizers,
        watch=["", *parts, *partial],
        expect_frozen=(*subject.frozen, *seen.unused) if children else (),
        expect_partial=partial,
        operations=False,
    ) as monitor:
        for number in range(INSPECTED_STEPS):
            batch = trial.batch(number)
            expected = compute_gradient(trial, number, batch) if number < COMPARED_STEPS else None
            before = _copy_parts(trial, parts) if not number else {}
            with monitor.step(samples=count_rows(batch)), _CapturedGradients(trial.optimizers) as captured:
                loss = trial.loss(number, batch)
                seen.graphless += not loss.requires_grad
                seen.not_finite += [] if bool(loss.isfinite()) else [number]
                trial.update(loss)
            if expected is not None and not seen.not_finite:
                _compare(seen, trial, expected, captured, before)
            accumulates |= expected is not None and captured.calls < len(trial.optimizers)
            for part in parts:
                covered = monitor.coverage(part)
                if isinstance(covered, Absent):
                    seen.unknown.setdefault(part, covered.reason)
                else:
                    seen.coverage.setdefault(part, []).append((number, float(covered)))
        seen.cosines = [] if accumulates else seen.cosines  # a sum has another gradient by design
        seen.findings = [finding for finding in monitor.findings() if finding.severity is not Severity.NOTE]
    return seen


class _CapturedGradients:
    """Collects the gradients that optimisers apply within a block; of several steps the first."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers, self.found = optimizers, Gradients()
        self.calls = 0

    def __enter__(self) -> _CapturedGradients:
        self.handles = [optimizer.register_step_pre_hook(self._keep) for optimizer in self.optimizers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.calls += 1
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.found.setdefault(id(p), p.grad.detach().to_dense().clone())


def _copy_parts(trial: TrainingTrial, parts: Sequence[str]) -> dict[str, list[Tensor]]:
    return {
        part: [p.detach().clone() for p in list_trained(trial.model.get_submodule(part))]
        for part in (parts or [""])
    }


def _compare(
    seen: WatchedSteps,
    trial: TrainingTrial,
    expected: Gradients,
    captured: _CapturedGradients,
    before: dict[str, list[Tensor]],
) -> None:
    """Note how the optimiser's gradient, and in the first step the update, lie to the gradient of the loss."""
    # An update that does several steps has other gradients by design.
    if captured.calls == len(trial.optimizers):
        both = [(expected[key], captured.found[key]) for key in expected if key in captured.found]
        seen.cosines += [_cosine(*zip(*both, strict=True))] if both else []
    for part, weights in before.items():
        now = list_trained(trial.model.get_submodule(part))
        moves = [
            (new.detach() - old, -expected[id(new)])
            for new, old in zip(now, weights, strict=True)
            if id(new) in expected
        ]
        if moves and any(bool(move.any()) for move, _ in moves) and any(bool(g.any()) for _, g in moves):
            seen.downhill[part] = _cosine(*zip(*moves, strict=True))


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Cosine of the angle between two lists of tensors; 0 where one of them is zero."""
    products = [
        sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))
        for left, right in ((one, other), (one, one), (other, other))
    ]
    size = (products[1] * products[2]) ** 0.5
    return products[0] / size if size else 0.0


def _make_rows(seen: WatchedSteps, deciding: Sequence[Finding]) -> Iterator[CheckedRow]:
    n = f"{INSPECTED_STEPS} steps"
    yield CheckedRow(
        NO_GRAPH.expect_none(seen.graphless, n), f"the loss of {seen.graphless} of {n} has no graph"
    )
    bad = len(seen.not_finite)
    words = f"the loss of {bad} of {n} is not finite" + (f" (first: {seen.not_finite[0]})" if bad else "")
    yield CheckedRow(NOT_FINITE.expect_none(bad, n), words)
    for part, points in seen.coverage.items():
        lowest = _find_lowest([value for _, value in points])
        row = COVERAGE.row(lowest, threshold="1", passed=lowest >= 1, n=n, item=part)
        causes = [finding for finding in deciding if finding.module == part and _is_about_coverage(finding)]
        because = f" ({causes[0].rule}: {causes[0].cause})" if causes else ""
        yield CheckedRow(row, f"only {lowest:.0%} of the samples of a step train {part}{because}")
    for part, reason in seen.unknown.items():
        if part not in seen.coverage:
            yield CheckedRow(COVERAGE.row(NotMeasured(absent=reason), threshold="1", n=n, item=part))
    if seen.cosines:
        lowest = min(seen.cosines)
        row = OPTIMIZER.row(
            lowest,
            threshold=f">= {SMALLEST_COSINE:g}",
            passed=lowest >= SMALLEST_COSINE,
            n=f"{COMPARED_STEPS} steps",
        )
        yield CheckedRow(
            row, f"the optimiser gets another gradient than that of the loss (cosine {lowest:.2f})"
        )
    for part, cosine in seen.downhill.items():
        name = part or "the model"
        row = DOWNHILL.row(
            cosine, threshold="> 0", passed=cosine > 0, n="the first step", item=part, item_words=name
        )
        yield CheckedRow(
            row, f"the first update of {name} leads up the slope of the loss (cosine {cosine:.2f})"
        )
    for finding in deciding:
        named = _is_about_coverage(finding) and finding.module in seen.coverage
        kind = "module " if finding.module and finding.message.startswith(finding.module) else ""
        words = f"{kind}{finding.message.rstrip('.')} ({finding.rule}: {finding.cause})" if not named else ""
        yield CheckedRow(_finding_row(finding), words)


def _find_lowest(coverage: Sequence[float]) -> float:
    """The lowest coverage, without that of the steps before a first gradient."""
    opened = next((step for step, value in enumerate(coverage) if value), 0)
    return min(coverage[opened if opened <= OPENING_STEPS else 0 :])


def _is_about_coverage(finding: Finding) -> bool:
    return finding.rule == "COV001"


def _finding_row(finding: Finding) -> EvidenceRow:
    value = finding.evidence.value
    module = finding.module or "the model"
    return FINDING.row(
        value,
        threshold="no finding",
        passed=False,
        n=f"steps {finding.evidence.first_step} to {finding.evidence.last_step}",
        item=f"{finding.rule}-{finding.module}" + (f"-{finding.code}" if finding.code else ""),
        item_words=f"{finding.rule}, {module}: {finding.evidence.measure}",
        note=finding.remedy,
    )


def _split_findings(found: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The findings that decide, and the others."""
    deciding = [finding for finding in found if finding.rule.startswith(DECIDING)]
    return deciding, [finding for finding in found if finding not in deciding]


def _is_unread(seen: WatchedSteps, deciding: Sequence[Finding], context: str) -> bool:
    """Whether only the context module fails, without any gradient, as where nothing reads the context."""
    covered = [value for _, value in seen.coverage.get(context, ())]
    return bool(deciding) and not any(covered) and all(finding.module == context for finding in deciding)


def _begins_later(found: InspectedModel, seen: WatchedSteps, deciding: Sequence[Finding]) -> bool:
    """Whether every failure begins after the first update, as where a rate that is too high ends the gradients."""
    later = {COVERAGE.code, FINDING.code, NOT_FINITE.code, OPTIMIZER.code}
    sound = (
        *(points[0][1] >= 1 for points in seen.coverage.values()),
        *(finding.evidence.first_step > 0 for finding in deciding),
        all(cosine >= SMALLEST_COSINE for cosine in seen.cosines[:1]),
        0 not in seen.not_finite,
    )
    return all(sound) and {check.row.code for check in found.failed} <= later


def _as_additional(finding: Finding) -> AdditionalFinding:
    [record] = json.loads(to_json([finding]))
    kept = {key: record[key] for key in ("rule", "severity", "module", "message", "cause", "remedy", "code")}
    return AdditionalFinding(**kept, n="the worst seed")
