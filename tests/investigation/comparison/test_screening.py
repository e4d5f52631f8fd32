"""Short runs of a subject: what a shorter run keeps, and what a treatment changes."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import Config, check_request, load, with_settings
from etrm.config.tree import Changes
from etrm.data import choose_tasks
from etrm.investigation.comparison.interventions import with_interventions
from etrm.investigation.comparison.screening import Screen, Treatment, explain_unusable, few_tasks, with_steps
from etrm.investigation.records import Verdict
from etrm.investigation.runs.arms import ArmId
from etrm.training.faults import apply_faults
from etrm.training.task_sets import load_held_out_tasks
from tests.investigation.planted import DIVERGED, planted

SLOW = Treatment("slow", "rate x0.1", {"train": {"encoder_lr_scale": 0.1}})
BATCH = Treatment("batch", "twice the batch", {"train": {"batch_size": 32}}, steps=0.5)


def small(**settings: Any) -> Config:
    return with_settings(load("small"), **settings)


def staged() -> Config:
    return small(
        data={"max_side": 10, "curriculum": ((5, 100), (10, 300)), "replay": 0.2}, train={"steps": 400}
    )


def test_few_tasks_have_no_curriculum() -> None:
    data = check_request(few_tasks(staged(), 100)).data
    assert (data.curriculum, data.replay) == ((), 0.0)


def test_a_shorter_run_keeps_the_shares_of_its_parts() -> None:
    short = with_steps(small(train={"freeze_encoder_steps": 200}), 80)
    assert (short.train.steps, short.train.warmup_steps, short.train.freeze_encoder_steps) == (80, 8, 40)
    assert check_request(with_steps(staged(), 80)).data.curriculum == ((5, 20), (10, 60))


def test_a_short_run_is_not_evaluated_on_the_way() -> None:
    """The ceiling of H7 has a table of puzzle ids, which has no rows for held-out tasks."""
    assert with_steps(small(evaluate={"every": 10}), 80).evaluate.every is None


def test_a_longer_run_keeps_them_too() -> None:
    long = with_steps(load("smoke"), 100)
    assert (long.train.steps, long.train.warmup_steps, long.train.checkpoint_every) == (100, 10, 100)


def test_few_tasks_are_small_ones_as_they_are() -> None:
    reference = few_tasks(small(data={"augmentations": "fresh", "translate": 3}), 100)
    tasks = choose_tasks(reference.data)
    assert (len(tasks), reference.data.augmentations, reference.data.translate) == (10, 1, 0)
    sides = sorted(task.max_side for task in choose_tasks(small().data))
    assert max(task.max_side for task in tasks) == sides[9]
    assert len(load_held_out_tasks(reference)) > 0


@pytest.mark.parametrize(("batch", "steps"), [(16, 100), (64, 100), (8, 200), (3, 534), (1, 1600)])
def test_a_small_batch_takes_more_steps(batch: int, steps: int) -> None:
    assert few_tasks(small(train={"batch_size": batch}), 100).train.steps == steps


def test_fewer_tasks_than_ten_are_all_kept() -> None:
    reference = few_tasks(small(data={"max_tasks": 4}), 100)
    assert choose_tasks(reference.data).tasks == choose_tasks(small(data={"max_tasks": 4}).data).tasks


@pytest.mark.parametrize("fault", ["warmup-too-long", "lr-too-high"])
def test_an_intervention_has_the_last_word_over_a_fault(fault: str) -> None:
    changes: Changes = {"train": {"warmup_steps": 4, "encoder_lr_scale": 0.1}}
    subject = with_interventions(small(faults=(fault,)), changes)
    assert apply_faults(subject).train.warmup_steps == 4
    assert apply_faults(subject).train.encoder_lr_scale == 0.1


def test_a_treatment_with_seeds_of_its_own_has_the_reference_next_to_it() -> None:
    more = Treatment("more", "x", {"train": {"beta2": 0.9}}, seeds=(1, 2, 3))
    screen = Screen(with_steps(small(), 80), (SLOW, more), (0, 1))
    seeds = {
        name: [job.seed for job in screen.jobs() if job.arm == screen.arm(name)] for name in ("slow", "more")
    }
    assert seeds == {"slow": [0, 1], "more": [1, 2, 3]}
    assert [job.seed for job in screen.jobs() if job.arm == screen.arm()] == [0, 1, 2, 3]
    runs = [
        *planted(screen.arm(), [1.0] * 4),
        *planted(screen.arm("slow"), [0.5] * 2),
        *planted(screen.arm("more"), [9.0, 0.5, 0.5, 0.5])[1:],
    ]
    slow, found = screen.compare(runs, ["slow"]).best, screen.compare(runs, ["more"], 0.1).best
    assert (len(slow.effects), len(found.effects)) == (2, 3)
    assert (slow.smallest_effect, found.smallest_effect) == (0.25, 0.1)


def test_interventions_are_added_to_those_that_a_subject_has() -> None:
    subject = small(interventions=("train.beta2=0.9",))
    both = with_interventions(subject, SLOW.settings)
    assert (apply_faults(both).train.beta2, apply_faults(both).train.encoder_lr_scale) == (0.9, 0.1)


def test_every_arm_has_every_seed_and_the_one_difference() -> None:
    screen = Screen(with_steps(small(), 80), (SLOW, BATCH), (0, 1))
    jobs = {(job.arm.name, job.seed): job.config for job in screen.jobs()}
    assert sorted(jobs) == [(f"few-{arm}", seed) for arm in ("as-given", "batch", "slow") for seed in (0, 1)]
    given, slow, batch = (apply_faults(jobs[f"few-{arm}", 1]) for arm in ("as-given", "slow", "batch"))
    assert given.train.seed == slow.train.seed == batch.train.seed == 1
    assert slow.train == given.train.model_copy(update={"encoder_lr_scale": 0.1})
    assert slow.model == given.model
    assert slow.data == given.data
    assert batch.train.steps * batch.train.batch_size == given.train.steps * given.train.batch_size
    assert batch.train.warmup_steps * 2 == given.train.warmup_steps


def test_the_outcome_is_of_the_treatments_asked_for() -> None:
    screen = Screen(small(), (SLOW, BATCH), (0, 1, 2))
    runs = planted(screen.arm(), [1.0, 1.0, 1.1]) + planted(screen.arm("slow"), [0.5, 0.5, 0.5])
    runs += planted(screen.arm("batch"), [1.0, 1.0, 1.1])
    assert screen.compare(runs, ["slow"]).candidate
    assert screen.compare(runs, ["batch"]).verdict is Verdict.INVALIDATED


def test_a_diverged_reference_is_a_score_and_another_failure_is_not() -> None:
    assert explain_unusable(planted(ArmId("x"), [1.0, DIVERGED])) == ""
    assert "planted" in explain_unusable(planted(ArmId("x"), [1.0, None]))  # the reason of the run
