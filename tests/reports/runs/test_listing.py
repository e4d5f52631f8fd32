"""Tables of runs, damaged ones among them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from etrm.errors import ConfigError, RunFolderError
from reports.runs.listing import (
    INVESTIGATION,
    SORTS,
    ListedRun,
    as_json,
    as_table,
    describe_foreign,
    describe_investigations,
    find_folders,
    list_runs,
)
from tests.errors import raises_code

Write = Callable[..., Path]


def entries(roots: Sequence[Path], sort: str = "folder") -> list[ListedRun]:
    return list_runs(find_folders(roots).runs, sort)


def names(root: Path, sort: str = "folder") -> list[str]:
    return [Path(entry.folder).name for entry in entries([root], sort)]


def test_every_run_below_is_found_once(tmp_path: Path, write_run: Write) -> None:
    write_run("b/two")
    write_run("a")
    write_run("b/deep/one")
    assert [entry.folder for entry in entries([tmp_path, tmp_path / "b"])] == [
        str(tmp_path / name) for name in ("a", "b/deep/one", "b/two")
    ]


def test_an_entry_has_what_its_folder_holds(write_run: Write) -> None:
    folder = write_run("run", faults=("cached-context",), train={"seed": 7}, checkpoints=(30,))
    (entry,) = entries([folder])
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
    "findings.json": ["{", "\0", "{}", "[1]", '[{"rule": "COV001"}]', '[{"rule": "COV001", "severity": 3}]'],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in DAMAGE.items() for text in texts])
def test_a_damaged_folder_is_listed_as_such_next_to_the_whole_ones(
    tmp_path: Path, write_run: Write, file: str, text: str
) -> None:
    (write_run("bad") / file).write_text(text)
    write_run("good", checkpoints=(30,))
    bad, good = entries([tmp_path])
    assert (bad.state, good.state) == ("damaged", "stopped")
    assert bad.detail
    assert file == "config.json" or file in bad.detail
    console = Console(file=io.StringIO(), width=180)
    console.print(as_table([bad, good], 180))
    assert "damaged" in console.file.getvalue()  # type: ignore[attr-defined]


def test_bytes_that_are_no_text_are_damage_too(write_run: Write) -> None:
    folder = write_run()
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert entries([folder])[0].state == "damaged"


def test_a_run_that_has_just_taken_its_lock_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").touch()
    (entry,) = entries([tmp_path])
    assert entry.state == "damaged"
    assert "config.json" in entry.detail


def test_json_has_the_same_entries(tmp_path: Path, write_run: Write) -> None:
    write_run("a", logged=0)
    write_run("b")
    listed = entries([tmp_path])
    read = json.loads(as_json(listed))
    assert [one["folder"] for one in read] == [entry.folder for entry in listed]
    assert read[1]["best"]["accuracy_all"] == listed[1].best["accuracy_all"]
    assert read[0]["best"]["accuracy_all"] is None


def test_no_folder_is_an_error_and_an_empty_one_a_list_without_entries(tmp_path: Path) -> None:
    assert entries([tmp_path]) == []
    with raises_code(RunFolderError, "runs.absent-folder", tmp_path / "none"):
        entries([tmp_path / "none"])
    (tmp_path / "file").touch()
    with raises_code(RunFolderError, "runs.not-a-folder", tmp_path / "file"):
        entries([tmp_path / "file"])


def test_a_config_of_another_program_is_skipped_and_named(tmp_path: Path, write_run: Write) -> None:
    run = write_run("run")
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"hidden_size": 8, "model_type": "bert"}')
    found = find_folders([tmp_path])
    assert (found.runs, found.foreign) == ((run,), (other,))
    assert str(other) in describe_foreign(found.foreign)
    assert describe_foreign(()) == ""
    (run / "config.json").write_text('{"damaged": true}')  # next to our other files
    assert find_folders([tmp_path]).runs == (run,)


def test_the_runs_of_an_investigation_are_listed_in_its_own_folder_alone(
    tmp_path: Path, write_run: Write
) -> None:
    run, *arms = (write_run(name) for name in ("run", "why/runs/one/seed0", "why/runs/two/seed0"))
    for name in (INVESTIGATION, "lock"):
        (tmp_path / "why" / name).touch()
    found = find_folders([tmp_path])
    assert (found.runs, found.foreign, found.investigations) == ((run,), (), ((tmp_path / "why", 2),))
    assert str(tmp_path / "why") in describe_investigations(found.investigations)
    assert describe_investigations(()) == ""
    assert find_folders([tmp_path / "why"]).runs == tuple(arms)
    assert find_folders([tmp_path / "why/runs"]).runs == tuple(arms)


def test_a_lock_of_other_work_is_no_run(tmp_path: Path, write_run: Write) -> None:
    """Of a benchmark, a suite of experiments, or a store."""
    run = write_run("experiments/runs/E0/seed0")
    (tmp_path / "store/shards").mkdir(parents=True)
    for name in ("experiments", "store"):
        (tmp_path / name / "lock").touch()
    found = find_folders([tmp_path])
    assert (found.runs, found.foreign) == ((run,), ())
    (tmp_path / "run.json").touch()
    (tmp_path / "lock").touch()  # a run without its config
    assert find_folders([tmp_path]).runs == (tmp_path, run)


@pytest.mark.parametrize("width", [80, 100, 160, 200])
def test_every_column_is_shown_at_every_width(tmp_path: Path, write_run: Write, width: int) -> None:
    write_run("a/run/with/a/long/name", faults=("cached-context",), train={"seed": 7}, checkpoints=(30,))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/lock").touch()
    console = Console(file=io.StringIO(), width=width)
    console.print(as_table(entries([tmp_path / "a", tmp_path / "broken"]), width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for shown in (
        "run",
        "state",
        "step",
        "accuracy",
        "exact",
        "loss",
        "coverage",
        "stopped",
        "damaged",
        "30/40",
    ):
        assert shown in words
    for detail in ("standard", "7", "cached-context"):
        assert detail in words
