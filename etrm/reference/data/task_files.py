"""Tasks read from files as they stand: a folder with a file per task, or a challenges file with its solutions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etrm.data.sources import TaskSet, load_tasks
from etrm.data.task import Grid, Pair, Task


def read_tasks(source: str, subset: str) -> TaskSet:
    """Return all tasks of a source; those that are no files come from the sources of the package.

    The published sets are pinned by a hash there. Code from outside and rules are functions, which have no files.

    Raises:
        DataError: the source has no tasks.
    """
    path = Path(source)
    if path.is_dir():
        own = path / subset
        folder = own if own.is_dir() else path
        files = [name for name in folder.iterdir() if name.suffix.lower() == ".json"]
        raw = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    elif path.is_file():
        raw = _read_challenges(path)
    else:
        return load_tasks(source, subset)
    return TaskSet(tuple(_make_task(name, task) for name, task in raw.items()), source, subset)


def _read_challenges(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
    solutions_file = path.with_name(path.name.replace("challenges", "solutions"))
    if solutions_file == path or not solutions_file.is_file():
        return raw
    solutions = json.loads(solutions_file.read_text("utf-8"))
    for name, task in raw.items():
        for pair, output in zip(task["test"], solutions[name], strict=True):
            pair["output"] = output
    return raw


def _make_task(name: str, raw: Mapping[str, Any]) -> Task:
    demos, tests = (
        tuple(Pair(_make_grid(pair["input"]), _make_output(pair)) for pair in raw[kind])
        for kind in ("train", "test")
    )
    return Task(name, demos, tests)


def _make_output(pair: Mapping[str, Any]) -> Grid | None:
    output = pair.get("output")
    return None if output is None else _make_grid(output)


def _make_grid(rows: Any) -> Grid:
    return np.array(rows, dtype=np.uint8)
