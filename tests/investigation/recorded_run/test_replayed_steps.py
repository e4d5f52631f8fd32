"""Steps of a recorded run, computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.replayed_steps import StepDeparture, compare_step, judge_replayed_steps
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from tests.investigation.recorded_run.conftest import edit_json
from tests.investigation.recorded_run.test_saved_weights import alter


def replay(folder: Path) -> dict[tuple[str, str], RecordedFact]:
    facts = judge_replayed_steps(RunUnderTest.read(folder))
    return {(fact.row.code, fact.row.item): fact for fact in facts}


def edit_log(folder: Path, step: int, **changes: Any) -> None:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line | changes if line["step"] == step else line for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_healthy_run_repeats_to_the_bit_up_to_its_next_checkpoint(kept_healthy: Path) -> None:
    found = replay(kept_healthy)
    assert {key: fact.row.treatment for key, fact in found.items()} == {
        ("run.steps-repeat", "10"): 0.0,
        ("run.weights-repeat", "20"): 0.0,
    }
    assert found["run.steps-repeat", "10"].row.n == "10 steps"
    assert RunUnderTest.read(kept_healthy).record["processes"] == 1


def test_a_run_with_a_fault_that_is_no_longer_there_does_not_repeat(
    with_past_fault: Callable[[str], Path],
) -> None:
    fact = replay(with_past_fault("no-clip-spikes"))["run.steps-repeat", "10"]
    assert fact.row.passed is False
    assert fact.hypotheses == ()


def test_the_first_number_that_differs_is_named(healthy: Path) -> None:
    edit_log(healthy, 14, grad_norm_before_clip=3.0, **{"core.moved": 0.5})
    fact = replay(healthy)["run.steps-repeat", "10"]
    assert (fact.row.passed, fact.row.n) == (False, "4 steps")
    assert "grad_norm_before_clip of step 14" in fact.words


def test_an_altered_checkpoint_does_not_repeat(healthy: Path) -> None:
    name = "core.lm_head.weight"
    alter(healthy, lambda c: replace(c, model=c.model | {name: 1.1 * c.model[name]}))
    found = replay(healthy)
    assert found["run.steps-repeat", "10"].row.passed
    assert found["run.weights-repeat", "20"].row.passed is False
    assert name in found["run.weights-repeat", "20"].words


def test_on_another_machine_one_step_is_compared_to_rounding(healthy: Path) -> None:
    edit_json(healthy / "run.json", device="cuda: a GPU")
    edit_log(healthy, 11, loss=1.01 * RunUnderTest.read(healthy).metrics[10]["loss"])
    found = replay(healthy)
    assert found.keys() == {("run.steps-repeat", "10")}
    assert (found["run.steps-repeat", "10"].row.passed, found["run.steps-repeat", "10"].row.n) == (
        True,
        "1 steps",
    )


def test_a_run_in_several_processes_repeats_to_the_rounding_of_their_sums(healthy: Path) -> None:
    edit_json(healthy / "run.json", processes=2)
    loss = RunUnderTest.read(healthy).metrics[10]["loss"]
    edit_log(healthy, 11, loss=(1 + 5e-4) * loss)
    edit_log(healthy, 16, loss=2.0)  # rounding grows from step to step, so only the first are compared
    [fact] = replay(healthy).values()
    assert (fact.row.passed, fact.row.n) == (True, "5 steps")
    assert "2" in fact.row.note
    edit_log(healthy, 11, loss=(1 + 5e-3) * loss)
    [fact] = replay(healthy).values()
    assert (fact.row.passed, fact.row.n) == (False, "1 steps")


def test_what_cannot_be_restored_is_not_measured(healthy: Path) -> None:
    alter(healthy, lambda c: replace(c, tensors={}), step=10)
    assert not isinstance(replay(healthy)["run.steps-repeat", "10"].row.treatment, float)


def test_numbers_are_compared_in_the_order_in_which_a_step_computes_them() -> None:
    before = {"step": 3, "core.moved": 1.0, "bucket": 0, "kl": None, "loss": 2.0, "probe.share": 1.0}
    now = {"step": 3, "core.moved": 1.0, "bucket": 1, "kl": 1.0, "loss": 1.0}
    assert compare_step(before, now) == [
        StepDeparture(3, "bucket", 0, 1, 1.0),
        StepDeparture(3, "loss", 2.0, 1.0, 0.5),
        StepDeparture(3, "core.moved", 1.0, 1.0, 0.0),
    ]
