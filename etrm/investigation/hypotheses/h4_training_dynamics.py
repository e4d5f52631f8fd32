"""H4: the training dynamics prevent learning.

Statistical: the config under test is compared with itself with one setting changed, seed by seed, in short runs on ten
tasks. A setting that is merely better does not prevent learning: where a change gains, the unchanged config must stay
behind it in longer runs too, or learn without its contexts what the change learns from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from etrm.config import Config
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison import dynamics
from etrm.investigation.comparison.interventions import round_rate
from etrm.investigation.comparison.longer_runs import (
    LONGER,
    VERDICTS_LATER,
    Later,
    LaterRuns,
    compare_longer,
    with_longer_runs,
)
from etrm.investigation.comparison.paired_contrast import TreatmentComparison
from etrm.investigation.comparison.screening import (
    SMALLEST_EFFECT,
    Screen,
    Treatment,
    check_diverged,
    compare_loss_curves,
    control_config,
    control_screen,
    describe_runs,
    explain_unusable,
    few_tasks,
    list_left_out,
    run_screens,
    select_finals,
    subject_screen,
)
from etrm.investigation.controls import HEALTHY, broken_controls, control_outcome
from etrm.investigation.evidence.figures import Figure, Series, logged_curve, make_curve, smooth
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import capitalise
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Value, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation
from etrm.training.faults import apply_faults

STATEMENT = Statement(
    id="H4",
    title="Training dynamics",
    statement="The training dynamics prevent learning.",
    refuted_by=(
        "No single change of the learning rates, clipping, warm-up, exploration, entropy weight or batch size lowers "
        "the loss on the training queries by the smallest effect that matters; or the unchanged config reaches the "
        "same loss in three times the steps, and uses its contexts."
    ),
    mechanism=(
        "High learning rates, gradient spikes or a warm-up that never ends let the encoder change faster than the "
        "decoder can follow, or keep both from changing."
    ),
    kind="statistical",
    would_change=(
        "An intervention that gains more than the smallest effect over five seeds, or longer runs: a screening does "
        "not show effects that appear only after thousands of steps."
    ),
)
WARMUP_SHARE = 0.1
"""Longest usual warm-up, as a share of the run; the treatment shortens a longer one to it."""
USUAL_RATE, USUAL_RATES = 1e-3, (1e-5, 1e-2)
"""A rate at which models of this kind train with Adam, and those from which small factors reach a rate that works."""
CURES = {"warmup-too-long": "warm-up"}
"""The faults of the positive controls, each with the intervention that must show it."""
LOSS = Metric("h4.loss", "loss on the training queries: {item}", Direction.LOWER)
CATCHING_UP = Metric(
    "h4.catching-up",
    "loss on the training queries, unchanged in three times the steps: {item}",
    Direction.LOWER,
)
USE = Metric(
    "h4.use-of-contexts",
    "loss with mismatched demonstrations minus loss, after three times the steps",
    Direction.HIGHER,
)
SETTINGS = Metric("h4.settings-that-differ", "settings that differ from the checkpoint's")


class DynamicsReason(StrEnum):
    """What the interventions show."""

    A_CHANGE_GAINS = "h4.a-change-gains"
    LEARNS_LATER = "h4.learns-later"
    PERHAPS_LATER = "h4.perhaps-later"
    WITHOUT_CONTEXTS = "h4.learns-later-without-contexts"
    NO_CHANGE_GAINS = "h4.no-change-gains"
    EVERY_RUN_DIVERGED = "h4.every-run-diverged"
    UNDECIDED = "h4.undecided"


LATER_REASONS = {
    Later.REACHES: DynamicsReason.LEARNS_LATER,
    Later.UNDECIDED: DynamicsReason.PERHAPS_LATER,
    Later.WITHOUT_CONTEXTS: DynamicsReason.WITHOUT_CONTEXTS,
}


def list_interventions(used: Config) -> tuple[list[Treatment], list[tuple[Treatment, str]]]:
    """The interventions of a config with the settings ``used``, and those that are left out, each with the reason."""
    train, model = used.train, used.model
    rate = train.lr * train.encoder_lr_scale
    still = "the encoder does not train" if train.freeze_encoder_steps >= train.steps or not rate else ""
    still = "there is no encoder" if not model.has_encoder else still
    clipped = (
        "they are clipped at 1 already" if train.clip_norm == 1 else ""
    )  # a tiny norm stops all learning
    lowest, highest = USUAL_RATES
    usual = f"it is between {lowest:g} and {highest:g} already" if lowest <= train.lr <= highest else ""
    longest = math.floor(WARMUP_SHARE * train.steps)
    explored = (
        "all ACT steps are always taken" if model.variant == "etrm_fct" or model.halt.max_steps == 1 else ""
    )
    explored = "it is 0.1 already" if model.halt.exploration == 0.1 else explored
    every = [
        (
            Treatment(
                "rate-of-decoder", "encoder at the decoder's rate", {"train": {"encoder_lr_scale": 1.0}}
            ),
            still or ("its rate is the decoder's" if train.encoder_lr_scale == 1 else ""),
        ),
        (
            Treatment(
                "rate-x.1",
                "encoder rate x0.1",
                {"train": {"encoder_lr_scale": round_rate(0.1 * train.encoder_lr_scale)}},
            ),
            still,
        ),
        (Treatment("rate-x.3", "all rates x0.3", {"train": {"lr": round_rate(0.3 * train.lr)}}), ""),
        (Treatment("usual-rate", f"learning rate {USUAL_RATE:g}", {"train": {"lr": USUAL_RATE}}), usual),
        (Treatment("clip", "gradients clipped at norm 1", {"train": {"clip_norm": 1.0}}), clipped),
        (
            Treatment("warm-up", "warm-up of 10 % of the run", {"train": {"warmup_steps": longest}}),
            "" if train.warmup_steps > longest else "it is not longer than 10 % of the run",
        ),
        (Treatment("exploration", "exploration 0.1", {"model": {"halt": {"exploration": 0.1}}}), explored),
        (
            Treatment("no-entropy", "entropy weight 0", {"train": {"entropy_weight": 0.0}}),
            "" if train.entropy_weight else "the loss has no entropy",
        ),
        # Twice the rows in half the steps: the same samples, so that a gain comes from less noisy gradients and
        # not from more data. It costs half the updates, which is part of the question.
        (
            Treatment(
                "batch",
                "batch twice as large in half the steps",
                {"train": {"batch_size": 2 * train.batch_size}},
                0.5,
            ),
            "",
        ),
    ]
    return [t for t, why in every if not why], [(t, why) for t, why in every if why]


class TrainingDynamics(Hypothesis):
    """H4."""

    statement = STATEMENT
    precedence = 60
    controls = tuple(CURES)
    next_step = (
        "Make the change that page H4 names in the config, then run the same command again, with --seeds 5 if it is "
        "only a candidate."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The unchanged run, its interventions, and the controls."""
        return tuple(arm for screen in self.screens(investigation) for arm in screen.arms())

    def screens(self, investigation: Investigation) -> list[Screen]:
        """The run under test with its interventions, then the controls."""
        reference = few_tasks(investigation.subject, investigation.tier.short_steps)
        treatments, _ = list_interventions(apply_faults(reference))
        subject = subject_screen(investigation, reference, treatments)
        return [subject, *(_make_control_screen(name) for name in (HEALTHY, *CURES))]

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Run the unchanged config, its interventions and the controls, and compare them."""
        screen, *controls = self.screens(investigation)
        runs = run_screens(investigation, self.id, [screen, *controls])
        if _compare(screen, runs).gained:  # else no longer run could change the verdict
            screen, *controls = map(with_longer_runs, (screen, *controls))
            runs = run_screens(investigation, self.id, [screen, *controls])
        unchanged, comparison = screen.runs_of(runs), _compare(screen, runs)
        later = compare_longer(screen, comparison, runs)
        outcomes = [_judge_control(control, runs) for control in controls]
        return self.statement.decided(
            judge(comparison, unchanged, broken_controls(outcomes), screen.reference.train.steps, later),
            screening=len(screen.seeds) < FULL_SEEDS,
            p_value=comparison.p_value,
            arms=tuple(arm for one in (screen, *controls) for arm in one.arms()),
            runs=select_finals(runs),
            evidence=_make_rows(investigation, screen, comparison, later, unchanged),
            controls=tuple(outcomes),
            instruments=(_check_same_start(screen, runs), check_diverged(runs)),
            figures=FIGURES,
            series=tuple(_make_curves(screen, runs)),
            wall_s=round(sum(run.record.wall_s for run in runs), 1),
        )


def _make_rows(
    investigation: Investigation,
    screen: Screen,
    comparison: TreatmentComparison,
    later: LaterRuns | None,
    unchanged: Sequence[LoadedRun],
) -> tuple[EvidenceRow, ...]:
    """The interventions, the settings of the checkpoint, and the dynamics of the unchanged runs."""
    _, needless = list_interventions(apply_faults(screen.reference))
    return (
        *comparison.rows(LOSS),
        *(later.rows(CATCHING_UP, USE) if later else ()),
        *list_left_out(LOSS, [(t, f"changes nothing here: {why}") for t, why in needless]),
        _compare_settings(investigation.effective),
        *dynamics.make_rows([run.metrics for run in unchanged]),
    )


def judge(
    comparison: TreatmentComparison,
    unchanged: Sequence[LoadedRun],
    broken: str,
    steps: int,
    later: LaterRuns | None = None,
) -> Judgement:
    """The verdict that the interventions give.

    Args:
        comparison: the interventions against the unchanged run.
        unchanged: the runs of the config under test.
        broken: the reason why a verdict would mean nothing, if a control did not behave.
        steps: number of steps of the runs.
        later: the best intervention against the unchanged config in longer runs, where it gains.
    """
    if broken:
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if lost := explain_unusable(unchanged):
        return Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), lost)
    counted = describe_runs(unchanged, steps)
    change = f"{comparison.best.words} changes the loss on the training queries by {comparison.best.change}"
    if comparison.gained:
        return _judge_gain(comparison, f"{capitalise(change)} {counted}", later)
    if all(run.diverged for run in unchanged):
        words = f"Every run diverged, and no intervention prevents it {counted}."
        return Judgement(Verdict.INCONCLUSIVE, (DynamicsReason.EVERY_RUN_DIVERGED,), words)
    if comparison.verdict is Verdict.INVALIDATED:
        least = -100 * math.expm1(-SMALLEST_EFFECT)
        words = f"No single change lowers the loss by {least:.0f} %; the best: {change} {counted}."
        return Judgement(comparison.verdict, (DynamicsReason.NO_CHANGE_GAINS,), words)
    words = f"{capitalise(change)} {counted}; {comparison.open_question}."
    return Judgement(comparison.verdict, (DynamicsReason.UNDECIDED,), words)


def _judge_gain(comparison: TreatmentComparison, gain: str, later: LaterRuns | None) -> Judgement:
    """A change that gains in short runs counts if the unchanged config does not learn the same in longer ones."""
    outcome = Later.NOT_COMPARED if later is None else later.outcome
    codes = (LATER_REASONS.get(outcome, DynamicsReason.A_CHANGE_GAINS),)
    words = f"{gain}{later.clause if later else ''}."
    if outcome in VERDICTS_LATER:
        return Judgement(VERDICTS_LATER[outcome], codes, words)
    return Judgement(comparison.verdict, codes, words, comparison.candidate)


def _compare(screen: Screen, runs: Sequence[LoadedRun]) -> TreatmentComparison:
    return screen.compare(runs, [t.name for t in screen.treatments if t.name != LONGER.name])


def _make_control_screen(name: str) -> Screen:
    """The healthy control has every intervention, a fault only the one that must show it."""
    config = control_config([name] if name in CURES else [])
    treatments, _ = list_interventions(apply_faults(config))
    kept = [t for t in treatments if name not in CURES or t.name == CURES[name]]
    return control_screen(name, config, kept)


def _judge_control(screen: Screen, runs: Sequence[LoadedRun]) -> ControlOutcome:
    comparison = _compare(screen, runs)
    later = compare_longer(screen, comparison, runs)
    found = judge(comparison, screen.runs_of(runs), "", screen.reference.train.steps, later)
    return control_outcome(screen.control, screen.control in CURES, found)


COMPARED = (
    ("train", "optimizer"),
    ("train", "lr"),
    ("train", "encoder_lr_scale"),
    ("train", "batch_size"),
    ("train", "weight_decay"),
    ("train", "beta2"),
    ("train", "clip_norm"),
    ("train", "ema_decay"),
    ("train", "loss"),
    ("model", "hidden_size"),
    ("model", "H_cycles"),
    ("model", "L_cycles"),
)


def _compare_settings(used: Config) -> EvidenceRow:
    """The settings that differ from those of the decoder's training, where its folder has them."""
    differ: Value
    note = ""
    source = used.train.decoder
    if source is None:
        differ = NotMeasured(absent="the run starts from no checkpoint")
    elif not (file := Path(source) / "config.json").exists():
        differ = NotMeasured(absent="the checkpoint has no record of its training settings")
    else:
        theirs = json.loads(file.read_text("utf-8"))
        ours: dict[str, Any] = used.model_dump(mode="json")
        found = [(s, n) for s, n in COMPARED if theirs[s].get(n) != ours[s][n]]
        differ = len(found)
        note = "; ".join(
            f"{s}.{n}: trained with {theirs[s].get(n)}, runs with {ours[s][n]}" for s, n in found
        )
    return SETTINGS.row(differ, threshold=f"of {len(COMPARED)} compared", n="1 checkpoint", note=note)


SAME_FIRST_LOSS = Instrument(
    "h4.same-first-loss",
    "interventions start where the unchanged run starts: the loss of the first step is the same",
)


def _check_same_start(screen: Screen, runs: Sequence[LoadedRun]) -> InstrumentCheck:
    """Arms share weights and data, so that they differ only in what was changed."""
    starts = {run.seed: _read_first_loss(run) for run in screen.runs_of(runs)}
    same = [
        _read_first_loss(run) == starts[run.seed]
        for t in screen.treatments
        if t.steps == 1
        for run in screen.runs_of(runs, t.name)
    ]
    return SAME_FIRST_LOSS.check(
        all(same), f"{sum(same)} of {len(same)} runs; a batch of another size starts elsewhere"
    )


def _read_first_loss(run: LoadedRun) -> float | None:
    # Not the whole loss, which an intervention may weigh otherwise.
    return run.metrics[0]["lm_loss"] if run.metrics else None


FIGURES = (
    Figure(
        key="h4-loss",
        title="Training loss, unchanged and with each intervention",
        x_label="optimiser step",
        y_label="lm loss (nats per token)",
        caption="The verdict is not read from these curves: it compares the loss on fixed queries after the runs.",
    ),
    Figure(
        key="h4-ratio",
        title="Update / weight ratio per step",
        x_label="optimiser step",
        y_label="norm of the change / norm of the weights",
        caption="The unchanged run. A module that changes by a tenth of itself on every step retains nothing.",
        y_log=True,
    ),
    Figure(
        key="h4-norms",
        title="Norm of all gradients before clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="The unchanged run. Single steps far above their neighbours are spikes.",
        y_log=True,
    ),
    Figure(
        key="h4-drift",
        title="Drift against accuracy",
        x_label="optimiser step",
        y_label="share",
        caption="The unchanged run: does the share of the contexts (fixed probe batch) move before the accuracy falls?",
    ),
)


def _make_curves(screen: Screen, runs: Sequence[LoadedRun]) -> list[Series]:
    curves = compare_loss_curves("h4-loss", screen, runs)
    for run in screen.runs_of(runs):
        for module in ("encoder", "core"):
            curves.append(logged_curve("h4-ratio", run, f"{module}.moved", module, positive=True))
        norms = [(step, norm) for step, norm in dynamics.read_norms(run.metrics) if norm > 0]
        curves.append(make_curve("h4-norms", run, norms, "before clipping"))
        shares = dynamics.read_probe(run.metrics, "share")
        curves.append(make_curve("h4-drift", run, shares, "share of the contexts"))
        curves.append(smooth(logged_curve("h4-drift", run, "accuracy_all", "token accuracy"), 10))
    return [curve for curve in curves if curve.x]


HYPOTHESIS = TrainingDynamics()
