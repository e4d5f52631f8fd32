"""Every way in which a file of tasks can be wrong: the error names the file, the task, the pair and the row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etrm.data import load_tasks
from etrm.errors import DataError, EtrmError
from tests.command_line import etrm
from tests.errors import assert_holds, raises_code

GRID = [[0, 1], [2, 3]]
PAIR = {"input": GRID, "output": GRID}
TASK = {"train": [PAIR, PAIR], "test": [PAIR]}


def with_grid(grid: Any) -> bytes:
    """A task whose second demonstration has this output."""
    return json.dumps({"train": [PAIR, {"input": GRID, "output": grid}], "test": [PAIR]}).encode()


Fault = tuple[str, str, object]
"""The code of an error, the place that it names, and what it says it found; None where that is not of ours."""

CELL = "row 0, column 0"
GRIDS: dict[str, tuple[Any, Fault]] = {
    "ragged": ([[1, 2], [3]], ("task.ragged-grid", "row 1", "rows of 2 and 1 cells")),
    "colour 10": ([[1, 10]], ("task.bad-colour", "row 0, column 1", 10)),
    "colour -1": ([[1], [-1]], ("task.bad-colour", "row 1, column 0", -1)),
    "bool": ([[True]], ("task.bad-colour", CELL, True)),
    "float": ([[1.0]], ("task.bad-colour", CELL, 1.0)),
    "string": ([["1"]], ("task.bad-colour", CELL, "'1'")),
    "null": ([[None]], ("task.bad-colour", CELL, "None")),
    "NaN": ([[float("nan")]], ("task.bad-colour", CELL, "nan")),
    "infinity": ([[float("-inf")]], ("task.bad-colour", CELL, "-inf")),
    "huge number": ([[10**4000]], ("task.bad-colour", CELL, None)),
    "list in a cell": ([[[1]]], ("task.bad-colour", CELL, "[1]")),
    "deep cell": ([[json.loads("[" * 400 + "]" * 400)]], ("task.bad-colour", CELL, None)),
    "31 rows": ([[0]] * 31, ("task.bad-size", "30", "31x1")),
    "31 columns": ([[0] * 31], ("task.bad-size", "30", "1x31")),
    "no rows": ([], ("task.not-a-grid", "", "[]")),
    "empty row": ([[]], ("task.bad-size", "30", "1x0")),
    "a row that is a number": ([[1], 2], ("task.row-not-a-list", "row 1", 2)),
    "flat": ([1, 2], ("task.row-not-a-list", "row 0", 1)),
    "object": ({"0": [1]}, ("task.not-a-grid", "", None)),
    "null grid": (None, ("task.no-output", "", "keys ['input', 'output']")),
}

TASKS: dict[str, tuple[Any, Fault]] = {
    "no demonstrations": ({**TASK, "train": []}, ("task.no-pairs", '"train"', "[]")),
    "no train key": ({"test": [PAIR]}, ("task.no-pairs", '"train"', "keys ['test']")),
    "no tests": ({**TASK, "test": []}, ("task.no-pairs", '"test"', "[]")),
    "train is an object": ({**TASK, "train": {"0": PAIR}}, ("task.no-pairs", '"train"', None)),
    "missing demo output": ({**TASK, "train": [{"input": GRID}]}, ("task.no-output", "train pair 0", None)),
    "missing test output": (
        {**TASK, "test": [PAIR, {"input": GRID}]},
        ("task.no-output", "test pair 1", "keys ['input']"),
    ),
    "missing input": ({**TASK, "test": [{"output": GRID}]}, ("task.no-input", "test pair 0", None)),
    "a pair that is a list": ({**TASK, "test": [[GRID, GRID]]}, ("task.no-input", "test pair 0", None)),
    "a list": ([TASK], ("task.not-an-object", "", None)),
    "a string": ("task", ("task.not-an-object", "", "'task'")),
    "null": (None, ("task.not-an-object", "", "None")),
}

NOT_JSON: Fault = ("data.not-json", "", None)
TOO_DEEP: Fault = ("data.nested-too-deep", "", None)
BYTES: dict[str, tuple[bytes, Fault]] = {
    "empty file": (b"", NOT_JSON),
    "not JSON": (b"train: []", NOT_JSON),
    "truncated": (json.dumps(TASK).encode()[:-5], NOT_JSON),
    "two values": (json.dumps(TASK).encode() * 2, NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(TASK).encode(), NOT_JSON),
    "latin-1": ('{"name": "é"}'.encode("latin-1"), NOT_JSON),
    "utf-16": (json.dumps(TASK).encode("utf-16"), NOT_JSON),
    "zeros": (bytes(1000), NOT_JSON),
    "nested too deep": (b"[" * 100_000, TOO_DEEP),
    "deep objects": (b'{"a":' * 100_000, TOO_DEEP),
    "a number of 5000 digits": (b"[" + b"1" * 5000 + b"]", NOT_JSON),
    "a key twice": (
        b'{"train": [], "train": [], "test": []}',
        ("task.not-an-object", "task bad", "an object with the key 'train' twice"),
    ),
    "a key twice in a pair": (
        b'{"train": [{"input": [[1]], "input": [[2]], "output": [[1]]}], "test": []}',
        ("task.no-input", "task bad, train pair 0", "an object with the key 'input' twice"),
    ),
}


def pair_of(grid: Any) -> str:
    """Where the grid of ``with_grid`` is."""
    return f"task bad, train pair 1{', output' * (grid is not None)}"


FILES: dict[str, tuple[bytes, str, Fault]] = (
    {f"grid, {name}": (with_grid(grid), pair_of(grid), fault) for name, (grid, fault) in GRIDS.items()}
    | {
        f"task, {name}": (json.dumps(task).encode(), "task bad", fault)
        for name, (task, fault) in TASKS.items()
    }
    | {f"bytes, {name}": (content, "", fault) for name, (content, fault) in BYTES.items()}
)


def check_refused(source: Path, fault: Fault, *where: object) -> None:
    """A source is refused with this fault, and the error names where it is."""
    code, place, got = fault
    with raises_code(DataError, code, *where, place, got=got) as caught:
        load_tasks(str(source))
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["task, null", "bytes, latin-1", "grid, huge number"])
def test_the_command_line_exits_2_with_a_message(tmp_path: Path, name: str) -> None:
    content, where, (code, place, _) = FILES[name]
    (tmp_path / "bad.json").write_bytes(content)
    ended = etrm("data", "check", "--source", tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert_holds(ended.err, tmp_path / "bad.json", code, where, place)


@pytest.mark.parametrize(("content", "where", "fault"), FILES.values(), ids=FILES)
def test_a_bad_file_of_a_folder_is_named(tmp_path: Path, content: bytes, where: str, fault: Fault) -> None:
    (tmp_path / "aaaa.json").write_text(json.dumps(TASK))
    (tmp_path / "bad.json").write_bytes(content)
    check_refused(tmp_path, fault, tmp_path / "bad.json", where)


KAGGLE = [
    *((task, "task bad", fault) for task, fault in TASKS.values() if fault[1] != "test pair 1"),
    *((json.loads(with_grid(grid)), pair_of(grid), fault) for grid, fault in GRIDS.values()),
]


@pytest.mark.parametrize(("task", "where", "fault"), KAGGLE)
def test_a_bad_task_of_a_challenges_file_is_named(
    tmp_path: Path, task: Any, where: str, fault: Fault
) -> None:
    file = tmp_path / "x_challenges.json"
    file.write_text(json.dumps({"good": TASK, "bad": task}))
    check_refused(file, fault, f"{file}: {where}")


KAGGLE_TEXTS: dict[str, tuple[str, Fault]] = {
    "an id twice": (
        '{"a": TASK, "a": TASK}',
        ("data.not-an-object-of-tasks", "", "an object with the key 'a' twice"),
    ),
    "ids that differ in case": ('{"ab": TASK, "AB": TASK}', ("data.duplicate-ids", "", "AB, ab")),
    "a list": ("[TASK]", ("data.not-an-object-of-tasks", "", None)),
    "empty": ("{}", ("data.not-an-object-of-tasks", "", "{}")),
    "one task": ("TASK", ("data.single-task-file", "", None)),
    "an id of half a character": ('{"\\ud800": TASK}', ("task.unprintable-id", "", r"'\ud800'")),
    "an empty id": ('{"": TASK}', ("task.unprintable-id", "", "''")),
    "an id with a line break": ('{"a\\nb": TASK}', ("task.unprintable-id", "", r"'a\nb'")),
}


@pytest.mark.parametrize(("text", "fault"), KAGGLE_TEXTS.values(), ids=KAGGLE_TEXTS)
def test_a_challenges_file_that_is_none_is_named(tmp_path: Path, text: str, fault: Fault) -> None:
    file = tmp_path / "x_challenges.json"
    file.write_text(text.replace("TASK", json.dumps(TASK)))
    check_refused(file, fault, file)


def loop(path: Path) -> None:
    (path / "a.json").symlink_to(path / "b.json")
    (path / "b.json").symlink_to(path / "a.json")


def dangling(path: Path) -> None:
    (path / "a.json").symlink_to(path / "nowhere")


def folder(path: Path) -> None:
    (path / "a.json").mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path / "a.json")


def device(path: Path) -> None:
    (path / "a.json").symlink_to("/dev/zero")


def below(path: Path) -> None:
    for name in ("one", "two"):
        (path / name).mkdir()
        (path / name / "same.json").write_text(json.dumps(TASK))


def cases(path: Path) -> None:
    for name in ("a.json", "A.json"):
        (path / name).write_text(json.dumps(TASK))
    if len(list(path.iterdir())) == 1:
        pytest.skip("a file system that knows no case")


def latin_name(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path) + b"/caf\xe9.json")).write_text(json.dumps(TASK))


PLACES: dict[Callable[[Path], None], Fault] = {
    loop: ("data.unreadable-file", "a.json", None),
    dangling: ("data.unreadable-file", "a.json", None),
    folder: ("data.unreadable-file", "a.json", "not a regular file"),
    pipe: ("data.unreadable-file", "a.json", "not a regular file"),
    device: ("data.unreadable-file", "a.json", "not a regular file"),
    below: ("data.no-task-files", "one, two", None),
    cases: ("data.duplicate-ids", "", "A, a"),
    latin_name: ("task.unprintable-id", "", r"'caf\udce9'"),
}


@pytest.mark.parametrize(("make", "fault"), PLACES.items(), ids=[make.__name__ for make in PLACES])
def test_a_place_that_holds_no_tasks_is_named(
    tmp_path: Path, make: Callable[[Path], None], fault: Fault
) -> None:
    make(tmp_path)
    check_refused(tmp_path, fault, tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: permissions mean nothing to root."""
    (tmp_path / "a.json").write_text(json.dumps(TASK))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with raises_code(DataError, "data.unreadable-file", tmp_path / "a.json", got="Permission denied"):
        load_tasks(str(tmp_path))


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b", "", "/dev/null", "/dev/zero", "\ud800"])
def test_a_source_that_is_no_path_is_refused(source: str) -> None:
    with pytest.raises(DataError):
        load_tasks(source)


def test_more_demonstrations_than_are_shown_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**TASK, "train": [PAIR] * 50}))
    assert len(load_tasks(str(tmp_path)).tasks[0].demos) == 50


# -- anything at all ----------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 9), st.floats(), st.text(max_size=3)
)
GRID_LIKE = st.lists(st.lists(st.one_of(st.integers(0, 9), LEAVES), max_size=4), max_size=4)
PAIR_LIKE = st.dictionaries(
    st.sampled_from(["input", "output", "x"]), st.one_of(GRID_LIKE, LEAVES), max_size=3
)
TREES = st.recursive(
    st.one_of(LEAVES, GRID_LIKE, PAIR_LIKE),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["train", "test", "input"]), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip
TASK_LIKE = st.fixed_dictionaries(
    {"train": st.lists(PAIR_LIKE, max_size=3), "test": st.lists(PAIR_LIKE, max_size=2)}
)
VALID = json.dumps(TASK).encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes changed, cut out or repeated."""
    content = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 8))
        content[at : at + length] = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"[", b"]", b'"', b"-", b"1e9", b"null", b","]))
        )
    return bytes(content)


@st.composite
def restructured(draw: st.DrawFn) -> bytes:
    """A valid task in which one node is replaced by anything."""
    task = json.loads(VALID)
    node: Any = {"root": task}
    key: Any = "root"
    while isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 4)):
        node = node[key]
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
    node[key] = draw(TREES)
    return json.dumps(task if key != "root" else node[key]).encode()


FUZZ = st.one_of(
    st.binary(max_size=60), mutated(), restructured(), st.one_of(TREES, TASK_LIKE).map(lambda t: json.dumps(t).encode())
)  # fmt: skip


def reads_or_refuses(path: Path, content: bytes) -> None:
    """As a folder's file and as a challenges file: tasks, or a DataError that names the file."""
    file = path / "bad.json"
    file.write_bytes(content)
    for source in (path, file):
        said = ""
        try:
            grids = [grid for task in load_tasks(str(source)) for grid in task.grids]
        except EtrmError as error:
            said, grids = str(error), []
        assert bool(said) != bool(grids)
        assert not said or (str(path) in said and len(said) < 2000)
        assert all(grid.min() >= 0 and grid.max() <= 9 for grid in grids)


FUZZING = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(content=FUZZ)
@FUZZING
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    reads_or_refuses(tmp_path, content)


@pytest.mark.slow
@given(content=FUZZ)
@settings(FUZZING, max_examples=12_000)
def test_any_file_is_read_or_refused_at_length(tmp_path: Path, content: bytes) -> None:
    reads_or_refuses(tmp_path, content)
