"""`etrm train`, `etrm evaluate` and `etrm config` as a user meets them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from etrm.commands.options import PresetOption
from etrm.config import list_presets, load
from etrm.data import load_tasks
from tests.command_line import etrm
from tests.errors import assert_holds


def test_the_help_names_every_preset() -> None:
    (option,) = get_args(PresetOption)[1:]
    assert set(re.findall(r"[a-z-]+", option.help.partition(": ")[2])) - {"or"} == set(list_presets())


def test_train_then_evaluate_then_refuse_to_overwrite(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["--preset", "smoke", "--set", "train.steps=4", "--set", "train.puzzle_lr=.5", "--out", str(run)]
    done = etrm("train", *small)
    assert done.code == 0
    assert_holds(done.err, "train.puzzle_lr")  # which nothing reads
    assert etrm("train", *small).code == 2
    recorded = [(run / name).read_bytes() for name in ("findings.json", "run.json", "metrics.jsonl")]
    assert etrm("train", "--resume", "--out", str(run)).code == 0
    assert recorded == [(run / name).read_bytes() for name in ("findings.json", "run.json", "metrics.jsonl")]
    longer = etrm("train", "--resume", "--set", "train.steps=8", "--out", run)
    assert longer.code == 2
    assert re.findall(r"\w+\.\w+ \w+, was \w+", longer.err) == ["train.steps 8, was 4"]
    unwritten = etrm("evaluate", run, "--submission", run / "config.json" / "submission.json")
    assert unwritten.code == 2
    assert unwritten.out == ""  # refused before any task is answered
    done = etrm("evaluate", str(run), "--submission", str(tmp_path / "submission.json"))
    assert done.code == 0, done.err
    for name in ("this run", "copy input", "all black", "untrained model"):
        assert name in done.out
    assert_whole_submission(tmp_path / "submission.json", done.out)
    hidden = write_hidden_tasks(tmp_path / "hidden_challenges.json")
    unscored = etrm(
        "evaluate", run, "--set", f"evaluate.source={hidden}", "--submission", tmp_path / "own.json"
    )
    assert (unscored.code, unscored.err) == (0, "")
    assert_holds(unscored.out, "no scores", "2 tasks")
    assert len(json.loads((tmp_path / "own.json").read_text())) == 2
    again = etrm(
        "evaluate", run, "--json", "--set", f"evaluate.source={hidden}", "--submission", tmp_path / "own.json"
    )
    assert (again.code, json.loads(again.out)["report"], len(json.loads(again.out)["unscored"])) == (
        0,
        None,
        2,
    )
    assert_holds(again.err, "no scores", "own.json")
    printed = etrm("evaluate", run, "--json", "--set", "evaluate.max_tasks=3")
    assert (printed.code, printed.err) == (0, "")
    scores = json.loads(printed.out)
    assert (scores["step"], scores["evaluate"]["max_tasks"], scores["report"]["pass_at"]["1"]["asked"]) == (
        4,
        3,
        3,
    )
    assert {"all black", "untrained model"} < set(scores["baselines"])
    assert len({query["task_id"] for query in scores["report"]["queries"]}) == 3
    little = ["search.steps=1", "search.restarts=2", "adapt.steps=1", "augmentations=1"]
    settings = [word for setting in little for word in ("--set", f"evaluate.{setting}")]
    fitted = etrm("evaluate", run, "--search", "--adapt", "encoder", *settings)
    assert fitted.code == 0, fitted.err
    for name in ("this run", "searched", "searched, mismatched", "adapted", "adapted, searched"):
        assert name in fitted.out
    assert_holds(fitted.out, "s per task", "1 gradient steps per search")
    assert etrm("evaluate", run, "--adapt", "everything").code == 2


def test_the_command_that_resumes_a_run_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etrm.training.trainer.train", lambda *_, **__: False)  # as if Ctrl-C was pressed
    done = etrm("train", "--preset", "smoke", "--out", "my runs/a[/b]", cwd=tmp_path)
    command = done.err.strip().partition("resume with: ")[2]
    assert shlex.split(command) == ["etrm", "train", "--resume", "--out", "my runs/a[/b]"]


def write_hidden_tasks(file: Path) -> Path:
    """Write two tasks as Kaggle does, without the outputs of their tests."""
    kaggle = {
        task.id: {
            "train": [{"input": d.input.tolist(), "output": d.output.tolist()} for d in task.demos],
            "test": [{"input": pair.input.tolist()} for pair in task.tests],
        }
        for task in load_tasks("arc-agi-1", "evaluation", load("smoke").data.max_side, 2)
    }
    file.write_text(json.dumps(kaggle))
    return file


def test_training_prints_the_tasks_of_each_stage(tmp_path: Path) -> None:
    tasks = load_tasks("rules:recolour", "training", 30, 20)
    small = sum(task.demo_side <= 4 for task in tasks)
    settings = [
        "data.max_tasks=20",
        "data.curriculum=[[4, 1], [6, 2]]",
        "train.steps=3",
        "train.warmup_steps=0",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    done = etrm("train", "--preset", "symbolic-rules", *words, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    first, second = done.err.splitlines()[:2]
    assert_holds(first, 1, small, 1, 4)
    assert_holds(second, 2, 20 - small, 5, 6)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stage_tasks"] == [small, 20 - small]
    shown = etrm("watch", tmp_path / "run", "--once")
    assert_holds(shown.out, "largest side of the stage", "batches of earlier stages")


def assert_whole_submission(file: Path, printed: str) -> None:
    """Preset smoke evaluates 4 of the 6 tasks that fit into 5x5; all 400 are in the file."""
    tasks = load_tasks("arc-agi-1", "evaluation")
    small = sorted(task.id for task in tasks if task.max_side <= 5)
    reasons = {task.id: "max_side" for task in tasks if task.max_side > 5}
    reasons |= dict.fromkeys(small[4:], "max_tasks")
    submission = json.loads(file.read_text())
    listing = json.loads(file.with_name("submission.placeholders.json").read_text())
    assert (len(submission), listing["tasks"], len(reasons)) == (400, 400, 396)
    # What was evaluated may have no grid after four steps.
    evaluated = {name: "no_grid" for name in small[:4] if name in listing["placeholders"]}
    assert listing["placeholders"] == reasons | evaluated
    blank = {key: [[0, 0], [0, 0]] for key in ("attempt_1", "attempt_2")}
    assert all(blank in submission[name] for name in listing["placeholders"])
    for text in ("394 max_side", "2 max_tasks", "submission.placeholders.json"):
        assert text in printed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that holds the config of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(load("smoke", overrides=("train.seed=4",)).to_json())
    return folder


def test_the_output_of_a_pipe_is_a_config_file(tmp_path: Path) -> None:
    done = etrm("config", "--preset", "smoke", "--set", "train.lr=3e-4", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    path = tmp_path / "mine.toml"
    path.write_text(done.out)
    assert load(path=path) == load("smoke", overrides=("train.lr=3e-4",))
    again = etrm("config", "--config", "mine.toml", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(again.out)}
    assert rows["train.lr"]["source"] == {"kind": "file", "name": "mine.toml"}


def test_without_a_source_it_is_the_preset_that_commands_begin_with(tmp_path: Path) -> None:
    rows = json.loads(etrm("config", "--json", cwd=tmp_path).out)
    assert {"preset": "small"}.items() <= {row["name"]: row["value"] for row in rows}.items()


@pytest.mark.parametrize("place", ["run", "run/checkpoints/step_00000002"])
def test_a_run_or_its_checkpoint_is_shown_as_it_was_trained(run: Path, place: str, tmp_path: Path) -> None:
    done = etrm("config", place, "--set", "train.steps=7", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert (rows["train.seed"]["value"], rows["train.seed"]["source"]["kind"]) == (4, "run")
    assert (rows["train.steps"]["value"], rows["train.steps"]["source"]["kind"]) == (7, "--set")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("run", "--preset", "smoke"), "preset"),
        (("nowhere",), "nowhere"),
        (("--preset", "smok"), "'smoke'"),
        (("--set", "train.decoder='runs/it's here'"), "runs/it's here"),
        (("--set", "preset=smoke"), "--preset smoke"),
        (("run", "--set", "train.warmup_steps=999"), "999"),
    ],
)
def test_bad_input_is_exit_2_with_a_message(
    run: Path, words: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    done = etrm("config", *words, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert shown in done.err


def test_find_batch_size_prints_the_setting_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etrm.training.batch_size.MOST_ROWS", 2)
    words = ("train", "--preset", "smoke", "--find-batch-size")
    done = etrm(*words, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert_holds(done.out, "rows per second", "peak MiB", "--set train.batch_size=2")
    assert list(tmp_path.iterdir()) == []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    refused = etrm(*words)
    assert refused.code == 2
    assert_holds(refused.err, "cli.batch-search-launched")
