"""The frozen-decoder experiment: a pretrained decoder stays fixed, and the encoder trains.

It distinguishes three outcomes, which the original experiment could not: A the encoder learns, B it is stuck, C it
trains but is useless. Gradients are measured before clipping, movement is measured, the loss is compared with two arms
that cannot know the rule, and the held-out score has an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison import dynamics
from etrm.investigation.comparison.frozen_arms import (
    BLIND,
    SMALLEST_EFFECT,
    TRAINED,
    plan_blind_jobs,
    plan_jobs,
)
from etrm.investigation.comparison.paired_contrast import Contrast, compare_losses, describe_change
from etrm.investigation.evidence.figures import Figure, Series, logged_curve, make_curve, smooth
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.measurements.encoder_gradients import GradientFacts, gather
from etrm.investigation.records import Arm, Code, NotMeasured
from etrm.investigation.result import ExperimentResult, Scenario
from etrm.investigation.runs.loaded_run import LoadedRun, Metrics, read_answers, records_of
from etrm.investigation.session import Investigation

FEWEST_TASKS = 32
"""Number of held-out tasks below which there is no verdict on generalisation: 0 of 4 solved leaves 0 to 60 % open."""
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
    """The reason for the scenario."""

    NOTHING_TRAINED = "frozen.no-run-finished"
    RUNS_FAILED = "frozen.some-runs-failed"
    STUCK = "frozen.no-gradient-or-no-movement"
    LOSS_DOES_NOT_FALL = "frozen.loss-does-not-fall"
    LOSS_UNDECIDED = "frozen.loss-undecided"
    FEW_TASKS = "frozen.too-few-held-out-tasks"
    DEMOS_UNDECIDED = "frozen.use-of-demonstrations-undecided"
    LEARNS = "frozen.learns-from-demonstrations"
    USELESS_USED = "frozen.useless-though-demonstrations-are-used"
    USELESS_UNUSED = "frozen.useless-and-demonstrations-unused"


NEXT_STEPS = {
    Scenario.LEARNS: "Loading and gradients are sound, and the encoder learns. Train longer: `etrm train`, then "
    "`etrm evaluate`.",
    Scenario.STUCK: "Loading and gradients are sound, yet the encoder is stuck with a frozen decoder. Check the "
    "learning rates and the quality of the decoder (page frozen-decoder), then H3 and H4.",
    Scenario.USELESS: "Loading and gradients are sound and the encoder trains, but it solves no held-out task. Use "
    "more tasks, steps and augmentation (data.augmentations='fresh') before you change its capacity (H7).",
}
"""What to do after each scenario, where no hypothesis is the root cause."""


def run(investigation: Investigation, baseline_pass_at_1: float) -> ExperimentResult:
    """Train both arms with every seed, and name the scenario.

    Args:
        investigation: subject, decoder and seeds.
        baseline_pass_at_1: the best trivial baseline's score on the held-out tasks, 0..1.
    """
    runs = investigation.run(
        "frozen decoder", plan_jobs(investigation, TRAINED) + plan_blind_jobs(investigation)
    )
    learned = [r for r in runs if r.arm == TRAINED and r.finished]
    blind = [r for r in runs if r.arm == BLIND and r.finished]
    failed = [r for r in runs if r.failed]
    own_encoder = investigation.subject.model.own_encoder
    facts = gather([m for r in learned for m in r.metrics], own_encoder=own_encoder)
    contrasts = _compare_losses(learned, blind)
    scenario, code, sentence = _name_scenario(
        stuck=facts.without_gradient == facts.steps or facts.without_movement == facts.steps,
        words=facts.words,
        failed=failed,
        contrasts=contrasts,
        trained=learned,
        baseline=baseline_pass_at_1,
    )
    return ExperimentResult(
        id="frozen-decoder",
        title="Frozen decoder",
        question="Can the encoder learn at all, when a pretrained decoder is kept fixed?",
        scenario=scenario,
        codes=(code,),
        sentence=sentence,
        next_step=NEXT_STEPS.get(scenario, ""),
        scenarios=SCENARIOS,
        screening=len(investigation.seeds) < FULL_SEEDS,
        arms=_describe_arms(investigation),
        runs=records_of(runs),
        evidence=(
            *_make_training_rows(learned, facts),
            *_make_loss_rows(contrasts),
            *_make_held_out_rows(learned, baseline_pass_at_1, investigation.subject.evaluate.augmentations),
        ),
        figures=FIGURES,
        series=tuple(_make_curves(runs)),
        answers=read_answers(learned[0]) if learned else (),
        wall_s=round(sum(r.record.wall_s for r in runs), 1),
    )


def _compare_losses(trained: Sequence[LoadedRun], blind: Sequence[LoadedRun]) -> list[Contrast]:
    by_seed = {r.seed: r for r in blind}
    paired = [(r, by_seed[r.seed]) for r in trained if r.seed in by_seed]
    return [
        compare_losses(
            "random-start",
            [(_read_final(r, "loss_start"), _read_final(r, "loss_end")) for r in trained],
            SMALLEST_EFFECT,
            "its own random start (frozen random encoder)",
        ),
        compare_losses(
            "trained-on-foreign-demos",
            [(_read_final(b, "loss_end_foreign_demos"), _read_final(r, "loss_end")) for r, b in paired],
            SMALLEST_EFFECT,
            "the arm trained on mismatched demonstrations",
        ),
        compare_losses(
            "given-foreign-demos",
            [(_read_final(r, "loss_end_foreign_demos"), _read_final(r, "loss_end")) for r in trained],
            SMALLEST_EFFECT,
            "itself with mismatched demonstrations",
        ),
    ]


def _read_final(run: LoadedRun, key: str) -> float:
    value = run.final[key]
    return float("nan") if isinstance(value, NotMeasured) else value


def _name_scenario(
    *,
    stuck: bool,
    words: str,
    failed: Sequence[LoadedRun],
    contrasts: Sequence[Contrast],
    trained: Sequence[LoadedRun],
    baseline: float,
) -> tuple[Scenario, Code, str]:
    """The scenario, its reason as a stable code, and the reason in a sentence."""
    why = FrozenReason
    if failed and not trained:
        reason = f"No run could be trained: {failed[0].reason.splitlines()[0]}."
        return Scenario.STUCK, why.NOTHING_TRAINED, reason
    if stuck:
        return Scenario.STUCK, why.STUCK, f"The encoder is stuck: {words}."
    start, blind, mismatched = contrasts
    if start.not_lower:
        return Scenario.STUCK, why.LOSS_DOES_NOT_FALL, f"The loss does not fall: {_describe_effect(start)}."
    if failed:  # the others alone would look better than the encoder is
        names = ", ".join(f"{run.arm.name}, seed {run.seed}" for run in failed)
        reason = f"Some runs failed, so nothing is decided ({names}): {failed[0].reason.splitlines()[0]}."
        return Scenario.UNDECIDED, why.RUNS_FAILED, reason
    return _name_trained_scenario(start, blind, mismatched, trained, baseline)


def _name_trained_scenario(
    start: Contrast, blind: Contrast, mismatched: Contrast, trained: Sequence[LoadedRun], baseline: float
) -> tuple[Scenario, Code, str]:
    """The scenario of an encoder that moves, and whose loss may fall."""
    why = FrozenReason
    solved = [_read_final(r, "held_out_solved") for r in trained]
    tasks = _read_final(trained[0], "held_out_asked")
    held_out = f"held-out tasks solved {_format_range(solved)} of {tasks:.0f} per seed"
    if not start.lower:
        sentence = f"It is undecided whether the loss falls: {_describe_effect(start)}; {held_out}."
        return Scenario.UNDECIDED, why.LOSS_UNDECIDED, sentence
    generalises = min(_read_final(r, "held_out_low") for r in trained) > baseline
    if tasks < FEWEST_TASKS and not blind.not_lower:
        few = f"{tasks:.0f} held-out tasks are too few for a verdict, {FEWEST_TASKS} are needed"
        sentence = f"The encoder trains: {_describe_effect(start)}; {_describe_effect(blind)}; {few}."
        return Scenario.UNDECIDED, why.FEW_TASKS, sentence
    if blind.lower and generalises:
        sentence = f"The encoder learns: {_describe_effect(start)}; {_describe_effect(blind)}; {held_out}."
        return Scenario.LEARNS, why.LEARNS, sentence
    if generalises and not blind.not_lower:
        sentence = f"It is undecided whether demonstrations help: {_describe_effect(blind)}; {held_out}."
        return Scenario.UNDECIDED, why.DEMOS_UNDECIDED, sentence
    use = (
        "It uses its demonstrations"
        if mismatched.lower
        else "There is no evidence that it uses its demonstrations"
    )
    effects = f"{_describe_effect(mismatched)}; {_describe_effect(blind)}"
    sentence = f"The encoder trains but is useless. {use}: {effects}; {held_out}."
    return Scenario.USELESS, why.USELESS_USED if mismatched.lower else why.USELESS_UNUSED, sentence


def _describe_effect(contrast: Contrast) -> str:
    losses = f"loss {contrast.treatment:.3f} against {contrast.control:.3f} of {contrast.words}"
    i = contrast.interval
    if i is None:
        return f"{losses} (one seed, no interval)"
    return f"{losses}, {describe_change(i)}"


def _format_range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"


def _describe_arms(investigation: Investigation) -> tuple[Arm, ...]:
    faults = investigation.subject.faults
    return (
        Arm(
            name=TRAINED.name,
            role="treatment",
            difference="pretrained decoder frozen for the whole run, encoder trained",
            settings=("train.freeze_decoder_steps=train.steps",),
            faults=faults,
        ),
        Arm(
            name=BLIND.name,
            role="control",
            difference="the same, but every sample has the demonstrations of another task",
            settings=("train.freeze_decoder_steps=train.steps",),
            faults=(*faults, "demos-from-other-task"),
        ),
        Arm(
            name="frozen random encoder",
            role="control",
            difference="nothing trains: the trained arm at its first step",
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


def _make_training_rows(trained: Sequence[LoadedRun], facts: GradientFacts) -> list[EvidenceRow]:
    """Whether the encoder was trained, and the decoder left unchanged."""
    steps = f"{sum(r.steps for r in trained)} steps"
    none = NotMeasured(absent="no run finished")
    matched = [(_read_final(r, "frozen_matched"), _read_final(r, "frozen_total")) for r in trained]
    return [
        GRADIENT_LOWEST.row(
            facts.gradient_low,
            threshold="> 0 on every step",
            passed=not facts.without_gradient,
            n=steps,
        ),
        MOVEMENT_LOWEST.row(
            facts.moved_low,
            threshold="> 0 on every step",
            passed=not facts.without_movement,
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


def _make_loss_rows(contrasts: Sequence[Contrast]) -> list[EvidenceRow]:
    return [
        contrast.row(
            HELD_IN_LOSS,
            f"lower by at least {SMALLEST_EFFECT} nats per token, 90 % interval above 0",
            contrast.lower if contrast.interval else None,
            "interval: paired t over seeds of control minus treatment",
        )
        for contrast in contrasts
    ]


def _make_held_out_rows(trained: Sequence[LoadedRun], baseline: float, votes: int) -> list[EvidenceRow]:
    return [
        HELD_OUT_SCORE.row(
            r.final["held_out_pass_at_1"],
            item=f"seed {r.seed}",
            control=baseline,
            low=_read_final(r, "held_out_low"),
            high=_read_final(r, "held_out_high"),
            threshold="interval above the best trivial baseline",
            passed=_read_final(r, "held_out_low") > baseline,
            n=f"{_read_final(r, 'held_out_solved'):.0f} of {_read_final(r, 'held_out_asked'):.0f} tasks solved, "
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
        caption="Means over 20 steps. Demonstrations cause only the gain over the arm with mismatched ones.",
    ),
    Figure(
        key="frozen-norms",
        title="Encoder gradient norm before and after clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="The Low-performance investigation logged only the norm after clipping, which was always 1.000.",
        y_log=True,
    ),
    Figure(
        key="frozen-share",
        title="Representation share against the random start",
        x_label="optimiser step",
        y_label="share of the context's power that differs between tasks",
        caption="On a fixed probe batch. The first point of each curve is the random start of the encoder.",
    ),
    Figure(
        key="frozen-use",
        title="What the decoder loses when contexts are shuffled",
        x_label="optimiser step",
        y_label="loss with shuffled minus loss with true contexts",
        caption="On a fixed probe batch, first ACT step. At zero the decoder does not use the context.",
        lines=(("unused", 0.0),),
    ),
)


def _make_curves(runs: Sequence[LoadedRun]) -> list[Series]:
    curves = []
    for run in runs:
        label = "own demonstrations" if run.arm == TRAINED else "mismatched demonstrations"
        curves.append(smooth(logged_curve("frozen-loss", run, "lm_loss", label), 20))
        curves.append(make_curve("frozen-share", run, dynamics.read_probe(run.metrics, "share"), label))
        curves.append(make_curve("frozen-use", run, _read_use(run.metrics), label))
        if run.arm == TRAINED:
            for when, word in (("pre", "before"), ("post", "after")):
                key = f"encoder.grad_norm_{when}_clip"
                curves.append(logged_curve("frozen-norms", run, key, f"{word} clipping", positive=True))
    return curves


def _read_use(metrics: Metrics) -> list[tuple[float, float]]:
    """The pairs (step, loss with shuffled minus loss with true contexts) of the probe batch."""
    shuffled = dynamics.read_probe(metrics, "loss_shuffled")
    true = dynamics.read_probe(metrics, "loss_true")
    return [(step, worse - loss) for (step, worse), (_, loss) in zip(shuffled, true, strict=True)]
