"""What scores a run, while it trains and afterwards, with the model on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etrm.config import Changes, EvaluateConfig, load, with_settings
from etrm.evaluation.voting import Predictor
from etrm.model.variant import Variant
from etrm.training.monitoring.step_check import read_compared
from etrm.training.scoring.fitted_scores import Fit
from etrm.training.scoring.held_out_curve import SOLVED
from etrm.training.scoring.predictor import make_predictor
from etrm.training.scoring.run_analysis import analyse_run
from etrm.training.scoring.score_run import score_run
from etrm.training.trainer import Trainer, train

BRIEF: Changes = {"train": {"threads": 1, "steps": 4, "warmup_steps": 0}, "evaluate": {"max_tasks": 3}}


def test_a_stream_is_trained_on_compared_and_evaluated_meanwhile(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(
        with_settings(load("rules"), **BRIEF),
        train={"batch_size": 8, "checkpoint_every": 4, "inner_steps": 1, "inner_rate": 0.1},
        data={"stream": 600},
        evaluate={"every": 2},
        monitor={"reference_every": 2},
    )
    scores: list[float] = []

    def keep(trainer: Trainer, line: dict[str, float]) -> None:
        assert trainer.device.type == device.type
        scores.extend([line[SOLVED]] if SOLVED in line else [])

    train(config, tmp_path / "run", on_step=keep)
    assert len(scores) == 2
    compared = read_compared(tmp_path / "run")
    assert compared
    assert not any(step.departures or step.absent for step in compared)

    used: list[str] = []

    def note(model: Variant, section: EvaluateConfig) -> Predictor:
        used.append(model.device.type)
        return make_predictor(model, section)

    monkeypatch.setattr("etrm.training.scoring.score_run.make_predictor", note)
    score_run(tmp_path / "run", {})
    assert used == [device.type] * 2  # the run and the untrained model


@pytest.mark.slow
def test_contexts_are_searched_weights_adapted_and_steps_analysed(
    device: torch.device, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(with_settings(load("smoke"), **BRIEF), run)
    brief: Changes = {
        "evaluate": {"search": {"steps": 2, "restarts": 2}, "adapt": {"steps": 2, "batch_size": 2}}
    }
    both, weights = (
        score_run(run, brief, search=True, adapted="context"),
        score_run(run, brief, adapted="weights"),
    )
    assert Fit.CONTEXT in both.fitted
    assert Fit.CONTEXT not in weights.fitted
    assert weights.fitted
    assert analyse_run(run, {}).steps
