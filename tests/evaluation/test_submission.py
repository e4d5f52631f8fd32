"""The file that Kaggle reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etrm.data.sample import Sample
from etrm.data.sources import TaskSet
from etrm.errors import DataError
from etrm.evaluation.passk import evaluate
from etrm.evaluation.submission import (
    PLACEHOLDER,
    PlaceholderReason,
    build_submission,
    find_placeholders,
    write_submission,
)
from etrm.evaluation.voting import Candidate, Predictor
from tests.errors import raises_code

MakeTasks = Callable[..., TaskSet]


def test_every_asked_task_stands_there_with_two_attempts_per_test(
    make_tasks: MakeTasks, planted: Callable[[Callable[[Sample], bool | None]], Predictor], tmp_path: Path
) -> None:
    tasks = make_tasks(3, tests=2)
    report = evaluate(tasks, planted(lambda s: True if s.task_id != "00000001" else None), augmentations=2)
    path = tmp_path / "new" / "submission.json"
    done = write_submission(path, tasks, report.candidates, max_side=30)
    found = json.loads(path.read_text())
    assert list(found) == ["00000000", "00000001", "00000002"]
    for task in tasks:
        assert [set(attempts) for attempts in found[task.id]] == [{"attempt_1", "attempt_2"}] * 2
    for test, attempts in zip(tasks.get("00000002").tests, found["00000002"], strict=True):
        assert test.output is not None
        assert attempts == {"attempt_1": test.output.tolist(), "attempt_2": PLACEHOLDER}
    assert found["00000001"] == [{"attempt_1": PLACEHOLDER, "attempt_2": PLACEHOLDER}] * 2
    assert done.placeholders == {"00000001": PlaceholderReason.NO_GRID}
    listing = json.loads((path.parent / "submission.placeholders.json").read_text())
    assert listing == {"tasks": 3, "placeholders": {"00000001": "no_grid"}}
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name, done.listing.name]


def candidate(*rows: list[int]) -> Candidate:
    return Candidate(np.array(rows, dtype=np.uint8).reshape(len(rows), -1), 1, 0.5)


def test_attempts_follow_the_rank_and_skip_the_empty_grid(make_tasks: MakeTasks) -> None:
    nothing = Candidate(np.zeros((0, 0), dtype=np.uint8), 5, 0.5)
    ranked = (candidate([1]), nothing, candidate([2, 3]), candidate([4]))
    assert build_submission(make_tasks(1), {"00000000": (ranked,)}) == {
        "00000000": [{"attempt_1": [[1]], "attempt_2": [[2, 3]]}]
    }


def test_a_task_without_candidates_is_not_left_out(make_tasks: MakeTasks) -> None:
    found = build_submission(make_tasks(2, tests=3), {})
    assert [len(tests) for tests in found.values()] == [3, 3]


def test_every_task_without_an_answer_has_its_reason(make_tasks: MakeTasks) -> None:
    tasks = make_tasks(4, tests=2)
    largest = max(task.max_side for task in tasks)
    one, nothing = (candidate([1]),), (Candidate(np.zeros((0, 0), dtype=np.uint8), 5, 0.5),)
    ids = [task.id for task in tasks]
    answers = {ids[0]: (one, one), ids[1]: (one, nothing), ids[2]: (one, ())}
    partly = {ids[1]: PlaceholderReason.NO_GRID, ids[2]: PlaceholderReason.NO_GRID}
    assert find_placeholders(tasks, answers, largest) == partly | {ids[3]: PlaceholderReason.MAX_TASKS}
    assert find_placeholders(tasks, answers, 0) == partly | {ids[3]: PlaceholderReason.MAX_SIDE}
    assert find_placeholders(list(tasks)[:1], answers, largest) == {}


def test_a_failed_write_leaves_the_old_file(
    make_tasks: MakeTasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "submission.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with raises_code(DataError, "evaluate.submission-not-writable", path, "No space left"):
        write_submission(path, make_tasks(1), {}, max_side=30)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
