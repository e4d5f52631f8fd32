"""The frozen-decoder experiment of seed 004: a pretrained decoder stays fixed, the encoder trains.

Three things are told apart that the original could not: A the encoder learns, B it is stuck,
C it trains but is useless. Gradients are read before clipping, movement is measured, the loss is
compared with two arms that cannot know the rule, and the held-out score has its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from etrm.config import Config, with_overrides
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison.paired_contrast import Contrast, lower_by, of_losses
from etrm.investigation.evidence import Metric
from etrm.investigation.measurements.encoder_gradients import Facts, gather
from etrm.investigation.protocol import Investigation, seeded, series, smoothed
from etrm.investigation.result import (
    Absent,
    Arm,
    Code,
    Direction,
    Evidence,
    Experiment,
    Figure,
    Run,
    Scenario,
    Series,
)
from etrm.investigation.runs.jobs import Job

SMALLEST_EFFECT = 0.05
"""Smallest difference of held-in loss that matters, in nats per token; fixed before the run."""
FEWEST_TASKS = 32
"""Held-out tasks below which nothing is said about generalisation: 0 of 4 solved leaves 0 to 60 % open."""
SCENARIOS = (
    (
        Scenario.LEARNS,
        "the encoder learns: gradient, movement, loss below both blind arms, held-out score above the baselines",
    ),
    (Scenario.STUCK, "stuck: no gradient, or no movement, or a loss that does not fall"),
    (
        Scenario.USELESS,
        "trains but useless: the loss falls, but not below both blind arms, or nothing held out is solved",
    ),
)


class FrozenReason(StrEnum):
    """Why the experiment shows what it shows."""

    NOTHING_TRAINED = "frozen.no-run-finished"
    STUCK = "frozen.no-gradient-or-no-movement"
    LOSS_DOES_NOT_FALL = "frozen.loss-does-not-fall"
    LOSS_UNDECIDED = "frozen.loss-undecided"
    FEW_TASKS = "frozen.too-few-held-out-tasks"
    DEMOS_UNDECIDED = "frozen.use-of-demonstrations-undecided"
    LEARNS = "frozen.learns-from-demonstrations"
    USELESS_USED = "frozen.useless-though-demonstrations-are-used"
    USELESS_UNUSED = "frozen.useless-and-demonstrations-unused"


TRAINED, BLIND = "frozen-trained", "frozen-foreign-demos"


def trained(investigation: Investigation, phase: str) -> list[Run]:
    """The runs of the treatment, encoder trained and decoder frozen; the other arm's are made too if it follows."""
    jobs = arm_jobs(investigation, TRAINED)
    others = _blind_jobs(investigation) if investigation.frozen_decoder else []
    return investigation.run(phase, [*jobs, *others])[: len(jobs)]


def _blind_jobs(investigation: Investigation) -> list[Job]:
    """The other arm, of which only losses are compared: nothing held out is asked, gradients are seldom watched."""
    jobs = arm_jobs(investigation, BLIND, ("demos-from-other-task",))
    seldom = f"monitor.every={investigation.subject.monitor.probe_every}"
    return [replace(job, config=with_overrides(job.config, (seldom,)), held_out=False) for job in jobs]


def arm_jobs(investigation: Investigation, arm: str, faults: Sequence[str] = ()) -> list[Job]:
    """An arm with the decoder frozen; one run a seed."""
    decoder = investigation.decoder
    configs = {
        seed: frozen_config(investigation, decoder, seed, faults, investigation.tier.frozen_steps)
        for seed in investigation.seeds
    }
    return [Job(arm, seed, config, measure=True) for seed, config in configs.items()]


def run(investigation: Investigation, baseline_pass_at_1: float) -> Experiment:
    """Train both arms on every seed, and say which scenario it is.

    Args:
        investigation: subject, decoder and seeds.
        baseline_pass_at_1: the best trivial baseline's score on the held-out tasks, 0..1.
    """
    runs = investigation.run("frozen decoder", arm_jobs(investigation, TRAINED) + _blind_jobs(investigation))
    learned = [r for r in runs if r.arm == TRAINED and r.state == "finished"]
    blind = [r for r in runs if r.arm == BLIND and r.state == "finished"]
    failed = [r for r in runs if r.state == "failed"]
    metrics = [m for r in learned for m in investigation.metrics(r)]
    facts = gather(metrics)
    contrasts = _contrasts(learned, blind)
    scenario, code, sentence = _scenario(
        stuck=facts.without_gradient == facts.steps or facts.without_movement == facts.steps,
        words=facts.words,
        failed=failed,
        contrasts=contrasts,
        trained=learned,
        baseline=baseline_pass_at_1,
    )
    return Experiment(
        id="frozen-decoder",
        title="Frozen decoder",
        question="Can the encoder learn at all, when a pretrained decoder is kept fixed?",
        scenario=scenario,
        codes=(code,),
        sentence=sentence,
        scenarios=SCENARIOS,
        screening=len(investigation.seeds) < FULL_SEEDS,
        arms=_arms(investigation),
        runs=tuple(runs),
        evidence=(
            *_training_rows(learned, facts),
            *_loss_rows(contrasts),
            *_held_out_rows(learned, baseline_pass_at_1, investigation.subject.evaluate.augmentations),
        ),
        figures=FIGURES,
        series=tuple(_series(investigation, runs)),
        wall_s=round(sum(r.wall_s for r in runs), 1),
    )


def frozen_config(
    investigation: Investigation, decoder: Path, seed: int, faults: Sequence[str], steps: int
) -> Config:
    """The subject with a pretrained decoder that stays fixed, for some steps or its own where they are fewer."""
    subject = investigation.starting_from(decoder)
    steps = min(steps, subject.train.steps)
    names = ", ".join(f'"{name}"' for name in (*subject.faults, *faults))
    config = with_overrides(
        subject,
        (
            f"train.steps={steps}",
            f"train.warmup_steps={min(subject.train.warmup_steps, steps)}",
            "train.freeze_encoder_steps=0",
            f"train.freeze_decoder_steps={steps}",
            f"train.checkpoint_every={steps}",
            f"faults=[{names}]",
        ),
    )
    return seeded(config, seed)


def _contrasts(trained: Sequence[Run], blind: Sequence[Run]) -> list[Contrast]:
    by_seed = {r.seed: r for r in blind}
    paired = [(r, by_seed[r.seed]) for r in trained if r.seed in by_seed]
    return [
        of_losses(
            "random-start",
            [(_loss(r, "loss_start"), _loss(r, "loss_end")) for r in trained],
            SMALLEST_EFFECT,
            "its own random start (frozen random encoder)",
        ),
        of_losses(
            "trained-on-foreign-demos",
            [(_loss(b, "loss_end_foreign_demos"), _loss(r, "loss_end")) for r, b in paired],
            SMALLEST_EFFECT,
            "the arm trained on foreign demos",
        ),
        of_losses(
            "given-foreign-demos",
            [(_loss(r, "loss_end_foreign_demos"), _loss(r, "loss_end")) for r in trained],
            SMALLEST_EFFECT,
            "itself, given foreign demos",
        ),
    ]


def _loss(run: Run, key: str) -> float:
    value = run.final[key]
    return float("nan") if isinstance(value, Absent) else value


def _scenario(
    *,
    stuck: bool,
    words: str,
    failed: Sequence[Run],
    contrasts: Sequence[Contrast],
    trained: Sequence[Run],
    baseline: float,
) -> tuple[Scenario, Code, str]:
    """The scenario, why as a stable code, and the same in a sentence."""
    why = FrozenReason
    if failed and not trained:
        reason = f"Nothing could be trained: {failed[0].reason.splitlines()[0]}."
        return Scenario.STUCK, why.NOTHING_TRAINED, reason
    if stuck:
        return Scenario.STUCK, why.STUCK, f"The encoder is stuck: {words}."
    start, blind, foreign = contrasts
    if start.not_lower:
        return Scenario.STUCK, why.LOSS_DOES_NOT_FALL, f"The loss does not fall: {_effect(start)}."
    return _of_trained(start, blind, foreign, trained, baseline)


def _of_trained(
    start: Contrast, blind: Contrast, foreign: Contrast, trained: Sequence[Run], baseline: float
) -> tuple[Scenario, Code, str]:
    """The scenario of an encoder that moves, and whose loss may fall."""
    why = FrozenReason
    solved = [_loss(r, "held_out_solved") for r in trained]
    asked = _loss(trained[0], "held_out_asked")
    held_out = f"held-out tasks solved {_range(solved)} of {asked:.0f} per seed"
    if not start.lower:
        sentence = f"Undecided whether the loss falls: {_effect(start)}; {held_out}."
        return Scenario.UNDECIDED, why.LOSS_UNDECIDED, sentence
    generalises = min(_loss(r, "held_out_low") for r in trained) > baseline
    if asked < FEWEST_TASKS and not blind.not_lower:
        few = f"{asked:.0f} held-out tasks are too few to say more, {FEWEST_TASKS} are needed"
        sentence = f"The encoder trains: {_effect(start)}; {_effect(blind)}; {few}."
        return Scenario.UNDECIDED, why.FEW_TASKS, sentence
    if blind.lower and generalises:
        sentence = f"The encoder learns: {_effect(start)}; {_effect(blind)}; {held_out}."
        return Scenario.LEARNS, why.LEARNS, sentence
    if generalises and not blind.not_lower:
        sentence = f"Undecided whether demos help: {_effect(blind)}; {held_out}."
        return Scenario.UNDECIDED, why.DEMOS_UNDECIDED, sentence
    use = "It uses its demos" if foreign.lower else "It is not shown to use its demos"
    sentence = f"The encoder trains but is useless. {use}: {_effect(foreign)}; {_effect(blind)}; {held_out}."
    return Scenario.USELESS, why.USELESS_USED if foreign.lower else why.USELESS_UNUSED, sentence


def _effect(contrast: Contrast) -> str:
    losses = f"loss {contrast.treatment:.3f} against {contrast.control:.3f} of {contrast.words}"
    i = contrast.interval
    if i is None:
        return f"{losses} (one seed, no interval)"
    return f"{losses}, {lower_by(i)}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"


def _arms(investigation: Investigation) -> tuple[Arm, ...]:
    faults = investigation.subject.faults
    return (
        Arm(
            name=TRAINED,
            role="treatment",
            difference="pretrained decoder frozen for the whole run, encoder trained",
            settings=("train.freeze_decoder_steps=train.steps",),
            faults=faults,
        ),
        Arm(
            name=BLIND,
            role="control",
            difference="the same, but every sample's demos are another task's",
            settings=("train.freeze_decoder_steps=train.steps",),
            faults=(*faults, "demos-from-other-task"),
        ),
        Arm(
            name="frozen random encoder",
            role="control",
            difference="nothing trains: the trained arm as it was at its first step",
        ),
    )


GRADIENT_LOWEST = Metric(
    "frozen.gradient-lowest", "encoder gradient norm before clipping, lowest step", Direction.HOLDS
)
MOVEMENT_LOWEST = Metric(
    "frozen.movement-lowest", "relative movement of the encoder, lowest step", Direction.HOLDS
)
DECODER_UNCHANGED = Metric(
    "frozen.decoder-unchanged", "decoder tensors unchanged at the end, bit for bit", Direction.EQUAL
)
HELD_IN_LOSS = Metric("frozen.held-in-loss", "held-in loss against {item}", Direction.LOWER)
HELD_OUT_SCORE = Metric("frozen.held-out-score", "held-out pass@1, {item}", Direction.HIGHER)


def _training_rows(trained: Sequence[Run], facts: Facts) -> list[Evidence]:
    """Whether the encoder was trained, and the decoder left alone."""
    steps = f"{sum(r.steps for r in trained)} steps"
    none = Absent(absent="no run finished")
    matched = [(_loss(r, "frozen_matched"), _loss(r, "frozen_total")) for r in trained]
    return [
        GRADIENT_LOWEST.row(
            facts.gradient_low,
            threshold="> 0 on every step",
            passed=not isinstance(facts.gradient_low, Absent),
            n=steps,
        ),
        MOVEMENT_LOWEST.row(
            facts.moved_low,
            threshold="> 0 on every step",
            passed=not isinstance(facts.moved_low, Absent),
            n=steps,
        ),
        DECODER_UNCHANGED.row(
            sum(m for m, _ in matched) if matched else none,
            control=sum(t for _, t in matched) if matched else none,
            threshold="all",
            passed=bool(matched) and all(m == t for m, t in matched),
            n=f"{len(trained)} seeds",
        ),
    ]


def _loss_rows(contrasts: Sequence[Contrast]) -> list[Evidence]:
    return [
        contrast.row(
            HELD_IN_LOSS,
            f"lower by at least {SMALLEST_EFFECT} nats per token, 90 % interval above 0",
            contrast.lower if contrast.interval else None,
            "interval: paired t over seeds of control minus treatment",
        )
        for contrast in contrasts
    ]


def _held_out_rows(trained: Sequence[Run], baseline: float, votes: int) -> list[Evidence]:
    return [
        HELD_OUT_SCORE.row(
            r.final["held_out_pass_at_1"],
            item=f"seed {r.seed}",
            control=baseline,
            low=_loss(r, "held_out_low"),
            high=_loss(r, "held_out_high"),
            threshold="interval above the best trivial baseline",
            passed=_loss(r, "held_out_low") > baseline,
            n=f"{_loss(r, 'held_out_solved'):.0f} of {_loss(r, 'held_out_asked'):.0f} tasks solved, "
            f"{votes} votes each",
            note="exact 95 % binomial interval over tasks",
        )
        for r in trained
    ]


FIGURES = (
    Figure(
        key="frozen-loss",
        title="Training loss with a frozen decoder",
        x_label="optimiser step",
        y_label="lm loss (nats per token)",
        caption="Means over 20 steps, every seed. Only the gain on the arm with foreign demos comes from demos.",
    ),
    Figure(
        key="frozen-norms",
        title="Encoder gradient norm before and after clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="Seed 004 logged the norm after clipping, which read 1.000 whatever happened.",
        y_log=True,
    ),
    Figure(
        key="frozen-share",
        title="Representation share against the random start",
        x_label="optimiser step",
        y_label="share of the context's power that differs between tasks",
        caption="On a fixed probe batch. The first point of each curve is the encoder at its random start.",
    ),
    Figure(
        key="frozen-use",
        title="What the decoder loses when contexts are shuffled",
        x_label="optimiser step",
        y_label="loss with shuffled minus loss with true contexts",
        caption="On a fixed probe batch, first ACT step. Zero: the decoder does not use the context.",
        lines=(("unused", 0.0),),
    ),
)


def _series(investigation: Investigation, runs: Sequence[Run]) -> list[Series]:
    curves = []
    for r in runs:
        metrics = investigation.metrics(r)
        label = "true demos" if r.arm == TRAINED else "foreign demos"
        curves.append(smoothed(series("frozen-loss", r, metrics, "lm_loss", label), 20))
        looks = _looks(metrics)
        curves.append(series("frozen-share", r, looks, "share", label))
        curves.append(series("frozen-use", r, looks, "use", label))
        if r.arm == TRAINED:
            positive = [m for m in metrics if m.get("encoder.grad_norm_pre_clip")]
            curves.append(
                series("frozen-norms", r, positive, "encoder.grad_norm_pre_clip", "before clipping")
            )
            curves.append(
                series("frozen-norms", r, positive, "encoder.grad_norm_post_clip", "after clipping")
            )
    return curves


def _looks(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The looks at the probe batch, the random start as step 0 first."""
    found = []
    for m in metrics:
        for prefix, step in (("start.", 0), ("probe.", m["step"])):
            if m.get(f"{prefix}loss_true") is not None:
                use = m[f"{prefix}loss_shuffled"] - m[f"{prefix}loss_true"]
                found.append({"step": step, "share": m[f"{prefix}share"], "use": use})
    return found
