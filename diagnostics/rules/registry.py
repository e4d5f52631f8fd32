"""The rules: what each is called, how bad it is, when it speaks and what to do; `checks` have what it looks at.

Each rule has a page in `diagnostics/pages`, which also gives the reason for each default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

from diagnostics.errors import InvalidValue, UnknownName
from diagnostics.findings import METRICS, Evidence, Finding, Severity
from diagnostics.records import StepRecord
from diagnostics.rules import causes, parameter_checks
from diagnostics.rules import module_checks as checks
from diagnostics.rules.causes import Cause
from diagnostics.rules.module_checks import Observation
from diagnostics.rules.options import Option, Values


@dataclass(frozen=True)
class Rule:
    """A rule with its stable id, its options and what to do about it.

    Attributes:
        metric: Stable name of what it measures, a key of `METRICS`.
        causes: Every cause that its findings can name.
        options: What `Monitor(options={id: {name: value}})` can set.
        bound: The option that its metric is compared with, "" where there is none.
        check: What it looks at in the record of one step, given the values of its options; None where it
            looks at something else.
        needs_optimizer: It cannot run unless the monitor was given the optimisers.
        needs_every_step: It cannot run where the monitor leaves steps out.
        source: Who speaks: each recorded step, the history of them, a fixed probe batch, the monitor
            about itself, an assertion in a test, or a probe of an audit.
    """

    id: str
    severity: Severity
    title: str
    metric: str
    remedy: str
    check: Callable[[StepRecord, Values], Iterable[Observation]] | None
    options: Mapping[str, Option] = field(default_factory=dict)
    bound: str = ""
    needs_optimizer: bool = False
    needs_every_step: bool = False
    source: Literal["step", "history", "probe", "monitor", "assertion", "audit"] = "step"
    causes: tuple[Cause, ...] = ()

    def finding(
        self, module: str, message: str, evidence: Evidence, cause: Cause, severity: Severity | None = None
    ) -> Finding:
        """A finding of this rule.

        Args:
            cause: One of the rule's causes, with its facts.
            severity: How bad it is, where that is not the rule's severity.

        Raises:
            InvalidValue: The rule does not list the cause.
        """
        if all(cause.code != known.code for known in self.causes):
            raise InvalidValue(
                "rules.unlisted-cause",
                "{rule} does not list the cause {cause!r}; it lists {allowed}",
                rule=self.id,
                cause=cause.code,
                allowed=", ".join(known.code for known in self.causes),
            )
        return Finding(
            rule=self.id,
            severity=self.severity if severity is None else severity,
            module=module,
            message=message,
            evidence=evidence,
            cause=str(cause),
            remedy=self.remedy,
            code=cause.code,
        )

    @property
    def threshold(self) -> float | None:
        """What its metric is compared with, by default."""
        return self.options[self.bound].default if self.bound else None

    @property
    def min_steps(self) -> int:
        """Recorded steps that it needs before it speaks, by default."""
        option = self.options.get("min_steps")
        return int(option.default) if option else 0


def _lasting(steps: int, share: float = 1.0) -> dict[str, Option]:
    return {
        "min_steps": Option(
            steps, 1, 1e6, "recorded steps since it began before it is a finding", whole=True
        ),
        "share": Option(share, 0.01, 1.0, "share of these steps on which it holds"),
    }


CRITICAL, WARNING, NOTE = Severity.CRITICAL, Severity.WARNING, Severity.NOTE

_COVERAGE = (
    causes.LOSS_WITHOUT_GRADIENT,
    causes.PART_OF_BATCH,
    causes.SAMPLES_CUT,
    causes.NOT_USED,
    causes.ZERO_FACTOR,
    causes.NO_GRAD,
    causes.DETACHED,
    causes.CUT_INSIDE,
    causes.ZERO_AT_START,
    causes.UNKNOWN,
)
"""Those that an assertion can name too, which judges a single step."""
_ROWS_NOT_KNOWN = (
    causes.OTHER_WAY,
    causes.OTHER_LEADING_SIZE,
    causes.SEQUENCE_FIRST,
    causes.HIDDEN_STATE,
    causes.SCALAR_OUTPUT,
    causes.RETURNS_INPUT,
    causes.CHANGED_VIEW,
    causes.OPAQUE_OUTPUT,
    causes.NO_FLOATING_OUTPUT,
    causes.ROWS_OUT_OF_RANGE,
    causes.RECOMPUTED_ROWS,
)
_MOVERS = (
    causes.WEIGHT_DECAY,
    causes.OPTIMIZER_STATE,
    causes.STALE_GRADIENT,
    causes.STALE_GRADIENT_FROZEN,
    causes.OUTSIDE_OPTIMIZER,
)

RULES: tuple[Rule, ...] = (
    Rule("COV001", CRITICAL, "Few samples train the module", "coverage",
         "Let the samples in the loss pass through it with gradient in the step that supervises them.",
         checks.low_coverage,
         # A cache in lockstep with its carry trains on every sample now and then, and on none between.
         {"below": Option(0.5, 0.0, 1.0, "coverage of a step under which it counts"), **_lasting(5, 0.6)}, "below",
         causes=_COVERAGE),
    Rule("COV002", WARNING, "Some samples never train the module", "coverage",
         "If these samples should train it, look for masks and detach() behind it.", checks.partial_coverage,
         {"below": Option(1.0, 0.0, 1.0, "coverage of a step under which it counts"), **_lasting(10)}, "below",
         causes=_COVERAGE),
    Rule("COV003", NOTE, "Coverage is not known", "steps",
         "Say to which samples its rows belong: Monitor(rows={...}) or `with monitor.rows(index)`.",
         checks.unknown_coverage, _lasting(5),
         causes=_ROWS_NOT_KNOWN),
    Rule("WASTE001", WARNING, "Rows computed for nothing", "waste",
         "Compute only the rows that are used, or use the rows that are computed.", checks.wasted_rows,
         {"above": Option(0.5, 0.0, 1.0, "waste of a step from which it counts"), **_lasting(5)}, "above",
         causes=(causes.ROWS_DROPPED,)),
    Rule("GRAD001", CRITICAL, "No gradient reaches the module", "coverage",
         "Run it with gradients enabled and keep its outputs tensors up to the loss; if it is to stay as it"
         " is, set requires_grad to False.", checks.no_gradient, _lasting(5),
         causes=(causes.NO_GRAD, causes.DETACHED, causes.CUT_INSIDE)),
    Rule("GRAD002", WARNING, "Only zero gradient reaches the module", "coverage",
         "Find the factor behind it that is zero.", checks.zero_gradient, _lasting(5),
         causes=(causes.ZERO_FACTOR,)),
    Rule("GRAD003", NOTE, "The module is frozen", "coverage",
         "If it is meant to be frozen, declare it with expect_frozen, and it is watched for movement.",
         checks.frozen_undeclared, _lasting(5),
         causes=(causes.REQUIRES_GRAD_FALSE,)),
    Rule("GRAD004", CRITICAL, "Gradients are not cleared", "parameters",
         "Call optimizer.zero_grad() once per update.", parameter_checks.not_cleared, _lasting(5),
         needs_optimizer=True, needs_every_step=True,
         causes=(causes.ZERO_GRAD_MISSING,)),
    Rule("GRAD005", WARNING, "Next to no gradient reaches the module", "leverage_share",
         "Find the factor behind it, and let its gradient through as it is.", checks.faint_gradient,
         {"below": Option(1e-5, 0.0, 1.0, "share of the largest under which it counts"), **_lasting(20)},
         "below",
         causes=(causes.TINY_FACTOR,)),
    Rule("CALL001", WARNING, "Only some calls receive gradient", "calls_with_gradient",
         "If the other calls run without gradient on purpose, declare it with expect_partial: then it is a note.",
         checks.some_calls, _lasting(5),
         causes=(causes.CALLS_WITHOUT_GRAD, causes.CALLS_DECLARED, causes.CALLS_CUT,
                 causes.CALLS_WITHOUT_GRAD_AND_CUT)),
    Rule("CALL002", WARNING, "The module is never called", "calls",
         "Remove it, or call it; if it is called through other methods, watch the modules inside it.",
         checks.not_called, _lasting(5),
         causes=(causes.NOT_USED,)),
    Rule("REACH001", WARNING, "Trainable parameters without gradient", "parameters",
         "Use them in the loss, or set requires_grad to False.", parameter_checks.without_gradient, _lasting(5),
         causes=(causes.REPLACED_PARAMETER, causes.NOT_IN_LOSS, causes.ZERO_AT_START)),
    Rule("REACH002", WARNING, "Parameters with zero gradient", "parameters",
         "Check initialisation and activations around them; a zero that ends after the first steps is fine.",
         parameter_checks.with_zero_gradient, _lasting(5),
         causes=(causes.DEAD_UNIT, causes.ZERO_AT_START)),
    Rule("REACH003", CRITICAL, "A gradient is not finite, and was applied", "parameters",
         "Find the operation with torch.autograd.detect_anomaly(); clip or skip such steps.",
         parameter_checks.with_broken_gradient, _lasting(1),
         causes=(causes.OVERFLOW_IN_OUTPUT, causes.OVERFLOW_ELSEWHERE, causes.OVERFLOW)),
    Rule("REACH004", NOTE, "Gradient of rounding size", "parameters",
         "Leave the parameter out (bias=False): it has no effect.", parameter_checks.of_rounding_size, _lasting(5),
         causes=(causes.NO_EFFECT,)),
    Rule("REACH005", WARNING, "A tensor learns outside the model", "tensors",
         "Make it an nn.Parameter, keep layers in nn.ModuleList or nn.ModuleDict, and make the optimiser afterwards.",
         checks.outside_the_model, _lasting(5), needs_optimizer=True,
         causes=(causes.UNREGISTERED_LAYERS, causes.PLAIN_TENSOR)),
    Rule("MOVE001", CRITICAL, "Gradient without movement", "parameters",
         "Put the parameters in a group of the optimiser with a learning rate above 0.",
         parameter_checks.still, _lasting(5), needs_optimizer=True,
         causes=(causes.IN_NO_GROUP, causes.ZERO_RATE, causes.CLEARED_GRADIENT, causes.SET_BACK,
                 causes.ROUNDED_OR_SET_BACK, causes.NO_GRADIENT, causes.ZERO_GRADIENT, causes.SKIPPED_STEP,
                 causes.NOT_APPLIED, causes.NO_UPDATE)),
    Rule("MOVE002", WARNING, "Movement without gradient", "parameters",
         "Take them out of the optimiser, or set .grad to None, if they are not to move.",
         parameter_checks.moved_without_gradient, _lasting(5),
         causes=_MOVERS),
    Rule("MOVE003", CRITICAL, "The optimiser never steps", "parameters",
         "Call optimizer.step() inside the monitored step, on the optimiser given to the monitor.",
         # micro-steps of gradient accumulation do not step either: wait for more than any usual number of them
         parameter_checks.never_stepped, _lasting(20), needs_optimizer=True,
         causes=(causes.NO_STEP_INSIDE,)),
    Rule("MOVE004", WARNING, "The gradient is lost before the update", "parameters",
         "Clip at a norm that the gradient usually has, and divide it by nothing afterwards.",
         parameter_checks.next_to_still, _lasting(20), needs_optimizer=True,
         causes=(causes.BELOW_EPS, causes.BELOW_ROUNDING)),
    Rule("MOVE005", WARNING, "The update is undone", "parameters",
         "Keep the average, or the older copy, apart from the weights that are trained.",
         parameter_checks.undone_updates,
         {"below": Option(0.1, 0.0, 1.0, "share of the optimiser's change that is left, under which it counts"),
          **_lasting(5)},
         needs_optimizer=True,
         causes=(causes.OVERWRITTEN,)),
    Rule("FROZEN001", CRITICAL, "Frozen parameters move", "parameters",
         "Set requires_grad to False, set .grad to None, take them out of every optimiser; call eval() for buffers.",
         parameter_checks.moved_frozen, _lasting(1),
         causes=(*_MOVERS, causes.TRAINED, causes.TRAINED_ELSEWHERE, causes.RUNNING_STATISTICS,
                 causes.WRITTEN_BUFFER, causes.UNKNOWN)),
    Rule("MODE001", WARNING, "Trained in evaluation mode", "layers",
         "Call train() on the model before the step.", checks.evaluation_mode, _lasting(5),
         causes=(causes.LEFT_IN_EVALUATION,)),
    Rule("SHARE001", NOTE, "Modules share parameters", "parameters",
         "If the weights are not tied on purpose, give each module its own.", parameter_checks.shared, _lasting(5),
         causes=(causes.SHARED_TENSOR,)),
    Rule("COLLAPSE001", CRITICAL, "The output does not depend on the sample", "output_share",
         "Compare with its random start; check the input, and the scale of the last bias and norm.",
         checks.collapse,
         {"below": Option(1e-3, 0.0, 1.0, "share of the mean square that differs between samples"),
          "elements": Option(16, 1, 1e9, "elements of a row from which an output is judged", whole=True),
          "rows": Option(8, 2, 1e9, "rows from which an output is judged", whole=True),
          **_lasting(5)}, "below",
         causes=(causes.SWAMPED, causes.EQUAL_AT_START, causes.FIRST_EQUAL)),
    Rule("SPIKE001", WARNING, "Spikes", "spike_ratio",
         "Look at the batches of these steps and at the operations of this module that can amplify.", None,
         {"output": Option(8.0, 1.0, 1e9, "times the median of its neighbourhood, of an output"),
          "gradient": Option(20.0, 1.0, 1e9, "the same of a gradient"),
          "deviations": Option(6.0, 0.0, 1e9, "robust deviations of the neighbourhood that it must exceed too"),
          "at_most": Option(0.25, 0.0, 1.0, "share of the steps above which it is no spike"),
          "min_steps": Option(20, 8, 1e6, "recorded steps without which there is no neighbourhood", whole=True)},
         source="history",
         causes=(causes.OUTPUT_SPIKES, causes.GRADIENT_SPIKES)),
    Rule("DRIFT001", WARNING, "The output on a fixed batch drifts", "wasserstein",
         "Compare with what stands behind the module: what was tuned to the old output must follow, so lower"
         " the learning rate of this module, or normalise its output.", None,
         {"min_size": Option(1.0, 0.0, 1e9, "reference spreads under which no departure counts"),
          "noise": Option(12.0, 0.0, 1e9, "robust deviations of the series that it must exceed too"),
          "reference": Option(5, 1, 1e6, "probes that make the reference", whole=True)},
         "min_size", source="probe",
         causes=(causes.OWN_WEIGHTS, causes.UNDER_WAY)),
    Rule("RULE001", NOTE, "Rules did not run", "rules",
         "Give the monitor what the rules need, or read their silence as no statement.",
         None, source="monitor",
         causes=(causes.FEW_STEPS, causes.STEPS_LEFT_OUT, causes.NO_OPTIMIZER, causes.NO_PROBE,
                 causes.REFERENCE_INCOMPLETE, causes.REFERENCE_WITHOUT_SPREAD, causes.FEW_PROBES)),
    Rule("LEAK001", CRITICAL, "Samples of a batch influence each other", "output_change",
         "Look for batch statistics (BatchNorm in training mode), reductions and softmax over the batch"
         " dimension, and reshapes that mix it with another.", None, source="assertion",
         causes=(causes.MIXES_SAMPLES,)),
    Rule("LOSS001", CRITICAL, "The loss does not fall", "loss_fall",
         "Read the table from the loss backwards: the first module without gradient or movement is the place.",
         None, source="assertion",
         causes=(causes.SOME_STILL, causes.ALL_MOVE)),
    Rule("CONTEXT001", CRITICAL, "The context is not used", "loss_change",
         "Follow it from where it is made to the loss: COLLAPSE001 and coverage name the module.",
         None, source="audit",
         causes=(causes.CONTEXT_LOST,)),
    Rule("ORIGIN001", CRITICAL, "What stands at the loss belongs to other samples", "misplaced_samples",
         "Let inputs, labels and context of a sample travel together, with its id.", None, source="audit",
         causes=(causes.DROPPED_OR_REPEATED, causes.REORDERED, causes.OTHER_SAMPLES)),
    Rule("ORACLE001", CRITICAL, "The evaluator is wrong about planted predictions", "score",
         "Score a single sample by hand, then two.", None, source="audit",
         causes=(causes.LABELS_BELOW_ONE, causes.WRONG_ABOVE_ZERO)),
    Rule("HALT001", WARNING, "Halting does not follow what is right", "halting",
         "Compare the halting logit with what it is trained on, row by row: sign, bias, labels of the right rows,"
         " and whether its loss has any weight.", None, source="audit",
         causes=(causes.LOGIT_UNINFORMED, causes.LOGIT_CONSTANT, causes.HELD, causes.NEVER_POSITIVE,
                 causes.STARTS_POSITIVE)),
    Rule("HALT002", NOTE, "How rows halt", "mean_halt_step", "Nothing to do.", None, source="audit",
         causes=(causes.AS_MEASURED,)),
    Rule("COST001", NOTE, "What a forward pass costs", "time_share",
         "Begin with the largest, if it is to be faster.", None, source="audit",
         causes=(causes.MODULE_COST,)),
)  # fmt: skip

OPTIONS: Mapping[str, Mapping[str, Option]] = {rule.id: rule.options for rule in RULES}

_SPEAKS = {
    "history": "it speaks where at least {0} steps were recorded",
    "probe": "it speaks about outputs given to Monitor.probe",
    "monitor": "it speaks at once",
    "assertion": "only the assertions speak of it",
    "audit": "a probe of an audit speaks of it",
}


def find_rule(rule: str) -> Rule:
    """The rule with this id.

    Raises:
        KeyError: There is none.
    """
    found = next((known for known in RULES if known.id == rule), None)
    if found is None:
        raise UnknownName(
            "rules.unknown-rule",
            "no rule {rule!r}; there are {allowed}",
            rule=rule,
            allowed=", ".join(known.id for known in RULES),
        )
    return found


def explain(rule: str) -> str:
    """The documentation of a rule as markdown: what it looks for, when it fires, its causes by code, and what to do.

    Raises:
        KeyError: There is no rule with this id.
    """
    found = find_rule(rule)
    bound = "" if found.threshold is None else f", threshold {found.threshold:g}"
    speaks = _SPEAKS.get(found.source, "it speaks after {0} recorded steps in a row").format(found.min_steps)
    return (
        f"**{found.id}** ({found.severity.label}): {found.title}.\n\n"
        f"Measures {METRICS[found.metric]}{bound}; {speaks}.\n\n"
        f"{found.remedy}\n\n"
        f"{_sections(found)}"
    )


def _sections(rule: Rule) -> str:
    """The page of a rule without its title and its severity."""
    page = (files("diagnostics") / "pages" / f"{rule.id}.md").read_text(encoding="utf-8")
    _title, _severity, sections = page.split("\n\n", 2)
    return sections
