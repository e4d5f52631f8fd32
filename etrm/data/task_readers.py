"""Tasks in files: a folder with a file per task, or a Kaggle challenges file with its solutions.

An error names the file, and all tasks in it that cannot be used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from etrm.data.task import Task, parse_task, shorten
from etrm.errors import DataError

SUBSETS = ("training", "evaluation")
TASK_FILES = "*.[jJ][sS][oO][nN]"
"""Pattern of the task files of a folder; some programs write the ending in capitals."""

_MOST_LISTED = 20
"""Unusable tasks that an error lists: a screenful."""


def read_folder(path: Path, subset: str) -> tuple[Task, ...]:
    named = list_subfolders(path)
    if named and subset not in named:
        raise DataError(
            "data.absent-subset",
            f"{path} has no subfolder {subset}",
            got=f"subfolder {', '.join(named)}",
            next_step="add the subfolder, or name the folder of the task files itself",
        )
    folder = path / subset if named else path
    files = sorted(folder.glob(TASK_FILES))
    if not files:
        below = sorted({str(file.parent.relative_to(folder)) for file in folder.glob(f"*/{TASK_FILES}")})
        raise DataError(
            "data.no-task-files",
            f"there are no task files in {folder}",
            got=f".json files in subfolders: {', '.join(below[:5])}" if below else "",
            allowed="one .json file per task, named by its id, in the folder or in subfolders training and evaluation",
            next_step="etrm data check --source FOLDER once the files are there",
        )
    return read_all(str(folder), (partial(_task_file, file) for file in files))


def read_challenges(path: Path) -> tuple[Task, ...]:
    challenges = _object(path)
    if "train" in challenges and "test" in challenges:
        raise DataError(
            "data.single-task-file",
            f"{path} is a single task, not a Kaggle challenges file",
            next_step=f"put the file into a folder and use the folder as the source, e.g. {path.parent}",
        )
    solutions_file = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = _object(solutions_file) if solutions_file != path and solutions_file.is_file() else None

    def read(task_id: str, raw: Any) -> Task:
        if solutions is not None:
            raw = _with_solutions(task_id, raw, solutions, solutions_file)
        return parse_task(task_id, raw, str(path), outputs=solutions is not None)

    return read_all(str(path), (partial(read, task_id, raw) for task_id, raw in challenges.items()))


def list_subfolders(path: Path) -> list[str]:
    return [name for name in SUBSETS if (path / name).is_dir()]


def read_all(source: str, reads: Iterable[Callable[[], Task]]) -> tuple[Task, ...]:
    """All tasks of a source, by functions that read one each.

    Raises:
        DataError: some cannot be used; the error names all of them, so that they can be corrected at once.
    """
    tasks: list[Task] = []
    errors: list[DataError] = []
    for read in reads:
        try:
            tasks.append(read())
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        more = len(errors) - _MOST_LISTED
        listed = [error.brief for error in errors[:_MOST_LISTED]] + ([f"and {more} more"] if more > 0 else [])
        raise DataError(
            errors[0].code,
            f"{len(errors)} of {len(tasks) + len(errors)} tasks of {source} cannot be used:\n  "
            + "\n  ".join(listed),
            next_step="correct them, then run etrm data check --source SOURCE",
            codes=[error.code for error in errors],
        )
    return tuple(tasks)


def find_repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


@contextmanager
def name_unreadable(path: Path) -> Iterator[None]:
    """Turn an OSError while a file is read into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            "data.unreadable-file",
            f"cannot read {path}",
            got=error.strerror or str(error),
            next_step="name another file, or fix its permissions",
        ) from error


def _task_file(file: Path) -> Task:
    return parse_task(file.stem, _json(file), str(file))


def _with_solutions(task_id: str, raw: Any, solutions: dict[str, Any], file: Path) -> Any:
    tests = raw.get("test") if isinstance(raw, dict) else None
    if not isinstance(tests, list) or not all(isinstance(pair, dict) for pair in tests):
        return raw  # malformed; parse_task reports the details
    outputs = solutions.get(task_id)
    if not isinstance(outputs, list) or len(outputs) != len(tests):
        got = f"{len(outputs)} outputs" if isinstance(outputs, list) else "none"
        raise DataError(
            "data.absent-solutions",
            f"{file}: the solutions of task {task_id} do not fit its test pairs",
            got=got,
            allowed=f"{len(tests)} outputs",
            next_step="put the solutions file of the same set next to it",
        )
    return {**raw, "test": [{**pair, "output": grid} for pair, grid in zip(tests, outputs, strict=True)]}


def _object(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(
            "data.not-an-object-of-tasks",
            f"{path} is not a JSON object of tasks",
            got=shorten(content),
            allowed='{"task id": ...}',
            next_step="name the challenges file, or a folder with a file per task",
        )
    return content


def _json(path: Path) -> Any:
    with name_unreadable(path):
        if not path.is_file():  # a pipe or a device may never end
            raise DataError(
                "data.unreadable-file",
                f"cannot read {path}",
                got="not a regular file",
                allowed="a .json file",
                next_step="name another file, or fix its permissions",
            )
        text = path.read_bytes()
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise DataError(
            "data.nested-too-deep",
            f"{path} is JSON that cannot be read",
            got="lists or objects that are nested too deeply",
            next_step="correct the file, then run etrm data check --source SOURCE",
        ) from error
    except ValueError as error:  # also broken UTF-8 and integers of more than 4300 digits
        raise DataError(
            "data.not-json",
            f"{path} is not JSON",
            got=str(error) if text.strip() else "an empty file",
            allowed="JSON, in UTF-8 without a byte order mark",
            next_step="correct the file, then run etrm data check --source SOURCE",
        ) from error


@dataclass(frozen=True)
class _Ambiguous:
    """A JSON object that has a key twice. No parser accepts it, so the error names it at its place in the task."""

    keys: str

    def __repr__(self) -> str:
        return f"an object with the key {self.keys} twice"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Ambiguous:
    double = find_repeated(key for key, _ in pairs)
    return _Ambiguous(", ".join(map(ascii, double[:10]))) if double else dict(pairs)
