"""The held-out curve of a run: the numbers of an evaluation, in a training that does not notice it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config
from etrm.errors import CheckpointError, DataError
from etrm.training.scoring.held_out_curve import BEST, SOLVED, TOKENS, HeldOutScore
from etrm.training.scoring.predictor import load_model
from etrm.training.scoring.score_run import evaluate_run
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]
CURVE = ("train.steps=6", "train.checkpoint_every=2", "evaluate.every=2", "evaluate.augmentations=2")


@pytest.fixture(scope="module")
def run(smoke: Smoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "run"
    train(smoke(*CURVE, "train.keep_checkpoints=9"), folder)
    return folder


def test_the_curve_is_what_evaluate_measures(run: Path) -> None:
    lines = {line["step"]: line for line in read_metrics(run) if SOLVED in line}
    assert list(lines) == [2, 4, 6]
    found = evaluate_run(run, {}).report
    assert lines[6][TOKENS] == found.token_accuracy
    assert lines[6][SOLVED] == found.pass_at[1].solved / found.pass_at[1].asked


def test_the_best_checkpoint_is_kept_and_evaluated(run: Path) -> None:
    lines = [line for line in read_metrics(run) if SOLVED in line]
    best = max(lines, key=lambda line: (line[SOLVED], line[TOKENS]))["step"]
    (kept,) = list_saved(run / BEST)
    assert checkpoints.read(kept).step == best
    assert load_model(run, "ema", which="best")[3] == best
    assert evaluate_run(run, {"evaluate": {"checkpoint": "best"}}).step == best


def test_training_does_not_notice_the_curve(smoke: Smoke) -> None:
    watched, alone = Trainer(smoke(*CURVE)), Trainer(smoke(*CURVE, "evaluate.every=none"))
    assert watched.run()
    assert alone.run()
    first, second = watched.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(watched.halting.get_state(), alone.halting.get_state())


def test_a_resumed_run_recalls_its_best_score(smoke: Smoke, tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "run"

    def stop(trainer: Trainer, metrics: dict[str, object]) -> None:
        if metrics["step"] == 4:
            raise KeyboardInterrupt

    config = smoke(*CURVE, "train.keep_checkpoints=9")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder, on_step=stop)
    assert train(config, folder, resume=True)
    assert [path.name for path in (folder / BEST).iterdir()] == [path.name for path in (run / BEST).iterdir()]
    assert (folder / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_a_run_without_a_curve_has_no_best_checkpoint(smoke: Smoke, tmp_path: Path) -> None:
    train(smoke("train.steps=1", "train.warmup_steps=0"), tmp_path / "run")
    with raises_code(CheckpointError, "checkpoint.no-best"):
        load_model(tmp_path / "run", "ema", which="best")


def test_a_table_without_rows_for_the_tasks_is_refused_before_a_step(smoke: Smoke) -> None:
    table = smoke("model.variant=trm", "data.augmentations=4", "evaluate.every=2")
    with raises_code(DataError, "data.untrained-tasks"):
        Trainer(table)


def test_tasks_without_outputs_are_refused_before_a_step(smoke: Smoke, tmp_path: Path) -> None:
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    file = tmp_path / "challenges.json"
    file.write_text(json.dumps({"unknown": {"train": [pair], "test": [{"input": [[3, 1]]}]}}))
    with raises_code(DataError, "evaluate.unknown-outputs", "unknown"):
        Trainer(smoke(*CURVE, f"evaluate.source={file}"))


def test_a_score_is_better_by_tasks_first_and_tokens_next() -> None:
    scores = [HeldOutScore(0.5, 0.1, 1.0, 4), HeldOutScore(0.2, 0.9, 1.0, 4), HeldOutScore(0.5, 0.2, 2.0, 4)]
    assert max(scores, key=lambda score: score.order) is scores[2]
    assert scores[2].timing == {"evaluation_seconds": 2.0, "queries_per_second": 2.0}
