"""The rules: what each is called, how bad it is, when it speaks and what to do; `checks` has what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from diagnostics import checks
from diagnostics.checks import Observation
from diagnostics.findings import Severity
from diagnostics.records import StepRecord


@dataclass(frozen=True)
class Rule:
    """A rule with its stable id, its threshold and what to do about it.

    Attributes:
        min_steps: Recorded steps since the first one before it becomes a finding.
        share: Share of these steps on which it must hold; 1 means on every one.
        check: What it looks at in the record of one step; None where it looks at something else.
        needs_optimizer: It cannot run unless the monitor was given the optimisers.
        source: Who speaks: each recorded step, the history of them, a fixed probe batch, the monitor
            about itself, or an assertion in a test.
    """

    id: str
    severity: Severity
    title: str
    metric: str
    threshold: float | None
    min_steps: int
    remedy: str
    check: Callable[[StepRecord], Iterable[Observation]] | None
    needs_optimizer: bool = False
    share: float = 1.0
    source: Literal["step", "history", "probe", "monitor", "assertion"] = "step"


CRITICAL, WARNING, NOTE = Severity.CRITICAL, Severity.WARNING, Severity.NOTE

RULES: tuple[Rule, ...] = (
    Rule("COV001", CRITICAL, "Few samples train the module", "coverage", checks.COVERAGE_CRITICAL, 5,
         "Let the samples in the loss pass through it with gradient in the step that supervises them.",
         checks.low_coverage,
         # A cache in lockstep with its carry trains on every sample now and then, and on none between.
         share=0.6),
    Rule("COV002", WARNING, "Some samples never train the module", "coverage", 1.0, 10,
         "If these samples should train it, look for masks and detach() behind it.", checks.partial_coverage),
    Rule("COV003", NOTE, "Coverage is not known", "steps", None, 5,
         "Say to which samples its rows belong: Monitor(rows={...}) or `with monitor.rows(index)`.",
         checks.unknown_coverage),
    Rule("WASTE001", WARNING, "Rows computed for nothing", "waste", checks.WASTE, 5,
         "Compute only the rows that are used, or use the rows that are computed.", checks.wasted_rows),
    Rule("GRAD001", CRITICAL, "No gradient reaches the module", "coverage", 0.0, 5,
         "Run it with gradients enabled and keep its outputs tensors up to the loss; if it is to stay as it"
         " is, set requires_grad to False.", checks.no_gradient),
    Rule("GRAD002", WARNING, "Only zero gradient reaches the module", "coverage", 0.0, 5,
         "Find the factor behind it that is zero.", checks.zero_gradient),
    Rule("GRAD003", NOTE, "The module is frozen", "coverage", None, 5,
         "If it is meant to be frozen, declare it with expect_frozen, and it is watched for movement.",
         checks.frozen_undeclared),
    Rule("CALL001", WARNING, "Only some calls receive gradient", "calls with gradient", None, 5,
         "If the other calls run without gradient on purpose, declare it with expect_partial: then it is a note.",
         checks.some_calls),
    Rule("CALL002", WARNING, "The module is never called", "calls", None, 5,
         "Remove it, or call it; if it is called through other methods, watch the modules inside it.",
         checks.not_called),
    Rule("REACH001", WARNING, "Trainable parameters without gradient", "parameters", None, 5,
         "Use them in the loss, or set requires_grad to False.",
         lambda record: checks.grouped(record, "have no gradient", checks.gradient_none)),
    Rule("REACH002", WARNING, "Parameters with zero gradient", "parameters", None, 5,
         "Check initialisation and activations around them; a zero that ends after the first steps is fine.",
         lambda record: checks.grouped(record, "receive a gradient that is all zero", checks.gradient_zero)),
    Rule("REACH003", CRITICAL, "A gradient is not finite, and was applied", "parameters", None, 1,
         "Find the operation with torch.autograd.detect_anomaly(); clip or skip such steps.",
         lambda record: checks.grouped(record, "have a gradient that is not finite", checks.not_finite)),
    Rule("MOVE001", CRITICAL, "Gradient without movement", "parameters", None, 5,
         "Put the parameters in a group of the optimiser with a learning rate above 0.",
         lambda record: checks.grouped(record, "receive gradient and do not move", checks.did_not_move), True),
    Rule("MOVE002", WARNING, "Movement without gradient", "parameters", None, 5,
         "Take them out of the optimiser, or set .grad to None, if they are not to move.",
         lambda record: checks.grouped(record, "move without a gradient of this step", checks.moved_without_gradient)),
    # micro-steps of gradient accumulation do not step either: wait for more than any usual number of them
    Rule("MOVE003", CRITICAL, "The optimiser never steps", "parameters", None, 20,
         "Call optimizer.step() inside the monitored step, on the optimiser given to the monitor.",
         lambda record: checks.grouped(record, "receive gradient and do not move", checks.optimizer_skipped), True),
    Rule("FROZEN001", CRITICAL, "Frozen parameters move", "parameters", 0.0, 1,
         "Set requires_grad to False, set .grad to None and take them out of every optimiser.",
         lambda record: checks.grouped(record, "are declared frozen and move", checks.moved_frozen)),
    Rule("COLLAPSE001", CRITICAL, "The output does not depend on the sample", "share", checks.COLLAPSED_SHARE, 5,
         "Compare with its random start; check the input, and the scale of the last bias and norm.",
         checks.collapse),
    Rule("SPIKE001", WARNING, "Spikes", "output_rms or gradient_max / local median", None, 20,
         "Look at the batches of these steps and at the operations of this module that can amplify.",
         None, source="history"),
    Rule("DRIFT001", WARNING, "The output on a fixed batch drifts", "sliced Wasserstein / reference spread", None, 0,
         "Compare with what stands behind the module: what was tuned to the old output must follow, so lower"
         " the learning rate of this module, or normalise its output.", None, source="probe"),
    Rule("RULE001", NOTE, "Rules did not run", "rules", None, 0,
         "Give the monitor what the rules need, or read their silence as no statement.",
         None, source="monitor"),
    Rule("LEAK001", CRITICAL, "Samples of a batch influence each other", "relative change", None, 0,
         "Look for batch statistics (BatchNorm in training mode), reductions and softmax over the batch"
         " dimension, and reshapes that mix it with another.", None, source="assertion"),
    Rule("LOSS001", CRITICAL, "The loss does not fall", "relative fall", None, 0,
         "Read the table from the loss backwards: the first module without gradient or movement is the place.",
         None, source="assertion"),
)  # fmt: skip

_SPEAKS = {
    "history": "it speaks where at least {0} steps were recorded",
    "probe": "it speaks about outputs given to Monitor.probe",
    "monitor": "it speaks at once",
    "assertion": "only the assertions speak of it",
}


def find_rule(rule: str) -> Rule:
    """The rule with this id.

    Raises:
        KeyError: There is none.
    """
    found = next((known for known in RULES if known.id == rule), None)
    if found is None:
        raise KeyError(f"no rule {rule!r}; there are {', '.join(known.id for known in RULES)}")
    return found


def explain(rule: str) -> str:
    """What a rule looks for, when it speaks, and what to do, as markdown.

    Raises:
        KeyError: There is no rule with this id.
    """
    found = find_rule(rule)
    bound = "" if found.threshold is None else f", threshold {found.threshold:g}"
    speaks = _SPEAKS.get(found.source, "it speaks after {0} recorded steps in a row").format(found.min_steps)
    return (
        f"**{found.id}** ({found.severity.label}): {found.title}.\n\n"
        f"Measures {found.metric}{bound}; {speaks}.\n\n"
        f"{found.remedy}\n\n"
        f"More: docs/rules.md#{found.id.lower()}\n"
    )
