"""The subject's model on the rule family: its config, its rows, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.evaluation.learning_stage import LearningStage
from etrm.investigation.hypotheses import unseen_rules
from etrm.investigation.records import NotMeasured
from etrm.investigation.runs.budget import SCREENING, TIERS
from etrm.investigation.session import Investigation
from etrm.training.faults import apply_faults
from etrm.training.scoring.amortisation import AmortisationGap
from etrm.training.task_sets import load_held_out_tasks, load_training_tasks
from tests.investigation.planted import planted

ACCURACY = "held_out_token_accuracy"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseen_rules, "TRAINED", 12)
    monkeypatch.setattr(unseen_rules, "EVALUATED", 6)


def small(**settings: Any) -> Config:
    return with_settings(load("small"), **settings)


@pytest.mark.parametrize("variant", ["etrm", "etrm_fct", "etrm_cached"])
@pytest.mark.parametrize("fault", ["encoder-one-token", "posterior-collapse", "context-scale"])
def test_it_is_the_subject_on_other_tasks(variant: str, fault: str) -> None:
    subject = small(
        model={"variant": variant},
        faults=(fault,),
        data={"augmentations": "fresh", "translate": 2, "exclude": ("40853293",), "queries": "all"},
        train={"freeze_decoder_steps": 400, "decoder": "/nowhere"},
    )
    config = unseen_rules.rules_config(subject, 50)
    used = apply_faults(config)
    assert config.faults == (fault,)
    assert used.model.encoder == apply_faults(subject).model.encoder
    assert (used.train.steps, used.train.warmup_steps, used.train.decoder) == (50, 5, None)
    assert (used.train.freeze_decoder_steps, used.model.halt.max_steps) == (0, 1)


def test_no_rule_that_is_asked_is_trained_on() -> None:
    config = unseen_rules.rules_config(small(), 50)
    trained, asked = load_training_tasks(config), load_held_out_tasks(config)
    assert (len(trained), len(asked)) == (12, 6)
    rules = [{task.id.rpartition("-")[2] for task in tasks} for tasks in (trained, asked)]
    assert not rules[0] & rules[1]


def test_a_screening_leaves_it_out_and_says_so(investigation: Investigation) -> None:
    assert SCREENING.rule_steps == 0
    assert unseen_rules.plan_jobs(investigation) == []
    rows = unseen_rules.make_rows([], [])
    searched = ["rules.searched", "rules.searched-from-encoder", "rules.on-plateau"]
    assert [row.code for row in rows] == ["rules.solved", "rules.token-accuracy", *searched]
    assert all(isinstance(row.treatment, NotMeasured) for row in rows)
    assert unseen_rules.describe_arms([]) == ()
    assert all(tier.rule_steps > 0 for name, tier in TIERS.items() if name != "screening")


def test_rows_hold_the_copy_next_to_every_seed(investigation: Investigation) -> None:
    investigation.tier = replace(SCREENING, rule_steps=3)
    jobs = unseen_rules.plan_jobs(investigation)
    values = [0.7, 0.8, 0.75]
    solved, accuracy, *others = unseen_rules.make_rows(jobs, planted(unseen_rules.ARM, values, ACCURACY))
    assert all(isinstance(row.treatment, NotMeasured) for row in others[:2])
    assert isinstance(solved.treatment, NotMeasured)
    assert solved.control == 0  # a copy is never right
    assert isinstance(accuracy.control, float)
    assert 0 < accuracy.control < 1
    assert accuracy.treatment == pytest.approx(fmean(values))
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low + accuracy.high == pytest.approx(2 * (fmean(values) - accuracy.control))
    assert accuracy.passed is None
    assert all(f"{value:.3f}" in accuracy.note for value in values)
    one = unseen_rules.make_rows(jobs, planted(unseen_rules.ARM, [0.7], ACCURACY))[1]
    assert (one.low, one.high) == (None, None)


def test_from_end_to_end(investigation: Investigation) -> None:
    investigation.tier = replace(SCREENING, rule_steps=3)
    jobs = unseen_rules.plan_jobs(investigation)
    runs = investigation.run("rules", jobs)
    assert [(run.finished, run.steps) for run in runs] == [(True, 3)]
    solved, accuracy, searched, start, plateau = unseen_rules.make_rows(jobs, runs)
    gap = AmortisationGap.from_counts({k: v for k, v in runs[0].final.items() if isinstance(v, float)})
    assert len(gap.tasks) == 6
    assert (searched.treatment, searched.control) == (gap.count("from_noise") / 6, gap.count("encoder") / 6)
    assert (start.treatment, start.control) == (gap.count("from_encoder") / 6, gap.count("from_noise") / 6)
    assert plateau.treatment == 0
    assert LearningStage.TOO_SHORT.words in plateau.note
    assert solved.treatment == runs[0].final["held_out_pass_at_1"]
    assert accuracy.treatment == runs[0].final[ACCURACY]
    assert runs[0].final["held_out_asked"] == 6
    assert [arm.name for arm in unseen_rules.describe_arms(jobs)] == [runs[0].arm.name]
