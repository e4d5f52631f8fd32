"""Every way in which a file of tasks can be wrong: the error names the file, the task, the pair and the row."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cli
from etrm.data import load_tasks
from etrm.errors import DataError, EtrmError

GRID = [[0, 1], [2, 3]]
PAIR = {"input": GRID, "output": GRID}
TASK = {"train": [PAIR, PAIR], "test": [PAIR]}


def with_grid(grid: Any) -> bytes:
    """A task whose second demonstration has this output."""
    return json.dumps({"train": [PAIR, {"input": GRID, "output": grid}], "test": [PAIR]}).encode()


GRIDS = {
    "ragged": ([[1, 2], [3]], "is ragged: row 1 is not as long as row 0"),
    "colour 10": ([[1, 10]], "holds something but a colour at row 0, column 1\n  got:     10"),
    "colour -1": ([[1], [-1]], "holds something but a colour at row 1, column 0\n  got:     -1"),
    "bool": ([[True]], "holds something but a colour at row 0, column 0\n  got:     True"),
    "float": ([[1.0]], "holds something but a colour at row 0, column 0\n  got:     1.0"),
    "string": ([["1"]], "holds something but a colour at row 0, column 0\n  got:     '1'"),
    "null": ([[None]], "holds something but a colour at row 0, column 0\n  got:     None"),
    "NaN": ([[float("nan")]], "holds something but a colour at row 0, column 0\n  got:     nan"),
    "infinity": ([[float("-inf")]], "holds something but a colour at row 0, column 0\n  got:     -inf"),
    "huge number": ([[10**4000]], "holds something but a colour at row 0, column 0\n  got:     a number of"),
    "list in a cell": ([[[1]]], "holds something but a colour at row 0, column 0"),
    "deep cell": ([[json.loads("[" * 400 + "]" * 400)]], "holds something but a colour at row 0, column 0"),
    "31 rows": ([[0]] * 31, "has a bad size\n  got:     31x1\n  allowed: sides from 1 to 30"),
    "31 columns": ([[0] * 31], "has a bad size\n  got:     1x31"),
    "no rows": ([], "is not a grid\n  got:     []"),
    "empty row": ([[]], "has a bad size\n  got:     1x0"),
    "a row that is a number": ([[1], 2], "is not a grid: row 1 is no list\n  got:     2"),
    "flat": ([1, 2], "is not a grid: row 0 is no list"),
    "object": ({"0": [1]}, "is not a grid"),
    "null grid": (None, "has no output"),
}

TASKS = {
    "no demonstrations": ({**TASK, "train": []}, "task bad has no demonstrations\n  got:     []"),
    "no train key": ({"test": [PAIR]}, "task bad has no demonstrations\n  got:     keys ['test']"),
    "no tests": ({**TASK, "test": []}, "task bad has no test pairs"),
    "train is an object": ({**TASK, "train": {"0": PAIR}}, "task bad has no demonstrations"),
    "missing demo output": ({**TASK, "train": [{"input": GRID}]}, "task bad, train pair 0 has no output"),
    "missing test output": ({**TASK, "test": [PAIR, {"input": GRID}]}, "task bad, test pair 1 has no output"),
    "missing input": ({**TASK, "test": [{"output": GRID}]}, "task bad, test pair 0 has no input"),
    "a pair that is a list": ({**TASK, "test": [[GRID, GRID]]}, "task bad, test pair 0 has no input"),
    "a list": ([TASK], "task bad is not an object"),
    "a string": ("task", "task bad is not an object\n  got:     'task'"),
    "null": (None, "task bad is not an object\n  got:     None"),
}

BYTES = {
    "empty file": (b"", "is not JSON\n  got:     an empty file\n  allowed: JSON, in UTF-8"),
    "not JSON": (b"train: []", "is not JSON"),
    "truncated": (json.dumps(TASK).encode()[:-5], "is not JSON"),
    "two values": (json.dumps(TASK).encode() * 2, "is not JSON\n  got:     Extra data"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(TASK).encode(), "is not JSON\n  got:     Unexpected UTF-8"),
    "latin-1": ('{"name": "é"}'.encode("latin-1"), "is not JSON\n  got:     'utf-8'"),
    "utf-16": (json.dumps(TASK).encode("utf-16"), "is not JSON"),
    "zeros": (bytes(1000), "is not JSON"),
    "nested too deep": (b"[" * 100_000, "lists or objects nested too deep"),
    "deep objects": (b'{"a":' * 100_000, "lists or objects nested too deep"),
    "a number of 5000 digits": (b"[" + b"1" * 5000 + b"]", "is not JSON\n  got:     Exceeds the limit"),
    "a key twice": (
        b'{"train": [], "train": [], "test": []}',
        "task bad is not an object\n  got:     an object with 'train' twice",
    ),
    "a key twice in a pair": (
        b'{"train": [{"input": [[1]], "input": [[2]], "output": [[1]]}], "test": []}',
        "task bad, train pair 0 has no input\n  got:     an object with 'input' twice",
    ),
}  # fmt: skip

FILES = (
    {f"grid, {name}": (with_grid(grid), f"task bad, train pair 1{', output' * (grid is not None)} {message}")
     for name, (grid, message) in GRIDS.items()}
    | {f"task, {name}": (json.dumps(task).encode(), message) for name, (task, message) in TASKS.items()}
    | {f"bytes, {name}": value for name, value in BYTES.items()}
)  # fmt: skip


def refused(source: Path) -> str:
    """What is said of a source that is refused."""
    with pytest.raises(DataError) as caught:
        load_tasks(str(source))
    return str(caught.value)


@pytest.mark.parametrize("name", ["task, null", "bytes, latin-1", "grid, huge number"])
def test_the_command_line_exits_2_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content, message = FILES[name]
    (tmp_path / "bad.json").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["etrm", "data", "check", "--source", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert (caught.value.code, printed.out) == (2, "")
    assert message in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_bad_file_of_a_folder_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "aaaa.json").write_text(json.dumps(TASK))
    (tmp_path / "bad.json").write_bytes(content)
    said = refused(tmp_path)
    assert message in said
    assert said.startswith(str(tmp_path / "bad.json"))
    assert len(said) < 700


KAGGLE = [
    *((task, message) for task, message in TASKS.values() if "test pair 1" not in message),
    *((json.loads(with_grid(grid)), message) for grid, message in GRIDS.values()),
]


@pytest.mark.parametrize(("task", "message"), KAGGLE)
def test_a_bad_task_of_a_challenges_file_is_named(tmp_path: Path, task: Any, message: str) -> None:
    file = tmp_path / "x_challenges.json"
    file.write_text(json.dumps({"good": TASK, "bad": task}))
    with pytest.raises(DataError, match="^" + re.escape(f"{file}: task bad")) as caught:
        load_tasks(str(file))
    assert message in str(caught.value)


KAGGLE_TEXTS = {
    "an id twice": ('{{"a": {t}, "a": {t}}}', "is not an object of tasks\n  got:     an object with 'a' twice"),
    "ids that differ in case": ('{{"ab": {t}, "AB": {t}}}', "task ids stand there twice\n  got:     AB, ab"),
    "a list": ("[{t}]", "is not an object of tasks"),
    "empty": ("{{}}", "is not an object of tasks\n  got:     {{}}"),
    "one task": ("{t}", "is one task, not a Kaggle challenges file"),
    "an id of half a character": ('{{"\\ud800": {t}}}', "a task id cannot be written\n  got:     '\\ud800'"),
    "an empty id": ('{{"": {t}}}', "a task id cannot be written\n  got:     ''"),
    "an id with a line break": ('{{"a\\nb": {t}}}', "a task id cannot be written\n  got:     'a\\nb'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), KAGGLE_TEXTS.values(), ids=KAGGLE_TEXTS)
def test_a_challenges_file_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x_challenges.json"
    file.write_text(text.format(t=json.dumps(TASK)))
    said = refused(file)
    assert message.replace("{{}}", "{}") in said
    assert str(file) in said


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


PLACES = {
    loop: r"cannot read .*a\.json",
    dangling: r"cannot read .*a\.json",
    folder: r"cannot read .*a\.json\n  got:     no plain file",
    pipe: r"cannot read .*a\.json\n  got:     no plain file",
    device: r"cannot read .*a\.json\n  got:     no plain file",
    below: r"no task files in .*\n  got:     \.json files in subfolders: one, two",
    cases: r"task ids stand there twice\n  got:     A, a",
    latin_name: r"a task id cannot be written\n  got:     'caf\\udce9'",
}


@pytest.mark.parametrize(("make", "message"), PLACES.items(), ids=[make.__name__ for make in PLACES])
def test_a_place_that_holds_no_tasks_is_named(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path)
    assert re.search(message, refused(tmp_path))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: permissions mean nothing to root."""
    (tmp_path / "a.json").write_text(json.dumps(TASK))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot read .*a\.json\n  got:     Permission denied"):
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
