"""H4: the training dynamics hold it back.

Statistical: the subject against itself with one setting changed, seed by seed, in short runs on ten tasks.
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
from etrm.investigation.comparison.paired_contrast import Outcome
from etrm.investigation.comparison.screening import (
    REFERENCE,
    SMALLEST_EFFECT,
    Screen,
    Treatment,
    control_config,
    control_screen,
    diverged,
    few_tasks,
    left_out,
    readable,
    run_screens,
    scope,
    subject_screen,
    unusable,
)
from etrm.investigation.evidence import Instrument, Metric
from etrm.investigation.protocol import (
    CONTROL_PRESET,
    CommonReason,
    Investigation,
    Judgement,
    Statement,
    broken_controls,
    control_outcome,
    series,
    smoothed,
)
from etrm.investigation.result import (
    Absent,
    ControlOutcome,
    Direction,
    Evidence,
    Figure,
    Hypothesis,
    InstrumentCheck,
    Run,
    Series,
    Value,
    Verdict,
)
from etrm.training.faults import apply_faults

STATEMENT = Statement(
    id="H4",
    title="Training dynamics",
    statement="The training dynamics hold it back.",
    refuted_by=(
        "No single change of the rates, of clipping, warm-up, exploration or batch lowers the loss on the training "
        "queries by as much as matters."
    ),
    mechanism=(
        "Rates, spikes or a warm-up that does not end let the encoder change faster than the decoder can follow, or "
        "keep both from changing at all."
    ),
    kind="statistical",
    would_change=(
        "An intervention whose gain on every seed is larger than what matters, over five seeds, or longer runs: what "
        "shows itself only after thousands of steps is not seen in a screening."
    ),
)
WARMUP_SHARE = 0.1
CURES = {"warmup-too-long": "warm-up"}
"""Faults of the positive controls, and the intervention that must show each."""
LOSS = Metric("h4.loss", "loss on the training queries: {item}", Direction.LOWER)
SETTINGS = Metric("h4.settings-that-differ", "settings that differ from the checkpoint's")


class DynamicsReason(StrEnum):
    """What the interventions show."""

    A_CHANGE_GAINS = "h4.a-change-gains"
    NO_CHANGE_GAINS = "h4.no-change-gains"
    EVERY_RUN_DIVERGED = "h4.every-run-diverged"
    UNDECIDED = "h4.undecided"


def interventions(used: Config) -> tuple[list[Treatment], list[tuple[Treatment, str]]]:
    """The interventions of a config with the settings ``used``, and those left out with the reason of each."""
    train, model = used.train, used.model
    rate = train.lr * train.encoder_lr_scale
    still = "the encoder does not train" if train.freeze_encoder_steps >= train.steps or not rate else ""
    still = "there is no encoder" if model.variant == "trm" else still
    clipped = (
        "" if train.clip_norm is None or train.clip_norm > 1 else f"clipped at {train.clip_norm:g} already"
    )
    longest = math.floor(WARMUP_SHARE * train.steps)
    explored = (
        "all ACT steps are always taken" if model.variant == "etrm_fct" or model.halt.max_steps == 1 else ""
    )
    explored = "it is 0.1 already" if model.halt.exploration == 0.1 else explored
    every = [
        (
            Treatment("rate-of-decoder", "encoder at the decoder's rate", ("train.encoder_lr_scale=1",)),
            still or ("its rate is the decoder's" if train.encoder_lr_scale == 1 else ""),
        ),
        (
            Treatment(
                "rate-x.1",
                "encoder rate x0.1",
                (f"train.encoder_lr_scale={0.1 * train.encoder_lr_scale:.6g}",),
            ),
            still,
        ),
        (Treatment("rate-x.3", "all rates x0.3", (f"train.lr={0.3 * train.lr:.6g}",)), ""),
        (Treatment("clip", "gradients clipped at norm 1", ("train.clip_norm=1.0",)), clipped),
        (
            Treatment("warm-up", "warm-up of 10 % of the run", (f"train.warmup_steps={longest}",)),
            "" if train.warmup_steps > longest else "it is not longer than 10 % of the run",
        ),
        (Treatment("exploration", "exploration 0.1", ("model.halt.exploration=0.1",)), explored),
        # Twice the rows in half the steps: the same samples, so that a gain is one of steadier gradients and
        # not of more data. It costs half the updates, which is part of the question.
        (
            Treatment(
                "batch",
                "batch twice as large in half the steps",
                (f"train.batch_size={2 * train.batch_size}",),
                0.5,
            ),
            "",
        ),
    ]
    return [t for t, why in every if not why], [(t, why) for t, why in every if why]


def screens(investigation: Investigation) -> list[Screen]:
    """The subject with its interventions, then the controls."""
    reference = few_tasks(investigation.subject, investigation.tier.short_steps)
    treatments, _ = interventions(apply_faults(reference))
    subject = subject_screen(investigation, reference, treatments)
    return [subject, *(_control_screen(name) for name in ("healthy", *CURES))]


def decide(investigation: Investigation) -> Hypothesis:
    """Run the subject, its interventions and the controls, and say what they show."""
    screen, *controls = screens(investigation)
    reference = screen.reference
    _, needless = interventions(apply_faults(reference))
    runs = run_screens(investigation, "H4", [screen, *controls])
    given = screen.of_arm(runs)
    outcome = _outcome(screen, runs)
    outcomes = [_control(control, runs) for control in controls]
    return STATEMENT.decided(
        judged(outcome, given, broken_controls(outcomes), reference.train.steps),
        screening=len(screen.seeds) < FULL_SEEDS,
        p_value=outcome.p_value,
        arms=(
            *screen.arms("the subject as given"),
            *(arm for control in controls for arm in control.arms(f"preset {CONTROL_PRESET}", control.role)),
        ),
        runs=readable(runs),
        evidence=(
            *outcome.rows(LOSS),
            *left_out(LOSS, [(t, f"changes nothing here: {why}") for t, why in needless]),
            _settings(investigation.effective),
            *dynamics.rows([investigation.metrics(run) for run in given]),
        ),
        controls=tuple(outcomes),
        instruments=(_same_start(investigation, screen, runs), diverged(runs)),
        figures=FIGURES,
        series=tuple(_series(investigation, screen, runs)),
        wall_s=round(sum(run.wall_s for run in runs), 1),
    )


def judged(outcome: Outcome, given: Sequence[Run], broken: str, steps: int) -> Judgement:
    """What the interventions show.

    Args:
        outcome: of the interventions.
        given: the runs of the subject as given.
        broken: why a verdict would mean nothing, if a control did not behave.
        steps: of the runs.
    """
    if broken:
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if lost := unusable(given):
        return Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), lost)
    counted = scope(given, steps)
    change = f"{outcome.best.words} changes the loss on the training queries by {outcome.best.change}"
    if outcome.gained:
        words = f"{change[0].upper()}{change[1:]} {counted}."
        return Judgement(outcome.verdict, (DynamicsReason.A_CHANGE_GAINS,), words, outcome.candidate)
    if all(run.diverged for run in given):
        words = f"Every run diverged, and no intervention saves it {counted}."
        return Judgement(Verdict.INCONCLUSIVE, (DynamicsReason.EVERY_RUN_DIVERGED,), words)
    if outcome.verdict is Verdict.INVALIDATED:
        least = -100 * math.expm1(-SMALLEST_EFFECT)
        words = f"No single change lowers the loss by {least:.0f} %; the best: {change} {counted}."
        return Judgement(outcome.verdict, (DynamicsReason.NO_CHANGE_GAINS,), words)
    words = f"Undecided: {change} {counted}; {outcome.open_question}."
    return Judgement(outcome.verdict, (DynamicsReason.UNDECIDED,), words)


def _outcome(screen: Screen, runs: Sequence[Run]) -> Outcome:
    return screen.outcome(runs, [t.name for t in screen.treatments])


def _control_screen(name: str) -> Screen:
    """A healthy control has every intervention, a fault the one that must show it."""
    config = control_config([name] if name in CURES else [])
    treatments, _ = interventions(apply_faults(config))
    kept = [t for t in treatments if name not in CURES or t.name == CURES[name]]
    return control_screen(name, config, kept)


def _control(screen: Screen, runs: Sequence[Run]) -> ControlOutcome:
    name = screen.name.removeprefix("few-")
    found = judged(_outcome(screen, runs), screen.of_arm(runs), "", screen.reference.train.steps)
    return control_outcome(name, name in CURES, found)


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


def _settings(used: Config) -> Evidence:
    """Settings against those with which the decoder was trained, where its folder says so."""
    differ: Value
    note = ""
    source = used.train.decoder
    if source is None:
        differ = Absent(absent="the subject starts from no checkpoint")
    elif not (file := Path(source) / "config.json").exists():
        differ = Absent(absent="the checkpoint does not say how it was trained")
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
    "interventions begin where the subject begins: the loss of the first step is the same",
)


def _same_start(investigation: Investigation, screen: Screen, runs: Sequence[Run]) -> InstrumentCheck:
    """Arms share weights and data, so that only what was changed can differ."""
    begins = {run.seed: _first_loss(investigation, run) for run in screen.of_arm(runs)}
    same = [
        _first_loss(investigation, run) == begins[run.seed]
        for t in screen.treatments
        if t.steps == 1
        for run in screen.of_arm(runs, t.name)
    ]
    return SAME_FIRST_LOSS.check(
        all(same), f"{sum(same)} of {len(same)} runs; a batch of another size begins elsewhere"
    )


def _first_loss(investigation: Investigation, run: Run) -> float | None:
    metrics = investigation.metrics(run) if run.steps else []
    return metrics[0]["loss"] if metrics else None


FIGURES = (
    Figure(
        key="h4-loss",
        title="Training loss, as given and with each intervention",
        x_label="optimiser step",
        y_label="lm loss (nats per token)",
        caption="Every seed thin. The verdict is not read off here: it is of the loss after the run on fixed queries.",
    ),
    Figure(
        key="h4-ratio",
        title="Update / weight ratio per step",
        x_label="optimiser step",
        y_label="norm of the change / norm of the weights",
        caption="The subject as given. A module that moves a tenth of itself on every step keeps nothing.",
        y_log=True,
    ),
    Figure(
        key="h4-norms",
        title="Norm of all gradients before clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="The subject as given. Single steps far above their neighbours are spikes.",
        y_log=True,
    ),
    Figure(
        key="h4-drift",
        title="Drift against accuracy",
        x_label="optimiser step",
        y_label="share",
        caption="The subject as given: does the contexts' share (fixed probe batch) move before the accuracy falls?",
    ),
)


def _series(investigation: Investigation, screen: Screen, runs: Sequence[Run]) -> list[Series]:
    curves = []
    for name, label in [(REFERENCE, "as given"), *((t.name, t.what) for t in screen.treatments)]:
        for run in screen.of_arm(runs, name):
            curves.append(smoothed(series("h4-loss", run, investigation.metrics(run), "lm_loss", label), 10))
    for run in screen.of_arm(runs):
        metrics = investigation.metrics(run)
        for module in ("encoder", "core"):
            moving = [m for m in metrics if m.get(f"{module}.moved")]
            curves.append(series("h4-ratio", run, moving, f"{module}.moved", module))
        found = [{"step": step, "norm": norm} for step, norm in dynamics.norms(metrics) if norm > 0]
        curves.append(series("h4-norms", run, found, "norm", "before clipping"))
        seen = [{"step": step, "share": share} for step, share in dynamics.looks(metrics, "share")]
        curves.append(series("h4-drift", run, seen, "share", "share of the contexts"))
        curves.append(smoothed(series("h4-drift", run, metrics, "accuracy_all", "token accuracy"), 10))
    return [curve for curve in curves if curve.x]
