"""A control with a known answer: the model under test on tasks of one hidden rule, evaluated on rules it never saw.

A model that infers the rule of a task of the family (``etrm.data.rules``) solves it, and any other fails: a copy of the
input is never right. Only here can "it does not generalise" be distinguished from "nothing could generalise".
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from etrm.config import NO_CURRICULUM, NO_STREAM, Config, with_settings
from etrm.evaluation import binomial_interval, evaluate_baselines, paired_t_interval
from etrm.evaluation.learning_stage import LearningStage, classify_stage
from etrm.investigation.comparison.screening import UNCHANGED, with_steps
from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.records import Arm, NotMeasured
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation, with_seed
from etrm.training.scoring.amortisation import AmortisationGap
from etrm.training.task_sets import load_held_out_tasks

ARM = ArmId("rules", UNCHANGED)
FAMILY = "rules:colours"
TRAINED = 4000
"""Tasks that are trained on."""
EVALUATED = 200
"""Tasks with rules that are not trained on."""
BATCH = 32
"""Tasks of a step."""
MEASURED = {
    "held_out_pass_at_1": Metric("rules.solved", "unseen rules solved, against copying the input"),
    "held_out_token_accuracy": Metric(
        "rules.token-accuracy", "token accuracy on unseen rules, against copying the input"
    ),
}
"""What the runs measure, by the key of their final value."""
SEARCHED = Metric("rules.searched", "unseen rules solved by a search of the context, against the encoder")
START = Metric("rules.searched-from-encoder", "the same, searched from the encoder, against from noise")
SHARE_INTERVAL = "the interval is that of the share: exact, 95 %"
ON_PLATEAU = Metric("rules.on-plateau", "share of the runs whose budget ends on the plateau of the loss")
"""What the gap between encoder and search shows, and whether the budget could show anything else."""


def rules_config(subject: Config, steps: int) -> Config:
    """The model under test from a random start on the rule family.

    One ACT step, so that every row of every step is a new task: with four steps each there would be a quarter of the
    data.
    """
    family = with_settings(
        subject,
        data={
            "source": FAMILY,
            "subset": "training",
            "max_side": 3,
            "max_tasks": TRAINED,
            "exclude": (),
            "augmentations": 1,  # another would turn one rule into another
            "translate": 0,
            "queries": "test",
            "buckets": 1,
            **NO_CURRICULUM,
            **NO_STREAM,
        },
        evaluate={
            "source": FAMILY,
            "subset": "evaluation",
            "max_tasks": EVALUATED,
            "demos": None,
            "augmentations": 1,
            "allow_trained": (),
        },
        model={"halt": {"max_steps": 1}},
        train={
            "batch_size": BATCH,
            "accumulate": 1,
            "decoder": None,
            "freeze_decoder_steps": 0,
            "freeze_encoder_steps": 0,
        },
        monitor={"enabled": False},
    )
    return with_steps(family, steps)


def plan_jobs(investigation: Investigation) -> list[Job]:
    """A job for each seed; none where the tier has no steps for it, or the model has no encoder to infer rules."""
    steps, model = investigation.tier.rule_steps, investigation.subject.model
    if not (steps and model.has_encoder and model.recursive):
        return []
    config = rules_config(investigation.subject, steps)
    return [Job(ARM, seed, with_seed(config, seed), measure=True, gap=True) for seed in investigation.seeds]


def describe_arms(jobs: Sequence[Job]) -> tuple[Arm, ...]:
    """The arm of some jobs, if there are any."""
    if not jobs:
        return ()
    config = jobs[0].config
    what = f"the model on the rule family ({FAMILY}, {TRAINED} tasks), {config.train.steps} steps"
    return (Arm(name=ARM.name, role="treatment", difference=what, faults=config.faults),)


def make_rows(jobs: Sequence[Job], runs: Sequence[LoadedRun]) -> list[EvidenceRow]:
    """How many rules that they never saw the runs solve, against a copy of the input; the rows decide nothing."""
    if not jobs:
        late = NotMeasured(absent="this tier has no time for it: --tier standard")
        metrics = (*MEASURED.values(), SEARCHED, START, ON_PLATEAU)
        return [metric.row(late, threshold="left out", n="0 runs") for metric in metrics]
    config = jobs[0].config
    copy = evaluate_baselines(load_held_out_tasks(config), config.data)["copy input"]
    baseline = {"held_out_pass_at_1": copy.pass_at[1].score, "held_out_token_accuracy": copy.token_accuracy}
    rows = [_make_row(runs, key, metric, baseline[key], config) for key, metric in MEASURED.items()]
    return [*rows, *_make_gap_rows(runs), _make_stage_row(runs)]


def _make_row(
    runs: Sequence[LoadedRun], key: str, metric: Metric, baseline: float, config: Config
) -> EvidenceRow:
    values = [run.final.get(key) for run in runs]
    known = [value for value in values if isinstance(value, float)]
    interval = paired_t_interval([value - baseline for value in known]) if len(known) > 1 else None
    return metric.row(
        fmean(known) if known else NotMeasured(absent="no run has it"),
        control=baseline,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        final=key,
        threshold="above the copy, where the model infers rules",
        n=f"{EVALUATED} tasks, {format_seeds(len(known))} x {config.train.steps} steps",
        note=f"by seed: {', '.join(f'{value:.3f}' for value in known) or 'none'}; one vote, all ACT steps",
    )


def _make_gap_rows(runs: Sequence[LoadedRun]) -> list[EvidenceRow]:
    """The answers from searched contexts of all runs together, with exact intervals of the first share."""
    found = [_read_gap(run) for run in runs]
    gap = AmortisationGap(tuple(task for one in found for task in one.tasks))
    count = len(gap.tasks)
    if not count:
        none = NotMeasured(absent="no run has it")
        return [metric.row(none, threshold="left out", n="0 runs") for metric in (SEARCHED, START)]
    n = f"{count} tasks of {format_seeds(sum(bool(one.tasks) for one in found))}, one search each"
    note = "; ".join(finding.words for finding in gap.findings)
    control = f"mismatched demonstrations solve {gap.count('control')}"
    rows = []
    above = "above: the decoder is able and the encoder is not"
    helps = "above: the encoder says a part of the rule"
    for metric, way, other, threshold, words in (
        (SEARCHED, "from_noise", "encoder", above, f"{note}; {control}; {SHARE_INTERVAL}"),
        (START, "from_encoder", "from_noise", helps, SHARE_INTERVAL),
    ):
        low, high = binomial_interval(gap.count(way), count)
        share, against = gap.count(way) / count, gap.count(other) / count
        rows.append(
            metric.row(share, control=against, low=low, high=high, threshold=threshold, n=n, note=words)
        )
    return rows


def _read_gap(run: LoadedRun) -> AmortisationGap:
    return AmortisationGap.from_counts(
        {name: value for name, value in run.final.items() if isinstance(value, float)}
    )


def _make_stage_row(runs: Sequence[LoadedRun]) -> EvidenceRow:
    """Whether the runs ended on the plateau, where nothing follows from a low share of solved rules."""
    stages = [classify_run(run) for run in runs if run.finished]
    flat = [stage is LearningStage.PLATEAU for stage in stages]
    return ON_PLATEAU.row(
        fmean(flat) if flat else NotMeasured(absent="no run has finished"),
        threshold="0: on the plateau a low share does not say that the model cannot infer rules",
        n=f"{len(flat)} runs",
        note=f"by seed: {', '.join(stage.words for stage in stages) or 'none'}",
    )


def classify_run(run: LoadedRun) -> LearningStage:
    """Classify the training curve of a run."""
    logged = [(step.get("lm_loss"), step.get("exact_all")) for step in run.metrics]
    known = [(loss, exact) for loss, exact in logged if loss is not None and exact is not None]
    return classify_stage([loss for loss, _ in known], [exact for _, exact in known])
