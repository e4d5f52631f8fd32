"""Tables of runs, damaged ones among them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from etrm.errors import ConfigError, RunFolderError
from reports.runs.listing import SORTS, as_json, as_table, list_runs
from tests.errors import raises_code

Write = Callable[..., Path]


def names(root: Path, sort: str = "folder") -> list[str]:
    return [Path(entry.folder).name for entry in list_runs([root], sort)]


def test_every_run_below_is_found_once(tmp_path: Path, write_run: Write) -> None:
    write_run("b/two")
    write_run("a")
    write_run("b/deep/one")
    assert [entry.folder for entry in list_runs([tmp_path, tmp_path / "b"])] == [
        str(tmp_path / name) for name in ("a", "b/deep/one", "b/two")
    ]


def test_an_entry_has_what_its_folder_holds(write_run: Write) -> None:
    folder = write_run("run", faults=("cached-context",), train={"seed": 7}, checkpoints=(30,))
    (entry,) = list_runs([folder])
    assert (entry.state, entry.step, entry.steps, entry.seed) == ("stopped", 30, 40, 7)
    assert entry.faults == ("cached-context",)
    assert entry.wall_s == pytest.approx(15)
    assert entry.coverage == pytest.approx(0.5)
    assert entry.last["loss"] == pytest.approx(1.71)
    assert entry.model == "etrm, standard"


def test_runs_are_sorted_by_any_column_with_the_unknown_last(tmp_path: Path, write_run: Write) -> None:
    write_run("long", logged=30)
    write_run("short", logged=10)
    write_run("none", logged=0)
    assert names(write_run("more/two", logged=2).parent.parent, "step") == ["none", "two", "short", "long"]
    shutil.rmtree(tmp_path / "more")
    assert names(tmp_path, "accuracy_all") == ["short", "long", "none"]
    assert names(tmp_path, "-accuracy_all") == ["long", "short", "none"]
    assert names(tmp_path, "-step") == ["long", "short", "none"]
    for sort in SORTS:
        assert sorted(names(tmp_path, sort)) == ["long", "none", "short"]
    with raises_code(ConfigError, "runs.unknown-sort", repr("colour"), *SORTS):
        names(tmp_path, "colour")


DAMAGE = {
    "config.json": ["", "{", "[1]", '{"model": 3}', "\0" * 50],
    "metrics.jsonl": ["{\n", "\0\0\n", "7\n"],
    "run.json": ["{", "[]", "\0"],
    "findings.json": ["{"],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in DAMAGE.items() for text in texts])
def test_a_damaged_folder_is_listed_as_such_beside_the_whole_ones(
    tmp_path: Path, write_run: Write, file: str, text: str
) -> None:
    (write_run("bad") / file).write_text(text)
    write_run("good", checkpoints=(30,))
    bad, good = list_runs([tmp_path])
    assert (bad.state, good.state) == ("damaged", "stopped")
    assert bad.detail
    assert file == "config.json" or file in bad.detail
    console = Console(file=io.StringIO(), width=180)
    console.print(as_table([bad, good]))
    assert "damaged" in console.file.getvalue()  # type: ignore[attr-defined]


def test_bytes_that_are_no_text_are_damage_too(write_run: Write) -> None:
    folder = write_run()
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert list_runs([folder])[0].state == "damaged"


def test_a_run_that_has_just_taken_its_lock_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").touch()
    (entry,) = list_runs([tmp_path])
    assert entry.state == "damaged"
    assert "config.json" in entry.detail


def test_json_has_the_same_entries(tmp_path: Path, write_run: Write) -> None:
    write_run("a", logged=0)
    write_run("b")
    entries = list_runs([tmp_path])
    read = json.loads(as_json(entries))
    assert [one["folder"] for one in read] == [entry.folder for entry in entries]
    assert read[1]["best"]["accuracy_all"] == entries[1].best["accuracy_all"]
    assert read[0]["best"]["accuracy_all"] is None


def test_no_folder_is_an_error_and_an_empty_one_a_list_without_entries(tmp_path: Path) -> None:
    assert list_runs([tmp_path]) == []
    with raises_code(RunFolderError, "runs.absent-folder", tmp_path / "none"):
        list_runs([tmp_path / "none"])
