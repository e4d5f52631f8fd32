"""N1: early cycles without gradient keep encoder and refiners from learning.

Mechanistic: decided by the calls of both in training steps. Runs on the rule family show what the missing gradient
costs, with the encoding as starting state and in every cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from etrm.config import Config, with_settings
from etrm.investigation.comparison.paired_contrast import KNOWS_NOTHING
from etrm.investigation.controls import HEALTHY, Control
from etrm.investigation.evidence.figures import Figure, Series, logged_curve, smooth
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    SYMBOLIC_PRESET,
    InspectedMechanism,
    compare_scores,
    control_config,
    split_by_setting,
    study_config,
)
from etrm.investigation.measurements.selector_calls import STEPS, PartCalls, SelectorCalls, watch_selector
from etrm.investigation.records import NotMeasured
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import with_seed

STATEMENT = Statement(
    id="N1",
    title="Early cycles without gradient",
    statement="Early cycles without gradient keep the encoder or the refiners from learning.",
    refuted_by=(
        "A gradient arrives at the encoder and at the refiners in every step, or every cycle runs with gradients."
    ),
    mechanism=(
        "The refiners are called in every cycle, and the last cycle has a gradient. The encoder is called once. If its "
        "output is only the starting state, its gradient must pass through the early cycles, which have none. If every "
        "cycle gets the encoding, as in TRM, the last cycle trains the encoder too."
    ),
    kind="mixed",
    would_change="A step on which the encoder or a refiner has no gradient because its cycles ran without one.",
    scope="mechanism",
)
FAULT = "cycles-no-grad"


class CycleReason(StrEnum):
    """What the calls show about encoder and refiners."""

    ALL_CYCLES = "n1.every-cycle-has-gradient"
    ENCODER_CUT = "n1.encoder-without-gradient"
    ENCODER_TRAINS = "n1.encoder-has-gradient"
    REFINERS_TRAIN = "n1.refiners-have-gradient"
    CUT_ELSEWHERE = "n1.no-gradient-in-the-last-cycle"


@dataclass(frozen=True)
class CycleFacts(InspectionFacts):
    """Whether gradients arrive at encoder and refiners.

    Attributes:
        calls: the calls of both.
    """

    calls: SelectorCalls

    @property
    def early_cycles(self) -> bool:
        """Whether some cycles run without gradient."""
        return self.calls.refiners.enabled < self.calls.refiners.calls

    @property
    def undecided(self) -> bool:
        """Whether no gradient arrives in the last cycle either, so that something else is cut."""
        return self.early_cycles and not self.calls.refiners.reached

    @property
    def holds(self) -> bool:
        """Whether the encoder has no gradient while the last cycle has one."""
        return self.early_cycles and not self.undecided and not self.calls.encoder.reached

    @property
    def reasons(self) -> list[VerdictReason]:
        """What the calls show, about the encoder and about the refiners."""
        encoder, refiners = self.calls.encoder, self.calls.refiners
        if not self.early_cycles:
            words = f"all {refiners.calls:g} calls of the refiners run with gradients"
            return [VerdictReason(CycleReason.ALL_CYCLES, words)]
        cycles = f"{refiners.enabled:g} of {refiners.calls:g} calls of the refiners run with gradients"
        if self.undecided:
            words = f"{cycles}, but no gradient arrives at these: something after the cycles is detached"
            return [VerdictReason(CycleReason.CUT_ELSEWHERE, words)]
        arrived = VerdictReason(
            CycleReason.REFINERS_TRAIN, f"{cycles}, and a gradient arrives at {refiners.reached:g}"
        )
        if encoder.reached:
            return [VerdictReason(CycleReason.ENCODER_TRAINS, "the encoder has a gradient"), arrived]
        return [VerdictReason(CycleReason.ENCODER_CUT, "the encoder has no gradient"), arrived]


# -- what the missing gradient costs --------------------------------------------------------------

LENGTH, SIDE, SEEDS = 300, 3, (0, 1, 2)
"""Steps, grid side and seeds of the runs that show the cost: 20 s each on a core, made once and kept. Few rules are
solved after so few steps; the loss shows the difference."""
RATE = 3e-3
"""Learning rate of these runs; an encoder needs a lower one than the guards of the preset."""
WORTH = 0.05
"""m, in nats per token, the share of solved rules, and the share of right tokens."""
ARMS = {
    ("start", "all"): "the encoding as starting state, gradients in all cycles",
    ("start", "last"): "the encoding as starting state, gradients in the last cycle",
    ("every-cycle", "all"): "the encoding in every cycle, gradients in all cycles",
    ("every-cycle", "last"): "the encoding in every cycle, gradients in the last cycle",
}
COMPARED = {f"{inject}-{gradient}": what for (inject, gradient), what in ARMS.items()}
"""The arms of the runs on the rule family, by the name of their setting."""
SOLVED = Metric("n1.unseen-rules", "unseen rules solved, last cycle against all: {item}")
CELLS = Metric("n1.unseen-cells", "right tokens on unseen rules, last cycle against all: {item}")
LOSS = Metric("n1.loss-after-the-run", "loss on training queries, last cycle against all: {item}")
SCORES = {
    "held_out_pass_at_1": (SOLVED, 0.0),
    "held_out_token_accuracy": (CELLS, 0.0),
    "loss_end": (LOSS, KNOWS_NOTHING),
}
"""What is compared, by the key of the runs' final value, with the score of a run that diverged."""
FIGURE = Figure(
    key="n1-loss",
    title="Training loss with gradients in the last cycle and in all",
    x_label="optimiser step",
    y_label="cross entropy (nats per token)",
    caption="Runs of the control preset. With the encoding as starting state the last cycle alone trains no encoder.",
)

# -- evidence -------------------------------------------------------------------------------------

COVERAGE = Metric("n1.coverage", "coverage of the {item}, lowest step", Direction.HOLDS)
CALLS = Metric("n1.calls", "calls of the {item} per step")
ENABLED = Metric(
    "n1.calls-with-gradients-enabled", "calls of the {item} per step that run with gradients enabled"
)
REACHED = Metric(
    "n1.calls-with-gradient", "calls of the {item} per step at which a gradient arrives", Direction.HOLDS
)


class EarlyCycles(InspectedMechanism[CycleFacts]):
    """N1."""

    statement = STATEMENT
    precedence = 91
    controls = (FAULT,)
    compared = COMPARED
    figures = (FIGURE,)
    next_step = (
        "Give every cycle the encoding (model.symbolic.inject = every_cycle), or keep the gradient of all cycles "
        "(model.symbolic.cycle_grad = all): page N1 shows which part has no gradient."
    )

    def explain_not_applicable(self, config: Config) -> str:
        """The selector ``fit`` has nothing to train by cycles."""
        fits = config.model.symbolic.selector == "fit"
        return "The selector is fit: it has no encoder and no cycles." if fits else ""

    def inspect(self, config: Config) -> CycleFacts:
        """Record the calls of the selector of a config.

        Raises:
            EtrmError: the model cannot be built, or nothing in it takes a gradient.
        """
        return CycleFacts(watch_selector(config))

    def list_controls(self) -> list[Control]:
        """The control preset with an encoder: healthy, with the recursion of TRM, and with the fault."""
        encoder = {"selector": "demos", "hidden_size": 16}
        last = {**encoder, "cycle_grad": "last", "inject": "every_cycle"}
        what = f"preset {SYMBOLIC_PRESET} with selector demos"
        return [
            Control(HEALTHY, f"{what}, gradients in all cycles", control_config((), **encoder), False),
            Control(
                "as-trm",
                f"{what}, the last cycle alone, encoding in every cycle",
                control_config((), **last),
                False,
            ),
            Control(FAULT, f"fault {FAULT} on preset {SYMBOLIC_PRESET}", control_config((FAULT,)), True),
        ]

    def make_rows(self, worst: CycleFacts, seeds: int) -> list[EvidenceRow]:
        """The calls of the encoder and of the refiners."""
        n = f"{STEPS} steps of {format_seeds(seeds)}, worst seed"
        parts = {"encoder": worst.calls.encoder, "refiners": worst.calls.refiners}
        return [row for name, part in parts.items() for row in _make_part_rows(name, part, n)]

    def plan_jobs(self) -> list[Job]:
        """The runs on the rule family, with the encoding as starting state and in every cycle."""
        return [
            Job(
                ArmId("n1", f"{inject}-{gradient}", role="control" if gradient == "all" else "treatment"),
                seed,
                with_seed(_study(inject, gradient), seed),
                measure=True,
                shared=True,
            )
            for inject, gradient in ARMS
            for seed in SEEDS
        ]

    def make_cost_rows(self, runs: Sequence[LoadedRun]) -> list[EvidenceRow]:
        """The scores with gradients in the last cycle, against those with gradients in all."""
        by_arm = dict(zip(ARMS, split_by_setting(runs, COMPARED), strict=True))
        return [
            compare_scores(inject, by_arm[inject, "all"], by_arm[inject, "last"], final, WORTH, worst).row(
                metric,
                "context: what the missing gradient costs",
                None,
                f"{LENGTH} steps of preset {SYMBOLIC_PRESET} with selector demos; the interval is of all less last: "
                "90 %, paired t over seeds",
            )
            for final, (metric, worst) in SCORES.items()
            for inject in ("start", "every-cycle")
        ]

    def make_curves(self, runs: Sequence[LoadedRun]) -> list[Series]:
        """The training loss of each run."""
        return [
            smooth(logged_curve(FIGURE.key, run, "lm_loss", COMPARED[run.arm.setting]), 10) for run in runs
        ]


def _study(inject: str, gradient: str) -> Config:
    config = study_config(
        LENGTH,
        SIDE,
        families=("relational",),
        selector="demos",
        hidden_size=64,
        cycle_grad=gradient,
        inject=inject.replace("-", "_"),
    )
    return with_settings(config, train={"lr": RATE})


def _make_part_rows(name: str, part: PartCalls, n: str) -> list[EvidenceRow]:
    known = not isinstance(part.coverage, NotMeasured)
    return [
        COVERAGE.row(
            part.coverage,
            item=name,
            threshold="= 1.00 on every step",
            passed=part.coverage == 1 if known else None,
            n=n,
        ),
        CALLS.row(part.calls, item=name, threshold="context", n=n),
        ENABLED.row(part.enabled, item=name, threshold="context", n=n),
        REACHED.row(part.reached, item=name, threshold="at least 1", passed=part.reached >= 1, n=n),
    ]


HYPOTHESIS = EarlyCycles()
