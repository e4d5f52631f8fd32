"""`etrm data` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import etrm
from tests.errors import assert_holds


def test_data_show_draws_every_grid() -> None:
    done = etrm("data", "show", "0d3d703e")
    assert done.code == 0
    assert "4 demos, 1 tests" in done.out
    assert "9 5 4" in done.out


def test_data_show_draws_an_episode_as_the_model_sees_it() -> None:
    done = etrm("data", "show", "0d3d703e", "--augmentation", "3", "--query", "1")
    assert done.code == 0
    assert "0d3d703e|||t5|||0641738925" in done.out
    assert "8 of 8 grids exactly" in done.out
    refused = etrm("data", "show", "0d3d703e", "--augmentation", "3", "--query", "5")
    assert refused.code == 2
    assert_holds(refused.err, "data.unknown-query", 5)


def test_data_check_reads_both_subsets(tmp_path: Path) -> None:
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    task = {"train": [pair, {**pair, "input": [[3]]}], "test": [{**pair, "input": [[4]]}]}
    for name in ("training/a", "evaluation/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps(task), "utf-8")
    leaking = etrm("data", "check", "--source", str(tmp_path))
    assert leaking.code == 2
    assert_holds(leaking.err, "data.leakage", "b")
    other = {**task, "train": [{**pair, "input": [[5]]}, {**pair, "input": [[6]]}]}
    (tmp_path / "training/c.json").write_text(
        json.dumps({**other, "test": [{**pair, "input": [[7]]}]}), "utf-8"
    )
    done = etrm("data", "check", "--source", str(tmp_path), "--exclude", "a")
    assert done.code == 0, done.err
    assert "tasks in both subsets: none" in done.out
    for name in ("training/a", "evaluation/b"):
        (tmp_path / f"{name}.json").write_text("{", "utf-8")
    refused = etrm("data", "check", "--source", str(tmp_path))
    assert refused.code == 2
    assert_holds(
        refused.err, "data.not-json", tmp_path / "training" / "a.json", tmp_path / "evaluation" / "b.json"
    )


def test_a_store_is_built_checked_and_refused_when_altered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    build = ("data", "build", "--preset", "smoke", "--out", str(store))
    refused = etrm(*build)
    assert refused.code == 2
    assert_holds(refused.err, "store.fresh-augmentations", "data.augmentations=1000")
    built = etrm(*build, "--set", "data.augmentations=20")
    assert (built.code, built.err) == (0, "")  # no progress in a pipe
    assert "of 240 augmented tasks" in built.out
    shard = store / "shards" / "00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    broken = etrm("data", "check", "--store", str(store))
    assert broken.code == 2
    assert_holds(broken.err, "store.altered-file", shard)


@pytest.mark.parametrize("ignoring", [("--store", "nowhere"), ("--subset", "evaluation")])
def test_excluded_tasks_that_would_be_ignored_are_refused(ignoring: tuple[str, str]) -> None:
    done = etrm("data", "check", "--exclude", "40853293", *ignoring)
    assert (done.code, done.out) == (2, "")
    assert_holds(done.err, "--exclude", "would be ignored", ignoring[0], "cli.option-without-effect")
