"""Folders of task files, and Kaggle challenges with their solutions, as sources of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etrm.data.sources import load_tasks
from etrm.errors import DataError
from tests.errors import raises_code

PAIR = {"input": [[0, 1]], "output": [[1, 0]]}
TASK = {"train": [PAIR], "test": [PAIR]}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_a_folder_without_subfolders_is_one_set(tmp_path: Path) -> None:
    write(tmp_path / "b.JSON", TASK)
    write(tmp_path / "a.json", TASK)
    for subset in ("training", "evaluation"):
        found = load_tasks(str(tmp_path), subset)
        assert [task.id for task in found] == ["a", "b"]
        assert found.version == ""


def test_a_folder_with_subfolders_is_two_sets(tmp_path: Path) -> None:
    write(tmp_path / "training" / "a.json", TASK)
    with raises_code(DataError, "data.absent-subset", tmp_path, "evaluation", "training"):
        load_tasks(str(tmp_path), "evaluation")
    write(tmp_path / "evaluation" / "b.json", TASK)
    assert [task.id for task in load_tasks(str(tmp_path), "evaluation")] == ["b"]


def test_all_unusable_tasks_are_named_at_once(tmp_path: Path) -> None:
    bad = {**TASK, "train": []}
    names = [f"t{number:02}" for number in range(25)]
    for name in names:
        write(tmp_path / f"{name}.json", bad)
    write(tmp_path / "fine.json", TASK)
    with raises_code(DataError, "task.no-pairs", 25, 26, "task t00", "task t19", "and 5 more"):
        load_tasks(str(tmp_path))
    challenges = write(tmp_path / "x_challenges.json", dict.fromkeys(names[:3], bad) | {"fine": TASK})
    with raises_code(DataError, "task.no-pairs", 3, 4, "task t00", "task t02"):
        load_tasks(str(challenges))


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    with raises_code(DataError, "data.no-task-files", tmp_path):
        load_tasks(str(tmp_path))
    bad = tmp_path / "a.json"
    bad.write_text("{,}", "utf-8")
    with raises_code(DataError, "data.not-json", bad):
        load_tasks(str(tmp_path))
    bad.write_bytes(b"\xff\xfe")
    with raises_code(DataError, "data.not-json", bad):
        load_tasks(str(tmp_path))
    write(bad, {"train": [PAIR], "test": [{"input": [[0]]}]})
    with raises_code(DataError, "task.no-output", bad, "task a, test pair 0"):
        load_tasks(str(tmp_path))


def test_kaggle_challenges_find_their_solutions(tmp_path: Path) -> None:
    asked = {"train": [PAIR], "test": [{"input": [[0]]}, {"input": [[5]]}]}
    file = write(tmp_path / "arc-agi_test_challenges.json", {"b": asked, "a": asked})
    found = load_tasks(str(file))
    assert [task.id for task in found] == ["a", "b"]
    assert [pair.output for pair in found.tasks[0].tests] == [None, None]
    solved = write(tmp_path / "arc-agi_test_solutions.json", {"a": [[[1]], [[2]]], "b": [[[3]], [[4]]]})
    found = load_tasks(str(file))
    assert [[pair.output.tolist() for pair in task.tests] for task in found] == [
        [[[1]], [[2]]],
        [[[3]], [[4]]],
    ]
    write(solved, {"a": [[[1]]], "b": [[[3]], [[4]]]})
    with raises_code(DataError, "data.absent-solutions", solved, "task a", got="1 outputs"):
        load_tasks(str(file))
    write(solved, {"a": [[[1]], [[2]]]})
    with raises_code(DataError, "data.absent-solutions", solved, "task b", got="none"):
        load_tasks(str(file))


def test_one_task_or_a_list_is_no_challenges_file(tmp_path: Path) -> None:
    with raises_code(DataError, "data.single-task-file", tmp_path / "one.json"):
        load_tasks(str(write(tmp_path / "one.json", TASK)))
    with raises_code(DataError, "data.not-an-object-of-tasks", tmp_path / "list.json"):
        load_tasks(str(write(tmp_path / "list.json", [TASK])))
    with raises_code(DataError, "task.not-an-object", tmp_path / "x_challenges.json", "task a", got=3):
        load_tasks(str(write(tmp_path / "x_challenges.json", {"a": 3})))
