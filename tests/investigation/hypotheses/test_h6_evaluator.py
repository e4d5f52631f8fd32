"""H6 by effect: planted answers through evaluators that are sound, listed as broken, or broken otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from etrm import evaluation
from etrm.config import Config, load, with_settings
from etrm.data import Sample, TaskSet
from etrm.evaluation import Answer, EvaluationReport, Predictor
from etrm.investigation.hypotheses import h6_evaluator as h6
from etrm.investigation.hypotheses.h6_evaluator import EvaluatorReason
from etrm.investigation.hypotheses.symbolic_hypothesis import control_config
from etrm.investigation.measurements.known_answers import VOTES, KnownAnswers
from etrm.investigation.measurements.row_provenance import RowProblem
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.session import Investigation
from etrm.training.recipe import Recipe


def smoke(*faults: str) -> Config:
    return with_settings(load("smoke"), train={"threads": 1}, faults=faults)


ALL_RIGHT, EVERY_SECOND, FIRST, AUGMENTED, ALL_WRONG, ONE_VOTE, TOO_LARGE = KnownAnswers


def wrong(facts: h6.Facts) -> list[KnownAnswers]:
    return [planted.answers for planted in facts.planted if not planted.right]


def test_a_sound_evaluator_reports_what_was_planted() -> None:
    facts = h6.inspect_evaluator(smoke())
    assert not facts.holds
    assert [planted.score for planted in facts.planted] == [1.0, 0.5, 0.875, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert facts.averaged == facts.tensors
    assert facts.act_steps == 4
    assert facts.path_gap == 0
    assert not facts.read.wrong
    assert facts.read.rows == VOTES * 5  # four tasks, one of them with two queries


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (
            "divide-by-all",
            [ALL_RIGHT, EVERY_SECOND, FIRST, AUGMENTED, ALL_WRONG, ONE_VOTE, ONE_VOTE, TOO_LARGE],
        ),
        ("no-inverse", [ALL_RIGHT, EVERY_SECOND, FIRST, AUGMENTED]),
        ("stale-votes", [EVERY_SECOND, FIRST, ALL_WRONG, ONE_VOTE, TOO_LARGE]),
        ("true-size-given", [TOO_LARGE]),
    ],
)
def test_a_broken_evaluator_is_seen_where_it_breaks(fault: str, seen: list[KnownAnswers]) -> None:
    facts = h6.inspect_evaluator(smoke(fault))
    assert wrong(facts) == seen
    assert not facts.raw
    assert facts.codes == (EvaluatorReason.MISREPORTED,)


def test_pairs_that_are_evaluated_as_tasks_are_no_rows_of_the_tasks() -> None:
    facts = h6.inspect_evaluator(smoke("pairs-for-tasks"))
    assert facts.codes == (EvaluatorReason.MISREPORTED, EvaluatorReason.WRONG_ROWS)
    assert facts.read.wrong == {RowProblem.TASK: facts.read.rows}


def test_noise_is_seen_by_a_second_call() -> None:
    facts = h6.inspect_evaluator(smoke("noisy-evaluation"))
    assert facts.codes == (EvaluatorReason.OTHER_ANSWERS,)
    assert 0 < facts.changed <= facts.repeated == 12


def test_raw_weights_are_told_from_averaged_ones() -> None:
    facts = h6.inspect_evaluator(smoke("eval-raw"))
    assert not wrong(facts)
    assert facts.averaged == 0
    assert facts.holds
    assert facts.codes == (EvaluatorReason.OTHER_WEIGHTS,)


Change = Callable[[EvaluationReport], EvaluationReport]


def _one_more(report: EvaluationReport) -> EvaluationReport:
    first = report.pass_at[1]
    more = replace(first, solved=min(first.asked, first.solved + 1))
    return replace(report, pass_at={**report.pass_at, 1: more})


def _second_as_first(report: EvaluationReport) -> EvaluationReport:
    return replace(report, pass_at=dict.fromkeys(report.pass_at, report.pass_at[2]))


def _first_alone(report: EvaluationReport) -> EvaluationReport:
    return replace(report, pass_at={1: report.pass_at[1]})


def _without_the_last(report: EvaluationReport) -> EvaluationReport:
    first = report.pass_at[1]
    return replace(report, pass_at={**report.pass_at, 1: replace(first, asked=first.asked - 1)})


@pytest.mark.parametrize("change", [_one_more, _without_the_last, _second_as_first, _first_alone])
def test_evaluators_that_nobody_listed(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(tasks: Any, predictor: Predictor, **options: Any) -> EvaluationReport:
        return change(evaluation.evaluate(tasks, predictor, **options))

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(evaluate=evaluate))
    assert h6.inspect_evaluator(smoke()).holds


Evaluate = Callable[..., EvaluationReport]


def _first_query_alone(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    cut = replace(tasks, tasks=tuple(replace(task, tests=task.tests[:1]) for task in tasks))
    return evaluation.evaluate(cut, predictor, **options)


def _answers_of_the_next(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    def shifted(samples: Sequence[Sample]) -> list[Answer]:
        answers = predictor(samples)
        return answers[1:] + answers[:1]

    return evaluation.evaluate(tasks, shifted, **options)


def _one_vote(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    return evaluation.evaluate(tasks, predictor, **(options | {"augmentations": 1}))


@pytest.mark.parametrize(
    ("evaluate", "seen"),
    [
        (_first_query_alone, [FIRST]),
        (_answers_of_the_next, [ALL_RIGHT, EVERY_SECOND, FIRST, AUGMENTED]),
        (_one_vote, [AUGMENTED]),
    ],
)
def test_evaluators_that_ask_otherwise(
    evaluate: Evaluate, seen: list[KnownAnswers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(evaluate=evaluate))
    facts = h6.inspect_evaluator(smoke())
    assert set(seen) <= set(wrong(facts))
    assert all(p.refused for p in facts.planted) == (evaluate is _answers_of_the_next)


def test_weights_of_a_run_that_cannot_step_are_absent() -> None:
    facts = h6.inspect_evaluator(smoke("context-nan"))
    assert isinstance(facts.averaged, NotMeasured)
    assert not facts.holds


@pytest.mark.slow
def test_the_controls_of_formulas_behave() -> None:
    found = [(control, h6.inspect_evaluator(control.config)) for control in h6.list_formula_controls()]
    assert [facts.holds for _, facts in found] == [control.positive for control, _ in found] == [False, True]
    assert found[1][1].codes == (EvaluatorReason.OTHER_TRUTHS,)
    row = h6._make_rows(found[1][1])[-1]
    assert (row.code, row.passed) == ("h6.truth-gap", False)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("true-size-given", marks=pytest.mark.slow),
        "noisy-evaluation",
        pytest.param("pairs-for-tasks", marks=pytest.mark.slow),
        pytest.param("eval-raw", marks=pytest.mark.slow),
    ],
)
def test_faults_of_the_evaluator_of_a_symbolic_solver(fault: str) -> None:
    facts = h6.inspect_evaluator(control_config((fault,)))
    assert facts.holds
    assert EvaluatorReason.OTHER_TRUTHS not in facts.codes


def test_verdict_controls_and_evidence(investigation: Investigation) -> None:
    found = h6.HYPOTHESIS.decide(investigation)
    assert found.verdict is Verdict.INVALIDATED
    assert [control.name for control in found.controls] == ["healthy", *h6.HYPOTHESIS.controls]
    assert all(control.behaved for control in found.controls)
    assert all(row.passed is not False for row in found.evidence)
    assert all(check.passed for check in found.instruments)
