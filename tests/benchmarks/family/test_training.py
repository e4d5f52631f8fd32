from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.family import __main__ as program
from benchmarks.family import training
from benchmarks.family.device_episodes import NAMES, DeviceEpisodes
from benchmarks.family.training import Budget, Feed, load_evaluation, train_arm
from etrm.errors import ArgumentError
from tests.benchmarks.family.test_device_episodes import CPU, held_out


def test_no_task_is_fed_twice_and_combinations_are_balanced() -> None:
    budget = Budget(1.0, rows=100, candidates=1500)
    feed = Feed(DeviceEpisodes(held_out(), torch.Generator().manual_seed(0)), budget, torch.ones(len(NAMES)))
    taken = [feed.take(3) for _ in range(40)]
    grids = torch.cat([tasks.inputs.flatten(1) for tasks in taken])
    assert len(grids.unique(dim=0)) == len(grids)
    shares = torch.bincount(torch.cat([tasks.kinds for tasks in taken[20:]]), minlength=len(NAMES)) / 2000
    assert shares.min() > 0.05
    assert shares.max() < 0.2


def test_candidates_that_fill_no_batch_are_refused() -> None:
    episodes = DeviceEpisodes(held_out(), torch.Generator().manual_seed(0))
    feed = Feed(episodes, Budget(1.0, rows=100, candidates=100), torch.ones(len(NAMES)))
    with pytest.raises(ArgumentError, match="100"):
        feed.take(3)


def test_evaluation_tasks_are_those_of_the_family() -> None:
    tasks = load_evaluation(40, CPU)
    assert sum(len(some) for some in tasks.values()) == 40
    assert sorted(torch.cat([some.kinds for some in tasks.values()]).tolist()) == sorted(
        [*range(len(NAMES))] * 4
    )


def test_the_held_out_loss_is_a_mean_over_scored_tokens() -> None:
    """As that of training, which is compared with it; the token in the corner is not scored."""

    class Uniform:
        def encode(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return tokens

        def answer(
            self, context: torch.Tensor, inputs: torch.Tensor, positions: torch.Tensor
        ) -> torch.Tensor:
            return torch.zeros(*inputs.shape, 12)

    found = training.evaluate(Uniform(), load_evaluation(20, CPU))  # type: ignore[arg-type]  # what it calls
    assert found["loss"] == pytest.approx(math.log(12))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["--kinds", "shift,mirror"], "mirror"), ([], "base")],
    ids=["an unknown combination", "a folder that has lines"],
)
def test_what_would_train_on_something_else_is_refused(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.jsonl").touch()
    with pytest.raises(SystemExit) as caught:
        program.main(["--arm", "base", "--out", str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_writes_its_curve_and_its_last_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tiny.jsonl"
    tasks, budget = load_evaluation(20, CPU), Budget(0.5, rows=2, candidates=200, every=0.2)
    step = train_arm("tiny", program.ARMS["tiny"], budget, held_out(), tasks, out, torch.ones(len(NAMES)))
    training.finish("tiny", step, tasks, out, most=2)
    first, *curve, last = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert first["problem"] is None
    assert [line["step"] for line in curve] == sorted(line["step"] for line in curve)
    assert curve[-1]["episodes"] == curve[-1]["step"] * 8
    assert set(curve[-1]["raw"]["by_kind"]) == set(NAMES)
    assert last["search from noise"]["tasks"] == sum(min(2, len(some)) for some in tasks.values())
    assert set(torch.load(out.with_suffix(".tiny.pt"))["weights"]) >= {"core.H_init", "core.lm_head.weight"}


def test_only_the_best_arm_is_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms in processes that write their lines at once; the second one fails at its end."""
    lines = {"pooled": 2.0, "base": 1.0}

    class Process:
        def __init__(self, command: list[str]) -> None:
            self.name = command[-1]
            assert command.count("--arm") == 1
            (tmp_path / f"{self.name}.jsonl").write_text(
                json.dumps({"t": 9.0, "raw": {"loss": lines[self.name]}}) + "\n"
            )

        def poll(self) -> None:
            return None

        def wait(self) -> int:
            return int(self.name == "base")

    monkeypatch.setattr("subprocess.Popen", Process)
    (tmp_path / "held.npz").write_bytes(b"")
    held = str(tmp_path / "held.npz")
    with pytest.raises(SystemExit, match="base"):
        program.main(
            ["--arm", "pooled", "--arm", "base", "--first", "5", "--held", held, "--out", str(tmp_path)]
        )
    assert (tmp_path / "pooled.stop").exists()
    assert not (tmp_path / "base.stop").exists()
