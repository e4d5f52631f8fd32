"""What differs between runs, which belong together, and what is in doubt."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from etrm.config import load
from etrm.errors import ConfigError
from reports.plots.run_plot import plot_comparison
from reports.runs.compare import DoubtCode, as_tables, compare
from reports.runs.groups import find_differing, group_by_setting, read_settings
from tests.errors import raises_code

Write = Callable[..., Path]


def configs(*overrides: tuple[str, ...]) -> list[object]:
    return [load("smoke", overrides=one) for one in overrides]


def shown(*folders: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(as_tables(compare(folders), 200))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_settings_can_be_given_back_and_give_the_same_config() -> None:
    config = load("small", overrides=("train.lr=0.5", 'faults=["cached-context"]'))
    flat = read_settings(config)
    assert flat["train.lr"] == 0.5
    preset = flat.pop("preset")
    assert load(preset, overrides=tuple(f"{key}={_toml(value)}" for key, value in flat.items())) == config


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "none" if value is None else f'"{value}"' if isinstance(value, str) else str(value).lower()


def test_only_what_differs_is_named() -> None:
    found = find_differing(configs(("train.lr=0.1",), ("train.lr=0.2",), ("train.lr=0.1", "train.seed=3")))
    assert found == {"train.lr": [0.1, 0.2, 0.1], "train.seed": [0, 0, 3]}
    assert find_differing(configs((), ())) == {}


def test_runs_that_differ_by_the_seed_share_an_arm_and_no_others_do() -> None:
    assert group_by_setting(configs(("train.seed=1",), ("train.seed=2",))) == ["smoke", "smoke"]
    fault = 'faults=["cached-context"]'
    assert group_by_setting(configs((), (fault,), ("train.seed=2",))) == [
        "smoke",
        "smoke with cached-context",
        "smoke",
    ]
    names = group_by_setting(configs(("train.lr=0.1",), ("train.lr=0.2",), ("train.lr=0.2", "train.seed=5")))
    assert names == ["smoke, lr 0.1", "smoke, lr 0.2", "smoke, lr 0.2"]


def test_what_the_names_of_arms_say_is_not_said_again() -> None:
    fault = 'faults=["cached-context"]'
    names = group_by_setting(configs(("train.lr=0.1",), ("train.lr=0.2",), ("train.lr=0.2", fault)))
    assert names == ["smoke, lr 0.1", "smoke, lr 0.2", "smoke with cached-context, lr 0.2"]


def test_numbers_stand_next_to_their_difference_from_the_first(write_run: Write) -> None:
    text = shown(write_run("a", logged=20), write_run("b", train={"lr": 0.5}, logged=30))
    (loss,) = (line.split() for line in text.splitlines() if line.startswith("loss"))
    assert loss == ["loss", "1.805", "1.710", "(-0.09500)"]
    assert "train.lr" in text
    assert "train.seed" not in text


def test_seeds_are_averaged_with_each_next_to_the_mean(write_run: Write) -> None:
    text = shown(write_run("a", logged=20), write_run("b", train={"seed": 1}, logged=30))
    assert "0.2425 (0.1950, 0.2900)" in text


def test_a_mean_over_seeds_wants_every_seed(write_run: Write) -> None:
    text = shown(write_run("a", logged=20), write_run("b", train={"seed": 1}, logged=0))
    (row,) = (line for line in text.splitlines() if line.startswith("smoke"))
    assert row.split() == ["smoke", "2", "—", "—", "—"]


def test_lines_that_are_no_record_are_a_doubt(write_run: Write) -> None:
    folders = [write_run("a"), write_run("b")]
    with (folders[1] / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    (doubt,) = compare(folders).doubts
    assert doubt.code is DoubtCode.BROKEN_LINES
    assert doubt.words.startswith(folders[1].name)


@pytest.mark.parametrize(
    ("first", "second", "doubt"),
    [
        ({"data_hash": "a"}, {"data_hash": "b"}, DoubtCode.DATA),
        ({"commit": "a"}, {"commit": "b"}, DoubtCode.COMMIT),
        ({"versions": {"torch": "1"}}, {"versions": {"torch": "2"}}, DoubtCode.VERSIONS),
        ({"hardware": "x"}, {"hardware": "y"}, DoubtCode.HARDWARE),
        ({"device": "cpu: x"}, {"device": "cuda: y"}, DoubtCode.DEVICE),
        ({"dirty": True}, {"dirty": False}, DoubtCode.UNCOMMITTED),
    ],
)
def test_records_that_differ_are_doubts(
    write_run: Write, first: dict[str, object], second: dict[str, object], doubt: DoubtCode
) -> None:
    folders = [write_run("a", record=first), write_run("b", record=second)]
    (found,) = compare(folders).doubts
    assert found.code is doubt
    assert compare([folders[0], write_run("c", record=first | {"dirty": False})]).doubts in ([], [found])


def test_runs_that_stand_at_different_steps_are_a_doubt(write_run: Write) -> None:
    (doubt,) = compare([write_run("a", logged=20), write_run("b")]).doubts
    assert doubt.code is DoubtCode.STEPS
    assert all(step in doubt.words for step in ("20", "30"))


def test_figures_of_what_all_runs_logged(tmp_path: Path, write_run: Write) -> None:
    found = compare([write_run("a"), write_run("b", train={"seed": 1})])
    files = plot_comparison(found, tmp_path / "new" / "figures")
    assert {file.name for file in files} == {
        "accuracy_all.png", "exact_all.png", "loss.png", "steps_at_halt.png", "encoder-coverage.png",
        "core-coverage.png",
    }  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_one_run_is_nothing_to_compare(write_run: Write) -> None:
    with raises_code(ConfigError, "compare.single-run"):
        compare([write_run()])
