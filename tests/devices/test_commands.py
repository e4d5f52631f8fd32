"""The commands of the README, from end to end, with models on a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cli
from etrm.investigation.runs import launchers as launch
from tests.investigation.planted import inline

Run = Callable[..., str]


@pytest.fixture
def etrm(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder of its own and in this process, for another one would know no simulated device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "processes", lambda jobs: inline().open(tmp_path))

    def run(*words: str, code: int = 0) -> str:
        found = CliRunner().invoke(cli.app, words, catch_exceptions=False)
        assert found.exit_code == code, found.output
        return found.output

    return run


SHORT = (
    "--preset",
    "smoke",
    "--set",
    "train.steps=4",
    "--set",
    "train.threads=1",
    "--set",
    "train.warmup_steps=0",
    "--set",
    "train.batch_size=4",
    "--set",
    "model.halt.max_steps=2",
    "--set",
    "monitor.reference_every=none",  # compared steps on the device are a test of their own
)


def test_a_run_and_what_is_made_of_it(etrm: Run) -> None:
    for name in ("mine", "other"):
        etrm("train", *SHORT, "--set", f"train.seed={len(name)}", "--out", f"runs/{name}")
    etrm("train", "--resume", "--out", "runs/mine")
    etrm("evaluate", "runs/mine", "--submission", "answers.json")
    etrm("predictions", "runs/mine", "--out", "answers.png")
    etrm("compare", "runs/mine", "runs/other")
    etrm("runs")
    etrm("plot", "runs/mine", "--keys", "loss,encoder.coverage", "--out", "curve.png")
    (checkpoint,) = Path("runs/mine/checkpoints").glob("*4*")
    etrm("checkpoint", "inspect", str(checkpoint))
    etrm("checkpoint", "export", "runs/mine", "--out", "weights.safetensors")
    assert all(Path(name).exists() for name in ("answers.json", "answers.png", "curve.png"))


@pytest.mark.slow
def test_a_run_is_investigated(etrm: Run) -> None:
    etrm("train", *SHORT, "--out", "mine")
    brief = ("--hypotheses", "H1", "--seeds", "1", "--no-experiments")
    etrm("investigate", "mine", *brief, "--out", "of-a-run")
    assert Path("of-a-run/index.md").exists()


@pytest.mark.slow
def test_the_experiments(etrm: Run) -> None:
    brief = ("--seeds", "1", "--jobs", "1")
    etrm("experiment", "run", "E7", *SHORT, *brief, "--out", "experiments")
    etrm("frozen-decoder", *SHORT, *brief, "--pretrain-steps", "4", "--out", "frozen")
    assert Path("experiments/index.md").exists()
    assert Path("frozen/result.json").exists()
