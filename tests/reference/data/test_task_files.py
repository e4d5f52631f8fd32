"""Files of tasks: every file, every pair and every solution, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etrm.config import load, with_settings
from etrm.data import sources
from etrm.reference.data.loaded_rows import compare_task_sets
from etrm.reference.data.loader import choose_training_tasks
from etrm.reference.data.task_files import read_tasks

TASK: dict[str, Any] = {
    "train": [{"input": [[1, 2]], "output": [[2], [1]]}, {"input": [[3]], "output": [[3]]}],
    "test": [{"input": [[4, 5]], "output": [[5], [4]]}, {"input": [[6]], "output": [[6]]}],
}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("subfolder", ["", "training"])
def test_every_file_of_a_folder_is_a_task(tmp_path: Path, subfolder: str) -> None:
    for name in "abc":
        write(tmp_path / subfolder / f"{name}.json", TASK)
    (tmp_path / subfolder / "notes.txt").write_text("not a task")
    found = read_tasks(str(tmp_path), "training")
    assert [task.id for task in found] == ["a", "b", "c"]
    [first, *_] = found
    assert [pair.input.tolist() for pair in first.demos] == [[[1, 2]], [[3]]]
    assert [np.asarray(pair.output).tolist() for pair in first.tests] == [[[5], [4]], [[6]]]
    assert compare_task_sets(sources.load_tasks(str(tmp_path)), found) == []


def test_solutions_are_read_from_the_file_next_to_it(tmp_path: Path) -> None:
    asked = TASK | {"test": [{"input": pair["input"]} for pair in TASK["test"]]}
    write(tmp_path / "x_challenges.json", {"a": asked})
    file = str(tmp_path / "x_challenges.json")
    [task] = read_tasks(file, "training")
    assert [pair.output for pair in task.tests] == [None, None]
    write(tmp_path / "x_solutions.json", {"a": [pair["output"] for pair in TASK["test"]]})
    [task] = read_tasks(file, "training")
    assert [np.asarray(pair.output).tolist() for pair in task.tests] == [[[5], [4]], [[6]]]
    assert compare_task_sets(sources.load_tasks(file), read_tasks(file, "training")) == []


def test_a_reader_that_skips_a_file_departs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.json", TASK)
    data = with_settings(load("smoke"), data={"source": str(tmp_path)}).data
    read = sources.read_folder
    monkeypatch.setattr(sources, "read_folder", lambda path, subset: read(path, subset)[:-1])
    [found] = compare_task_sets(sources.choose_tasks(data), choose_training_tasks(data))
    assert (found.tensor, found.size, found.where) == ("tasks", pytest.approx(1 / 3), "task c is missing")
