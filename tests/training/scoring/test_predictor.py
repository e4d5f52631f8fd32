from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from etrm.config import Changes, Config, EvaluateConfig
from etrm.data import Sample, build_evaluation_samples, load_tasks
from etrm.device import to_host
from etrm.errors import CheckpointError, ConfigError, LeakageError, RunFolderError
from etrm.evaluation import BASELINES
from etrm.evaluation.misleading import Misleading, Share
from etrm.model.solve import solve
from etrm.training.loss import act_loss
from etrm.training.scoring.predictor import (
    compute_mean_loss,
    load_model,
    make_batch,
    make_noisy,
    make_predictor,
    solve_samples,
)
from etrm.training.scoring.score_run import score_run, submit
from etrm.training.trainer import train
from tests.errors import raises_code

Smoke = Callable[..., Config]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, smoke: Smoke) -> Path:
    """A finished run of three steps."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    assert train(smoke("train.steps=3", "monitor.enabled=false"), folder)
    return folder


@pytest.fixture(scope="module")
def samples(tasks_folder: Path, smoke: Smoke) -> list[Sample]:
    return build_evaluation_samples(load_tasks(str(tasks_folder), "evaluation"), smoke().data, 2, seed=0)


@pytest.mark.parametrize(("weights", "file"), [("ema", "ema"), ("raw", "model")])
def test_a_model_is_loaded_with_the_weights_asked_for(run: Path, weights: str, file: str) -> None:
    model, config, tasks, step = load_model(run, weights)
    stored = load_file(run / "checkpoints" / "step_00000003" / f"{file}.safetensors")
    assert all(torch.equal(to_host(value), stored[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert (config.train.steps, len(tasks), step) == (3, 6, 3)


def test_answers_are_each_samples_own_tokens_whatever_stands_next_to_it(
    run: Path, samples: list[Sample]
) -> None:
    answer = make_predictor(load_model(run, "ema")[0])
    together = answer(samples)
    for sample, (tokens, q_halt) in zip(samples, together, strict=True):
        ((alone, q_alone),) = answer([sample])
        assert tokens.shape == sample.tokens.shape
        assert np.array_equal(tokens, alone)
        assert q_halt == pytest.approx(q_alone, abs=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_solving_leaves_the_mode_and_the_weights_as_they_were(
    run: Path, samples: list[Sample], training: bool
) -> None:
    model = load_model(run, "raw")[0].train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, output = solve_samples(model, samples)
    assert model.training is training
    assert not output.logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_mean_loss_is_that_of_the_last_step_per_scored_token(run: Path, samples: list[Sample]) -> None:
    model = load_model(run, "ema")[0]
    batch = make_batch(model, samples)
    expected = act_loss(solve(model, batch), batch.labels).lm.mean().item()
    assert compute_mean_loss(model, samples) == pytest.approx(expected)


def test_a_folder_without_a_run_or_checkpoint_is_named(tmp_path: Path, smoke: Smoke) -> None:
    with raises_code(RunFolderError, "run.absent", tmp_path):
        load_model(tmp_path, "ema")
    (tmp_path / "config.json").write_text(smoke().to_json())
    with raises_code(CheckpointError, "checkpoint.absent", tmp_path, "--resume") as caught:
        load_model(tmp_path, "ema")
    assert "--resume" in caught.value.next_step


def test_weights_that_do_not_fit_the_config_are_refused(run: Path, tmp_path: Path, smoke: Smoke) -> None:
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    (tmp_path / "config.json").write_text(smoke("model.context_tokens=5").to_json())
    with raises_code(CheckpointError, "checkpoint.does-not-fit-config", "step 3", "query_tokens") as caught:
        load_model(tmp_path, "ema")
    assert "query_tokens" in caught.value.got


# -- a whole evaluation -------------------------------------------------------------------------------


def test_a_run_is_scored_next_to_what_needs_no_learning(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "submission.json"
    scores = score_run(run, {"evaluate": {"weights": "raw"}})
    submitted = submit(scores, file)
    assert (submitted.tasks, submitted.path) == (3, file)
    assert (scores.step, scores.weights) == (3, "raw")
    assert [task.id for task in scores.held_out] == ["task100", "task101", "task102"]
    assert {"untrained model"} < set(scores.others)
    for report in (scores.model, *scores.others.values()):
        assert report.pass_at[1].asked == 3
    assert set(json.loads(file.read_text())) == {"task100", "task101", "task102"}


def test_settings_of_the_training_cannot_be_changed_afterwards(run: Path) -> None:
    with raises_code(ConfigError, "evaluate.other-section", "train"):
        score_run(run, {"train": {"lr": 3.0}, "evaluate": {"weights": "raw"}})


def test_the_untrained_model_has_the_weights_that_the_run_began_with(
    smoke: Callable[..., Config], tmp_path: Path
) -> None:
    still = smoke("train.steps=1", "train.warmup_steps=0", "train.lr=1e-30", "train.weight_decay=0")
    train(still, tmp_path / "still")
    scores = score_run(tmp_path / "still", {"evaluate": {"weights": "raw"}})
    assert scores.others["untrained model"].token_accuracy == scores.model.token_accuracy > 0


def test_misleading_scores_stand_next_to_the_right_one(run: Path) -> None:
    scores = score_run(run, {}, misleading=True)
    assert list(scores.misleading) == ["this run", *BASELINES]
    again = score_run(run, {}, misleading=True)
    assert again.misleading == scores.misleading  # noise included
    for name, found in scores.misleading.items():
        report = scores.model if name == "this run" else scores.others[name]
        first = report.pass_at[1]
        assert found[Misleading.TASKS] == Share.counted(first.solved, first.asked)
    assert not score_run(run, {}).misleading


def test_a_puzzle_table_has_no_misleading_scores(smoke: Callable[..., Config], tmp_path: Path) -> None:
    small = smoke("model.variant=trm", "data.augmentations=1", "train.steps=1", "train.warmup_steps=0")
    train(small, tmp_path / "trm")
    with raises_code(ConfigError, "evaluate.misleading-without-encoder", "trm"):
        score_run(tmp_path / "trm", {}, misleading=True)


def test_noise_is_in_the_copy_of_a_model_alone(run: Path) -> None:
    model, config, tasks, _ = load_model(run, "ema")
    samples = build_evaluation_samples(tasks, config.data, 1, 0)
    noisy = make_noisy(model)
    sound = [solve_samples(model, samples)[1].logits for _ in range(2)]
    drawn = [solve_samples(noisy, samples)[1].logits for _ in range(2)]
    assert torch.equal(*sound)
    assert not torch.equal(*drawn)
    assert not torch.equal(sound[0], drawn[0])


def test_a_submission_holds_the_whole_data_set_and_names_what_was_not_evaluated(
    run: Path, tmp_path: Path
) -> None:
    submit(score_run(run, {"evaluate": {"max_tasks": 1}}), tmp_path / "submission.json")
    assert set(json.loads((tmp_path / "submission.json").read_text())) == {"task100", "task101", "task102"}
    found = json.loads((tmp_path / "submission.placeholders.json").read_text())
    assert found["tasks"] == 3
    found["placeholders"].pop("task100", None)  # evaluated: three steps may not be enough for a grid
    assert found["placeholders"] == {"task101": "max_tasks", "task102": "max_tasks"}


def test_scoring_what_was_trained_on_is_refused(run: Path) -> None:
    with raises_code(LeakageError, "data.leakage", "4 of 4"):
        score_run(run, {"evaluate": {"subset": "training"}})
    allowed: Changes = {"evaluate": {"subset": "training", "allow_trained": ("all",)}}
    assert score_run(run, allowed).model.pass_at[1].asked == 4


@pytest.mark.filterwarnings("ignore:evaluate.precision bfloat16 is little faster")
def test_products_are_computed_in_the_precision_of_the_evaluation(run: Path, samples: list[Sample]) -> None:
    model = load_model(run, "ema")[0]
    exact, low = (
        [q for _, q in make_predictor(model, EvaluateConfig(precision=p))(samples)]
        for p in ("float32", "bfloat16")
    )
    assert low != exact
    assert low == pytest.approx(exact, abs=0.05)
    assert model.core.H_init.dtype == torch.float32
    with pytest.warns(UserWarning, match="evaluate.precision"):  # as a CPU is no faster with it
        score_run(run, {"evaluate": {"precision": "bfloat16"}})


def test_a_device_without_the_precision_is_refused_before_anything_is_answered(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(run, "ema")[0]
    monkeypatch.setattr(type(model), "device", torch.device("mps"))
    with raises_code(ConfigError, "train.no-bfloat16", "evaluate.precision", "mps"):
        make_predictor(model, EvaluateConfig(precision="bfloat16"))
