"""One small invented investigation that shows everything a report can show."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.table import Direction, Effect, EvidenceRow
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Run, Verdict
from etrm.investigation.result import (
    AdditionalFinding,
    CauseCode,
    ExperimentResult,
    HypothesisResult,
    Reproduce,
    Result,
    Scenario,
)
from reports.plots import figures
from tests.data.conftest import as_plain, make_task, published, small_set  # noqa: F401 - fixtures

SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True, scope="module")
def _few_pixels() -> Iterator[None]:
    """Figures of a tenth of their pixels take less time to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 40)
        yield


def _run(arm: str, seed: int, **final: float | NotMeasured) -> Run:
    return Run(
        arm=arm,
        seed=seed,
        folder=f"runs/{arm}/seed{seed}",
        steps=60,
        wall_s=12.5 + seed,
        state="finished",
        final=final,
    )


def _curve(
    figure: str, arm: str, seed: int, label: str, start: float, gap: int = -1, length: int = 30
) -> Series:
    y = [start * math.exp(-i / 20) * (1 + 0.1 * math.sin(i + seed)) for i in range(length)]
    if 0 <= gap < length:
        y[gap] = math.nan
    return Series(figure=figure, arm=arm, seed=seed, label=label, x=tuple(range(1, length + 1)), y=tuple(y))


def _data() -> HypothesisResult:
    return HypothesisResult(
        id="H5",
        title="Data",
        statement="The data the encoder sees is wrong.",
        refuted_by="Demos, query and labels are of one task.",
        mechanism="Demos that do not tell the query's rule teach the encoder nothing.",
        kind="mechanistic",
        verdict=Verdict.ERROR,
        codes=("any.controls-misbehaved",),
        sentence="Controls did not behave: swapped-demos",
        controls=(
            ControlOutcome(
                name="swapped-demos",
                kind="positive",
                what="fault swapped-demos on preset smoke",
                expected=Verdict.VALIDATED,
                got=Verdict.INVALIDATED,
                behaved=False,
                codes=("h5.sound",),
                detail="0 of 20 rows | none was seen",
            ),
        ),
        would_change="A control that behaves.",
        wall_s=3.0,
    )


def _gradients() -> HypothesisResult:
    runs = [
        _run("subject", s, coverage=0.25, loss=1.5 + s / 7, score=NotMeasured(absent="no task was finished"))
        for s in SEEDS
    ]
    failed = Run(
        arm="cached-context",
        seed=0,
        folder="runs/cached context/seed0",
        steps=7,
        wall_s=4000.0,
        state="failed",
        reason="loss is NaN at step 7",
    )
    return HypothesisResult(
        id="H2",
        title="Encoder gradients",
        statement="The encoder does not get the gradients, or does not move.",
        refuted_by="Coverage is 1 on every step of every seed.",
        mechanism="A context that is `cached` and detached lets a few samples train the encoder.",
        kind="mechanistic",
        verdict=Verdict.VALIDATED,
        codes=("h2.coverage-below-one",),
        sentence="Encoder coverage below 1 on 45 of 60 steps (mean 0.25) in every one of 3 seeds.",
        arms=(
            Arm(
                name="subject",
                role="subject",
                difference="unchanged",
                settings=("train.lr=0.001", "train.steps=60"),
            ),
            Arm(
                name="cached-context",
                role="positive control",
                difference="the context is cached",
                faults=("cached-context",),
            ),
        ),
        runs=(*runs, failed),
        evidence=(
            EvidenceRow(
                code="h2.steps",
                metric="steps in all",
                direction=Direction.CONTEXT,
                treatment=180,
                threshold="context",
                passed=None,
                n="3 seeds x 60 steps",
            ),
            EvidenceRow(
                code="h2.coverage-lowest",
                metric="encoder coverage, lowest step",
                direction=Direction.HOLDS,
                control=1,
                treatment=0.25,
                threshold="= 1 on every step",
                passed=False,
                n="3 seeds x 60 steps",
                note="share of the batch's samples with a gradient",
            ),
            EvidenceRow(
                code="h2.gradient",
                metric="|grad| before clipping",
                direction=Direction.HIGHER,
                control=0.0123456,
                treatment=123456.7,
                low=-0.5,
                high=1e-7,
                threshold="> 0",
                passed=True,
                n="180 steps",
            ),
            EvidenceRow(
                code="h2.score",
                metric="held_out score",
                direction=Direction.HIGHER,
                control=NotMeasured(absent="no baseline"),
                treatment=NotMeasured(absent="no task was finished"),
                threshold="> the copy baseline",
                passed=None,
                n="0 tasks",
            ),
        ),
        controls=(
            ControlOutcome(
                name="healthy",
                kind="negative",
                what="preset smoke without a fault",
                expected=Verdict.INVALIDATED,
                got=Verdict.INVALIDATED,
                behaved=True,
                codes=("h2.every-step-trains-it",),
                detail="coverage 1 on 60 steps",
            ),
        ),
        instruments=(
            InstrumentCheck(
                code="h2.clipping",
                name="norms are taken before clipping",
                passed=True,
                detail="both are logged",
            ),
            InstrumentCheck(
                code="h2.finite-numbers",
                name="the loss is finite",
                passed=False,
                detail="179 of 180 steps",
            ),
        ),
        figures=(
            Figure(
                key="h2-coverage",
                title="Encoder coverage per step",
                x_label="optimiser step",
                y_label="coverage",
                caption="Healthy is 1.",
                y_range=(-0.03, 1.08),
                lines=(("promised", 1.0), ("share of rows that reset", 0.25), ("off the scale", 3.0)),
            ),
            Figure(
                key="norms",
                title="Gradient norm",
                x_label="step",
                y_label="L2 norm",
                caption="Before and after.",
                y_log=True,
            ),
            Figure(
                key="empty",
                title="Never measured",
                x_label="step",
                y_label="nothing",
                caption="No curve has this key.",
            ),
        ),
        series=(
            *(_curve("h2-coverage", "subject", s, "coverage", 0.9, gap=7 + s) for s in SEEDS),
            _curve("h2-coverage", "cached-context", 0, "coverage", 0.5, length=7),
            *(_curve("norms", "subject", s, "before clipping", 20.0, gap=5) for s in SEEDS),
            *(_curve("norms", "subject", s, "after clipping", 1.0) for s in SEEDS),
        ),
        would_change="Coverage 1 on every step.",
        wall_s=4040.5,
    )


def _loading() -> HypothesisResult:
    return HypothesisResult(
        id="H1",
        title="Decoder loading",
        statement="The pretrained decoder does not arrive as it was.",
        refuted_by="Every core tensor is equal.",
        mechanism="A load that matches no key leaves a random decoder.",
        kind="mechanistic",
        verdict=Verdict.INVALIDATED,
        codes=("h1.tensors-equal",),
        sentence="14/14 tensors equal",
        evidence=(
            EvidenceRow(
                code="h1.tensors-equal",
                metric="tensors equal",
                direction=Direction.EQUAL,
                control=14,
                treatment=14,
                threshold="all 14",
                passed=True,
                n="14 tensors",
            ),
        ),
        wall_s=1.0,
    )


def _interface() -> HypothesisResult:
    return HypothesisResult(
        id="H3",
        title="Context interface",
        statement="The context is not what the decoder expects.",
        refuted_by="The decoder is given what the encoder says.",
        mechanism="A context of another scale is noise.",
        kind="mixed",
        verdict=Verdict.VALIDATED,
        explained_by="H2",
        codes=("h3.unused",),
        sentence="No logit changes with another task's demonstrations.",
        would_change="A logit that changes.",
        wall_s=2.0,
    )


def _dynamics() -> HypothesisResult:
    rates = {"control": (2.0, 2.1, 1.95), "rate-x0.1": (1.8, 1.95, 1.7)}
    return HypothesisResult(
        id="H4",
        title="Training dynamics",
        statement="The training dynamics hold it back.",
        refuted_by="No intervention gains m.",
        mechanism="The encoder changes faster than the decoder can follow.",
        kind="statistical",
        verdict=Verdict.INCONCLUSIVE,
        codes=("h4.undecided",),
        sentence="rate x.1 lowers the loss by 0.2 [-0.01, 0.4]; 5 seeds would settle it.",
        screening=True,
        arms=(
            Arm(name="control", role="control", difference="unchanged"),
            Arm(
                name="rate-x0.1",
                role="treatment",
                difference="encoder rate x.1",
                settings=("train.encoder_lr_scale=0.1",),
            ),
        ),
        runs=tuple(_run(arm, s, loss=loss[s], steps_done=60.0) for arm, loss in rates.items() for s in SEEDS),
        evidence=(
            EvidenceRow(
                code="h4.loss",
                item="rate-x0.1",
                metric="loss",
                direction=Direction.LOWER,
                control=2.017,
                final="loss",
                treatment=1.817,
                low=-0.01,
                high=0.4,
                effect=Effect(by_seed=(0.2, 0.078, 0.322), smallest=0.05),
                threshold="0.05",
                passed=None,
                n="3 seeds",
            ),
        ),
        figures=(
            Figure(
                key="loss", title="Loss", x_label="step", y_label="nats per token", caption="Lower is better."
            ),
        ),
        series=tuple(
            _curve("loss", arm, s, "lm loss", loss[s]) for arm, loss in rates.items() for s in SEEDS
        ),
        wall_s=81.0,
    )


def _not_run() -> HypothesisResult:
    return HypothesisResult(
        id="H7",
        title="Encoder capacity",
        statement="The encoder is too weak.",
        refuted_by="A stronger encoder gains nothing.",
        mechanism="An encoder that cannot hold the rule gives every task one context.",
        kind="statistical",
        verdict=Verdict.NOT_RUN,
        codes=("any.not-selected",),
        sentence="Not asked for.",
        would_change="The ladder of encoders over five seeds.",
    )


def _frozen() -> ExperimentResult:
    return ExperimentResult(
        id="frozen-decoder",
        title="Frozen decoder",
        question="Can the encoder learn when a pretrained decoder is kept fixed?",
        scenario=Scenario.STUCK,
        codes=("frozen.loss-does-not-fall",),
        sentence="The loss does not fall: 2.1 to 2.1.",
        scenarios=(
            (Scenario.LEARNS, "the encoder learns"),
            (Scenario.STUCK, "stuck"),
            (Scenario.USELESS, "trains but useless"),
        ),
        screening=True,
        arms=(Arm(name="trained", role="treatment", difference="decoder frozen"),),
        runs=(_run("trained", 0, loss=2.1),),
        evidence=(
            EvidenceRow(
                code="frozen.held-in-loss",
                item="random-start",
                metric="loss",
                direction=Direction.LOWER,
                control=2.1,
                treatment=2.1,
                threshold="lower by 0.05",
                passed=False,
                n="1 seed",
            ),
        ),
        figures=(Figure(key="frozen-loss", title="Loss", x_label="step", y_label="nats", caption="Flat."),),
        series=(_curve("frozen-loss", "trained", 0, "true demos", 2.1),),
        wall_s=12.5,
    )


@pytest.fixture(scope="session")
def example() -> Result:
    """The invented investigation."""
    found = (_data(), _gradients(), _loading(), _interface(), _dynamics(), _not_run())
    return Result(
        subject="preset small",
        cause_code=CauseCode.PROVEN,
        root_cause="H2",
        root_cause_confidence="proven",
        sentence="Most samples send no gradient through the encoder",
        next_step="Look for a cache, a detach or a no_grad at the place that page H2 names.",
        order=("H5", "H6", "H1", "H2", "H3", "H4", "H7"),
        hypotheses={hypothesis.id: hypothesis for hypothesis in found},
        experiments=(_frozen(),),
        additional_findings=(
            AdditionalFinding(
                rule="WASTE001",
                severity="warning",
                module="encoder",
                message="72% of the rows that encoder computed are used by no loss",
                cause="every row is encoded and those that go on are thrown away",
                remedy="encode the rows that begin",
                n="3 of 3 runs",
            ),
            AdditionalFinding(
                rule="HALT001",
                severity="warning",
                module="",
                message="the halting logit is -50 for each of 12 rows",
                cause="its weights are zero",
                remedy="compare it with what it is trained on",
                n="1 of 3 runs",
            ),
        ),
        baselines=(
            EvidenceRow(
                code="baseline.score",
                item="copy input",
                metric="copy input: pass@1",
                direction=Direction.CONTEXT,
                treatment=0.0,
                low=0.0,
                high=0.602,
                threshold="what needs no learning",
                passed=None,
                n="0 of 4 tasks solved",
                note="token accuracy 0.604",
            ),
            EvidenceRow(
                code="baseline.score",
                item="all black",
                metric="all black: pass@1",
                direction=Direction.CONTEXT,
                treatment=NotMeasured(absent="no task was read"),
                threshold="what needs no learning",
                passed=None,
                n="0 tasks",
            ),
        ),
        reproduce=Reproduce(
            command="etrm investigate --preset small --seeds 3",
            commit="0123abc",
            dirty=True,
            seeds=SEEDS,
            data_hash="89ab",
            versions={"torch": "2.6.0", "etrm": "0.1.0"},
            hardware="an invented machine, 2 cores",
            threads=1,
            tier="screening",
            wall_s=4200.0,
            config={"train": {"steps": 60, "lr": 0.001}, "faults": []},
        ),
    )
