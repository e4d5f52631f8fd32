"""A control with a known answer: the subject's model on tasks of one hidden rule, asked with rules it never saw.

Every task of the family (``etrm.data.rules``) is solved by whoever infers its rule, and by nothing less: a copy of the
input is never right. So this is the one place where "it does not generalise" can be told from "nothing could".
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from etrm.config import Config, with_overrides
from etrm.evaluation import evaluate_baselines, paired_t_interval
from etrm.investigation.comparison.screening import lasting
from etrm.investigation.evidence import Metric
from etrm.investigation.protocol import Investigation, seeded, seeds_in_words
from etrm.investigation.result import Absent, Arm, Evidence, Run
from etrm.investigation.runs.jobs import Job
from etrm.training.task_sets import load_held_out_tasks

ARM = "rules-as-given"
FAMILY = "rules:colours"
TRAINED = 4000
"""Tasks that are trained on."""
ASKED = 200
"""Tasks with rules that are not."""
BATCH = 32
"""Tasks of a step."""
MEASURED = {
    "held_out_pass_at_1": Metric("rules.solved", "unseen rules solved, against copying the input"),
    "held_out_token_accuracy": Metric(
        "rules.token-accuracy", "token accuracy on unseen rules, against copying the input"
    ),
}
"""What the runs measure, by the key of their final value."""


def rules_config(subject: Config, steps: int) -> Config:
    """The subject's model from a random start on the rule family.

    One ACT step, so that every row of every step is a new task: four steps each would be a quarter of the data.
    """
    settings = (
        f"data.source='{FAMILY}'",
        "data.subset=training",
        "data.max_side=3",
        f"data.max_tasks={TRAINED}",
        "data.exclude=[]",
        "data.augmentations=1",  # another would turn one rule into another
        "data.translate=0",
        "data.queries=test",
        "data.buckets=1",
        f"evaluate.source='{FAMILY}'",
        "evaluate.subset=evaluation",
        f"evaluate.max_tasks={ASKED}",
        "evaluate.augmentations=1",
        "evaluate.allow_trained=[]",
        "model.halt.max_steps=1",
        f"train.batch_size={BATCH}",
        "train.accumulate=1",
        "train.decoder=none",
        "train.freeze_decoder_steps=0",
        "train.freeze_encoder_steps=0",
        "monitor.enabled=false",
    )
    return lasting(with_overrides(subject, settings), steps)


def jobs(investigation: Investigation) -> list[Job]:
    """A run for each seed; none where the tier has no steps for it."""
    steps = investigation.tier.rule_steps
    if not steps:
        return []
    config = rules_config(investigation.subject, steps)
    return [Job(ARM, seed, seeded(config, seed), measure=True) for seed in investigation.seeds]


def arms(found: Sequence[Job]) -> tuple[Arm, ...]:
    """The arm of some jobs, if there are any."""
    if not found:
        return ()
    train = found[0].config.train
    what = f"the subject's model on the rule family ({FAMILY}, {TRAINED} tasks), {train.steps} steps"
    return (Arm(name=ARM, role="treatment", difference=what, faults=found[0].config.faults),)


def rows(found: Sequence[Job], runs: Sequence[Run]) -> list[Evidence]:
    """What the runs solve of rules that they never saw, beside a copy of the input; it decides nothing."""
    if not found:
        late = Absent(absent="takes longer than this tier has: --tier standard")
        return [metric.row(late, threshold="left out", n="0 runs") for metric in MEASURED.values()]
    config = found[0].config
    copy = evaluate_baselines(load_held_out_tasks(config), config.data)["copy input"]
    baseline = {"held_out_pass_at_1": copy.pass_at[1].score, "held_out_token_accuracy": copy.token_accuracy}
    return [_row(runs, key, metric, baseline[key], config) for key, metric in MEASURED.items()]


def _row(runs: Sequence[Run], key: str, metric: Metric, baseline: float, config: Config) -> Evidence:
    values = [run.final.get(key) for run in runs]
    known = [value for value in values if isinstance(value, float)]
    interval = paired_t_interval([value - baseline for value in known]) if len(known) > 1 else None
    return metric.row(
        fmean(known) if known else Absent(absent="no run has it"),
        control=baseline,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        final=key,
        threshold="above the copy, where rules are inferred",
        n=f"{ASKED} tasks, {seeds_in_words(len(known))} x {config.train.steps} steps",
        note=f"by seed: {', '.join(f'{value:.3f}' for value in known) or 'none'}; one vote, all ACT steps",
    )
