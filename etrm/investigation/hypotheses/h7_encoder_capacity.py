"""H7: the encoder is too weak.

Statistical: on ten tasks, the config under test is compared with the same core and a puzzle table, which is given the
task (the ceiling), and with itself and stronger encoders. There must be something to gain, and a stronger encoder must
gain a part of it. An encoder that only needs more steps is not too weak: in longer runs the unchanged config must stay
behind the stronger encoder too, or reach its loss without using the contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from statistics import fmean

from etrm.config import Config
from etrm.config.model import KNOBS, VARIATIONAL, EncoderConfig
from etrm.config.tree import Changes
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison import dynamics
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
    TASKS,
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
from etrm.investigation.evidence.figures import Figure, Series, make_curve
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import capitalise, format_seeds, format_value
from etrm.investigation.hypotheses import unseen_rules
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Value, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.budget import LADDER
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation
from etrm.training.faults import apply_faults

STATEMENT = Statement(
    id="H7",
    title="Encoder capacity",
    statement="The encoder is too weak.",
    refuted_by=(
        "The model fits its tasks as well as the same core with a puzzle table; or it fits them worse, but a stronger "
        "encoder gains nothing; or it learns the same in three times the steps, and uses its contexts."
    ),
    mechanism="An encoder that cannot represent the rule gives every task the same context, or one too poor to use.",
    kind="statistical",
    would_change=(
        "A stronger encoder that gains half of the smallest gap that matters, over ten seeds; or a gap to the puzzle "
        "table that appears only on more tasks or in longer runs."
    ),
)
CEILING = Treatment(
    "ceiling",
    "oracle context (puzzle table)",
    {"model": {"variant": "trm"}, "train": {"puzzle_lr": 0.1, "kl_weight": 0.0, "freeze_encoder_steps": 0}},
)
"""The same core, given the task by a puzzle table. The table moves by its rate at each step (sign descent), so that in
a hundred steps the usual rate of 1e-2 does not give a ceiling: preset `smoke`, seed 0, no fault: loss 1.28; at rate 0.1
1.13, at 0.3 1.14.
"""
RANDOM = "frozen-random"
SMALLEST_GAIN = SMALLEST_EFFECT / 2
"""m of a stronger encoder, in ln of the loss: half of the smallest gap to the ceiling that matters, for no encoder
reaches the ceiling. One that is no longer narrow gains .26 of a gap of .43 on `smoke` (ten seeds, deviation .13). Set
after those seeds, 0 to 9, had been seen."""
NO_GAP = "without a gap to the ceiling it has too little to gain"
LOSS = Metric("h7.loss", "loss on the training queries: {item}", Direction.LOWER)
CATCHING_UP = Metric(
    "h7.catching-up",
    "loss on the training queries, unchanged in three times the steps: {item}",
    Direction.LOWER,
)
USE = Metric(
    "h7.use-of-contexts",
    "loss with mismatched demonstrations minus loss, after three times the steps",
    Direction.HIGHER,
)


class CapacityReason(StrEnum):
    """What the ceiling and the stronger encoders show."""

    NOTHING_TO_GAIN = "h7.nothing-to-gain"
    GAP_UNDECIDED = "h7.gap-undecided"
    NO_ENCODER_GAINS = "h7.no-stronger-encoder-gains"
    AN_ENCODER_GAINS = "h7.a-stronger-encoder-gains"
    ENCODERS_UNDECIDED = "h7.stronger-encoders-undecided"
    LEARNS_LATER = "h7.learns-later"
    PERHAPS_LATER = "h7.perhaps-later"
    WITHOUT_CONTEXTS = "h7.learns-later-without-contexts"


LATER_REASONS = {
    Later.REACHES: CapacityReason.LEARNS_LATER,
    Later.UNDECIDED: CapacityReason.PERHAPS_LATER,
    Later.WITHOUT_CONTEXTS: CapacityReason.WITHOUT_CONTEXTS,
}


def list_stronger_encoders(used: Config) -> list[Treatment]:
    """Stronger encoders than that of a config with the settings ``used``, one change each, the least first."""
    model, encoder = used.model, used.model.encoder
    plain = EncoderConfig(layers=encoder.layers)
    rungs = []
    if encoder.kind != "standard":
        standard = {
            "kind": plain.kind,
            "pooling": plain.pooling,
            "set_layers": plain.set_layers,
            "latent_size": None,
        }
        settings: Changes = {"model": {"encoder": standard}, "train": {"kl_weight": 0.0}}
        rungs.append(Treatment("standard", "encoder kind standard", settings))
    if used.train.kl_weight > 0:
        rungs.append(Treatment("no-divergence", "divergence weight 0", {"train": {"kl_weight": 0.0}}))
    if encoder.kind in VARIATIONAL:
        width = 4 * model.hidden_size
        if (encoder.latent_size or model.hidden_size) < width:
            wider: Changes = {"model": {"encoder": {"latent_size": width}}}
            rungs.append(Treatment("wider-latent", f"latent of {width}", wider))
    deeper = {"layers": 2 * encoder.layers}
    if encoder.kind in KNOBS["set_layers"]:
        deeper["set_layers"] = 2 * encoder.set_layers
    rungs.append(Treatment("deeper", "encoder twice as deep", {"model": {"encoder": deeper}}))
    if encoder.kind in KNOBS["pooling"] and encoder.pooling == "mean":
        pooling: Changes = {"model": {"encoder": {"pooling": "attention"}}}
        rungs.append(Treatment("attention", "attention pooling", pooling))
    if used.train.decoder is None or not model.mlp_t:  # the mixer of a trained core has its number of tokens
        tokens = 2 * model.context_tokens
        rungs.append(Treatment("tokens", f"{tokens} context tokens", {"model": {"context_tokens": tokens}}))
    return rungs


def freeze_encoder(config: Config) -> list[Treatment]:
    """The treatment whose encoder stays at its random start; none where nothing would train then."""
    if config.train.freeze_decoder_steps >= config.train.steps:
        return []
    return [Treatment(RANDOM, "encoder frozen at its random start", {"train": {"encoder_lr_scale": 0.0}})]


def ladder_seeds(investigation: Investigation) -> tuple[int, ...]:
    """The seeds of the stronger encoders: those of the short runs first, then as many more as LADDER says."""
    first = investigation.short_seeds[0]
    return tuple(range(first, first + LADDER * len(investigation.short_seeds)))


class EncoderCapacity(Hypothesis):
    """H7."""

    statement = STATEMENT
    precedence = 70
    controls = ("posterior-collapse",)
    next_step = (
        "Use the encoder that page H7 names, then run the same command again, with --seeds 5 if it is only a "
        "candidate."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The unchanged run with the ceiling, the rule family, and the controls."""
        screens = self.screens(investigation)
        return self._arms(screens, unseen_rules.plan_jobs(investigation)) if screens else ()

    def screens(self, investigation: Investigation) -> list[Screen]:
        """The run under test with the ceiling, then the controls; none where the hypothesis does not apply."""
        if _explain_not_applicable(investigation.subject):
            return []
        reference = few_tasks(investigation.subject, investigation.tier.short_steps)
        subject = subject_screen(investigation, reference, (CEILING,))
        return [subject, *(self._control_screen(name) for name in (HEALTHY, *self.controls))]

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Run the unchanged config, the ceiling, the stronger encoders and the controls, and compare them."""
        if reason := _explain_not_applicable(investigation.subject):
            return self.not_run(CommonReason.NOT_APPLICABLE, reason)
        screen, *controls = self.screens(investigation)
        runs = run_screens(investigation, self.id, [screen, *controls])
        rule_jobs = unseen_rules.plan_jobs(investigation)
        rule_runs = investigation.run(f"{self.id}, unseen rules", rule_jobs) if rule_jobs else []
        gap = _compare_ceiling(screen, runs)
        if gap.gained:  # else nothing that a stronger encoder does could decide
            screen, runs = self._climb(investigation, screen, controls)
        rungs = _compare_encoders(screen, runs)
        if rungs is not None and rungs.gained:  # else no longer run could change the verdict
            screen = with_longer_runs(screen, ladder_seeds(investigation))
            controls = [with_longer_runs(control) for control in controls]
            runs = run_screens(investigation, self.id, [screen, *controls])
        later = compare_longer(screen, rungs, runs) if rungs else None
        outcomes = [self._judge_control(control, runs) for control in controls]
        steps = screen.reference.train.steps
        return self.statement.decided(
            judge(gap, rungs, screen.runs_of(runs), broken_controls(outcomes), steps, later),
            screening=len(screen.seeds) < FULL_SEEDS,
            p_value=max(found.p_value for found in (gap, rungs) if found is not None),
            arms=self._arms([screen, *controls], rule_jobs),
            runs=select_finals([*runs, *rule_runs]),
            evidence=(
                *gap.rows(LOSS),
                *(rungs.rows(LOSS) if rungs else ()),
                *(later.rows(CATCHING_UP, USE) if later else ()),
                *list_left_out(LOSS, _not_climbed(screen)),
                *_make_context_rows(screen, runs),
                *unseen_rules.make_rows(rule_jobs, rule_runs),
            ),
            controls=tuple(outcomes),
            instruments=(_check_ceiling(screen, runs), check_diverged(runs)),
            figures=FIGURES,
            series=tuple(_make_curves(screen, runs)),
            wall_s=round(sum(run.record.wall_s for run in (*runs, *rule_runs)), 1),
        )

    def _arms(self, screens: Sequence[Screen], rule_jobs: Sequence[Job]) -> tuple[Arm, ...]:
        subject, *controls = screens
        return (
            *subject.arms(),
            *unseen_rules.describe_arms(rule_jobs),
            *(arm for control in controls for arm in control.arms()),
        )

    def _climb(
        self, investigation: Investigation, screen: Screen, controls: Sequence[Screen]
    ) -> tuple[Screen, list[LoadedRun]]:
        """Run one stronger encoder after the other, up to the first that gains; each costs five to ten runs."""
        reference, seeds = screen.reference, ladder_seeds(investigation)
        below = (*screen.treatments, *freeze_encoder(reference))
        rungs = [replace(t, seeds=seeds) for t in list_stronger_encoders(apply_faults(reference))]
        runs: list[LoadedRun] = []
        for count in range(1, len(rungs) + 1):
            screen = subject_screen(investigation, reference, (*below, *rungs[:count]))
            runs = run_screens(investigation, self.id, [screen, *controls])
            found = _compare_encoders(screen, runs)
            if found is not None and found.gained:
                break
        return screen, runs

    def _control_screen(self, name: str) -> Screen:
        """The ceiling and the first stronger encoder: for an injected fault that is the encoder without it."""
        config = control_config([name] if name in self.controls else [])
        return control_screen(name, config, (CEILING, *list_stronger_encoders(apply_faults(config))[:1]))

    def _judge_control(self, screen: Screen, runs: Sequence[LoadedRun]) -> ControlOutcome:
        gap, rungs = _compare_ceiling(screen, runs), _compare_encoders(screen, runs)
        later = compare_longer(screen, rungs, runs) if rungs else None
        found = judge(gap, rungs, screen.runs_of(runs), "", screen.reference.train.steps, later)
        return control_outcome(screen.control, screen.control in self.controls, found)


def _explain_not_applicable(subject: Config) -> str:
    """The reason why the hypothesis does not apply, or nothing."""
    model = apply_faults(subject).model
    if not model.has_encoder:
        return "The model is a TRM: it has no encoder."
    if not model.recursive:
        return "The model is the symbolic solver: its capacity is its library, and no table can replace that."
    return ""


def _not_climbed(screen: Screen) -> list[tuple[Treatment, str]]:
    """The stronger encoders that were not run, each with the reason."""
    run = {t.name for t in screen.treatments}
    why = "a smaller change gains already" if len(run) > 1 else NO_GAP
    every = (*freeze_encoder(screen.reference), *list_stronger_encoders(apply_faults(screen.reference)))
    return [(t, why) for t in every if t.name not in run]


def judge(
    gap: TreatmentComparison,
    rungs: TreatmentComparison | None,
    unchanged: Sequence[LoadedRun],
    broken: str,
    steps: int,
    later: LaterRuns | None = None,
) -> Judgement:
    """The verdict that the ceiling and the stronger encoders give.

    Args:
        gap: the ceiling against the unchanged run.
        rungs: the stronger encoders against the unchanged run, where they were run.
        unchanged: the runs of the config under test.
        broken: the reason why a verdict would mean nothing, if a control did not behave.
        steps: number of steps of the runs.
        later: the best stronger encoder against the unchanged config in longer runs, where it gains.
    """
    if broken:
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if lost := explain_unusable(unchanged):
        return Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), lost)
    counted = f"on up to {TASKS} tasks {describe_runs(unchanged, steps)}"
    ceiling = f"an oracle context changes the loss by {gap.best.change}"
    if len(gap.best.effects) != len(unchanged):
        ceiling += f" ({format_seeds(len(gap.best.effects))})"
    if gap.verdict is Verdict.INVALIDATED:
        words = f"The encoder is not the limit, because there is too little to gain: {ceiling} {counted}."
        return Judgement(gap.verdict, (CapacityReason.NOTHING_TO_GAIN,), words)
    if rungs is None or not gap.gained:
        words = f"It is undecided whether there is enough to gain: {ceiling} {counted}."
        return Judgement(Verdict.INCONCLUSIVE, (CapacityReason.GAP_UNDECIDED,), words)
    return _judge_encoders(gap, rungs, ceiling, counted, later)


def _judge_encoders(
    gap: TreatmentComparison,
    rungs: TreatmentComparison,
    ceiling: str,
    counted: str,
    later: LaterRuns | None,
) -> Judgement:
    """Where there is a gap to the ceiling, the stronger encoders decide."""
    best = f"{rungs.best.words} changes it by {rungs.best.change}"
    if rungs.verdict is Verdict.INVALIDATED:
        words = f"{capitalise(ceiling)}, but no stronger encoder gains enough: the best, {best} {counted}."
        return Judgement(rungs.verdict, (CapacityReason.NO_ENCODER_GAINS,), words)
    gains = "a stronger encoder gains" if rungs.gained else "it is undecided whether a stronger encoder gains"
    words = f"{capitalise(ceiling)}, and {gains}: {best} {counted}{later.clause if later else ''}."
    if not rungs.gained:
        return Judgement(Verdict.INCONCLUSIVE, (CapacityReason.ENCODERS_UNDECIDED,), words)
    outcome = Later.NOT_COMPARED if later is None else later.outcome
    codes = (LATER_REASONS.get(outcome, CapacityReason.AN_ENCODER_GAINS),)
    if outcome in VERDICTS_LATER:
        return Judgement(VERDICTS_LATER[outcome], codes, words)
    validated = gap.verdict is rungs.verdict is Verdict.VALIDATED
    verdict = Verdict.VALIDATED if validated else Verdict.INCONCLUSIVE
    return Judgement(verdict, codes, words, candidate=not validated)


def _compare_ceiling(screen: Screen, runs: Sequence[LoadedRun]) -> TreatmentComparison:
    """The ceiling against the unchanged run."""
    return screen.compare(runs, [CEILING.name])


def _compare_encoders(screen: Screen, runs: Sequence[LoadedRun]) -> TreatmentComparison | None:
    """The stronger encoders that were run against the unchanged run; None where there are none.

    Holm's correction is over all stronger encoders of a config, however many of them were run.
    """
    names = [t.name for t in screen.treatments if t.name not in (CEILING.name, RANDOM, LONGER.name)]
    planned = 0 if screen.control else len(list_stronger_encoders(apply_faults(screen.reference)))
    return screen.compare(runs, names, SMALLEST_GAIN, planned) if names else None


RETRIEVAL = Metric("h7.task-retrieval", "task retrieval after the run, against the random start")
SHARE = Metric(
    "h7.share", "share of the contexts' power that differs between tasks, against the random start"
)
MISMATCHED_DEMOS = Metric("h7.loss-foreign-demos", "loss with mismatched demonstrations, against their own")
FROZEN_ENCODER = Metric(
    "h7.loss-frozen-encoder", "loss of the trained encoder, against one frozen at its random start"
)


def _make_context_rows(screen: Screen, runs: Sequence[LoadedRun]) -> list[EvidenceRow]:
    """What the contexts reveal of their tasks; these rows show where to look, and decide nothing."""
    unchanged = [run for run in screen.runs_of(runs) if run.finished]
    n = format_seeds(len(unchanged))
    shares = [dynamics.read_probe(run.metrics, "share") for run in unchanged]
    return [
        RETRIEVAL.row(
            _mean_final(unchanged, "retrieval_end"),
            control=_mean_final(unchanged, "retrieval_start"),
            threshold="above chance",
            n=n,
            note="share of the tasks whose odd demonstrations retrieve their even ones by context; chance: "
            f"{format_value(_mean_final(unchanged, 'retrieval_chance'), '.3f')}",
        ),
        SHARE.row(
            _mean([look[-1][1] for look in shares if look]),
            control=_mean([look[0][1] for look in shares if look]),
            threshold="at 0 every task has the same context",
            n=n,
            note="on the fixed probe batch",
        ),
        MISMATCHED_DEMOS.row(
            _mean_final(unchanged, "loss_end_foreign_demos"),
            control=_mean_final(unchanged, "loss_end"),
            threshold="higher, where the context is used",
            n=n,
            note="the same queries, each with the demonstrations of another task",
        ),
        FROZEN_ENCODER.row(
            _mean_final(unchanged, "loss_end"),
            control=_mean_final(screen.runs_of(runs, RANDOM), "loss_end"),
            threshold="lower, where training the encoder helps",
            n=n,
            note="decoder and data are the same in both arms",
        ),
    ]


CEILING_KNOWS = Instrument(
    "h7.ceiling-needs-no-demonstrations",
    "the ceiling needs no demonstrations: mismatched ones change nothing",
)


def _check_ceiling(screen: Screen, runs: Sequence[LoadedRun]) -> InstrumentCheck:
    own = _mean_final(screen.runs_of(runs, CEILING.name), "loss_end")
    mismatched = _mean_final(screen.runs_of(runs, CEILING.name), "loss_end_foreign_demos")
    return CEILING_KNOWS.check(
        own == mismatched and not isinstance(own, NotMeasured),
        f"loss {format_value(own, '.3f')} with their own, {format_value(mismatched, '.3f')} with mismatched "
        "demonstrations",
    )


def _mean_final(runs: Sequence[LoadedRun], key: str) -> Value:
    values = [run.final.get(key) for run in runs]
    return _mean([value for value in values if isinstance(value, float)])


def _mean(values: Sequence[float]) -> Value:
    return fmean(values) if values else NotMeasured(absent="no run has it")


FIGURES = (
    Figure(
        key="h7-loss",
        title="Training loss on up to ten tasks: unchanged, ceiling and stronger encoders",
        x_label="optimiser step",
        y_label="lm loss (nats per token)",
        caption="A puzzle table gives the ceiling the task. The distance from the unchanged run to it can be gained.",
    ),
    Figure(
        key="h7-share",
        title="Representation share against the random start",
        x_label="optimiser step",
        y_label="share of the contexts' power that differs between tasks",
        caption="The unchanged run, on a fixed probe batch. At 0 every task has the same context.",
    ),
)


def _make_curves(screen: Screen, runs: Sequence[LoadedRun]) -> list[Series]:
    curves = compare_loss_curves("h7-loss", screen, runs)
    for run in screen.runs_of(runs):
        shares = dynamics.read_probe(run.metrics, "share")
        curves.append(make_curve("h7-share", run, shares, "share of the contexts"))
    return [curve for curve in curves if curve.x]


HYPOTHESIS = EncoderCapacity()
