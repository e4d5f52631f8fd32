"""Comparisons of a whole config: steps, tasks, loader, evaluator and the decoder that it starts from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from etrm.checkpoints.run_folder import read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config, EvaluateConfig, load, with_settings
from etrm.evaluation import Predictor, baselines
from etrm.investigation.reference_comparison import reference_check
from etrm.investigation.reference_comparison.reference_check import (
    LAST_STEP,
    ReferenceFacts,
    check_course,
    check_evaluated,
    check_start,
)
from etrm.model.encoders.variational import Latent
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.execution.prefetch import Prefetch
from etrm.training.monitoring.step_check import ComparedStep
from etrm.training.scoring import predictor
from etrm.training.scoring.held_out_curve import TOKENS, HeldOutCurve, HeldOutScore
from etrm.training.scoring.predictor import make_predictor
from etrm.training.trainer import Trainer, train


def config_of(**changes: object) -> Config:
    small = with_settings(
        load("smoke"), data={"max_tasks": 6, "max_side": 3}, train={"batch_size": 4, "threads": 1}
    )
    return with_settings(small, **changes)  # type: ignore[arg-type]


def test_a_healthy_config_departs_nowhere() -> None:
    found = check_start(config_of())
    assert found.departures == []
    assert found.compared == LAST_STEP


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("demos-from-other-task", PipelineStage.DATA),
        pytest.param("context-ignored", PipelineStage.CONTEXT, marks=pytest.mark.slow),
        ("context-detached", PipelineStage.GRADIENT),
        ("no-clip-spikes", PipelineStage.CLIPPING),
        pytest.param("lr-too-high", PipelineStage.SCHEDULE, marks=pytest.mark.slow),
        # test_recorded_evaluation.py has these two, and test_later_training.py another of the answers
        pytest.param("no-inverse", PipelineStage.VOTES, marks=pytest.mark.slow),
        pytest.param("divide-by-all", PipelineStage.SCORE, marks=pytest.mark.slow),
        ("eval-raw", PipelineStage.WEIGHTS),
        pytest.param("noisy-evaluation", PipelineStage.ANSWERS, marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_named_at_its_stage(fault: str, stage: PipelineStage) -> None:
    first = check_start(config_of(faults=(fault,))).first
    assert first is not None
    assert first.stage is stage


def test_a_factor_of_what_is_zero_at_first_is_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise times the variance, whose logarithm is zero in a new model, changes its gradient alone."""

    def forward(self: Latent, x: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        wide = 2 * self.logvar_proj(x)
        mu, kl = self.mu_proj(x), latent(self, x, noise)[1]
        assert not self.training or noise is not None
        return mu if noise is None else mu + (0.5 * wide).exp() * noise, kl

    latent = Latent.forward
    monkeypatch.setattr(Latent, "forward", forward)
    found = check_start(config_of(model={"encoder": {"kind": "lpn_variational"}}))
    assert found.steps[0].departures[0].stage is PipelineStage.GRADIENT
    assert found.first is not None
    assert found.first.stage is PipelineStage.CONTEXT


def test_a_wrong_baseline_is_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score of a model is compared with theirs."""
    wrong = {**baselines.BASELINES, "all black": baselines.copy_input}
    monkeypatch.setattr(baselines, "BASELINES", wrong)
    first = check_start(config_of()).first
    assert first is not None
    assert first.stage in (PipelineStage.VOTES, PipelineStage.SCORE)


@pytest.mark.parametrize("kind", ["standard", "hybrid_variational"])
def test_a_run_that_diverges_departs_nowhere(kind: str) -> None:
    """The reference computes no numbers either."""
    train = {"lr": 1e30, "warmup_steps": 0}
    found = check_start(config_of(model={"encoder": {"kind": kind}}, train=train))
    assert (found.departures, found.compared) == ([], 2)
    assert "not finite" in found.error


def test_no_step_after_one_that_departs_is_compared() -> None:
    found = check_start(config_of(faults=("context-ignored",)))
    assert found.compared == 1
    assert {departure.step for departure in found.departures} <= {1, None}


@pytest.fixture
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fits at test time, which the healthy config above has."""
    monkeypatch.setattr(reference_check, "compare_fits", lambda trainer: [])


@pytest.mark.usefixtures("no_fits")
def test_a_decoder_that_is_not_loaded_is_the_loading(tmp_path: Path) -> None:
    source = config_of(
        model={"variant": "trm"}, data={"augmentations": 1}, train={"steps": 2, "warmup_steps": 1}
    )
    train(source, tmp_path / "trm")
    config = config_of(train={"decoder": tmp_path / "trm"})
    assert list(reference_check._check_loading(Trainer(config))) == []
    first = check_start(with_settings(config, faults=("decoder-raw-for-ema",))).first
    assert first is not None
    assert first.stage is PipelineStage.LOADING


def test_the_first_departing_step_comes_first() -> None:
    late, early = (
        Departure(PipelineStage.DATA, "a", 1, 0, step=9),
        Departure(PipelineStage.UPDATE, "b", 1, 0, step=2),
    )
    facts = ReferenceFacts((ComparedStep(9, 0, (late,), 1), ComparedStep(2, 0, (early,), 1)))
    assert facts.departures == [early, late]
    beside = Departure(PipelineStage.SCORE, "c", 1, 0)
    assert ReferenceFacts(facts.steps, (beside,)).departures == [early, beside, late]


def test_an_evaluation_of_an_older_checkpoint_is_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config_of(train={"steps": 4, "warmup_steps": 1, "checkpoint_every": 2}), tmp_path / "run")
    assert check_evaluated(tmp_path / "run") == ()
    monkeypatch.setattr(predictor, "list_saved", lambda folder: list_saved(folder)[:-1])
    [found] = check_evaluated(tmp_path / "run")
    assert found.stage is PipelineStage.WEIGHTS


@pytest.mark.parametrize("wrong", [slice(0, -1), slice(1, None), [0, 1, 1, 2, 3]])
def test_a_step_that_is_not_logged_once_is_the_schedule(wrong: slice | list[int], tmp_path: Path) -> None:
    train(config_of(train={"steps": 4, "warmup_steps": 1}), tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_text("utf-8").splitlines()
    kept = lines[wrong] if isinstance(wrong, slice) else [lines[place] for place in wrong]
    file.write_text("".join(f"{line}\n" for line in kept), "utf-8")
    [found] = check_evaluated(tmp_path / "run")
    assert (found.stage, found.tensor) == (PipelineStage.SCHEDULE, "logged steps")


@pytest.mark.parametrize(("steps", "saved"), [(3, None), (12, "step_8")])
def test_a_newest_checkpoint_of_an_earlier_step_is_the_weights(
    steps: int, saved: str | None, tmp_path: Path
) -> None:
    """The last steps are not saved, or the names of checkpoints are not in the order of the steps."""
    path = tmp_path / "run"
    train(config_of(train={"steps": steps, "warmup_steps": 1, "checkpoint_every": 4}), path)
    assert check_evaluated(path) == ()
    last = path / "checkpoints" / f"step_{steps:08d}"
    if saved is None:
        shutil.rmtree(last)
    else:
        last.rename(last.with_name(f"step_{steps}"))
        (path / "checkpoints" / "step_00000008").rename(last.with_name(saved))
    [found] = check_evaluated(path)
    assert (found.stage, found.tensor) == (PipelineStage.WEIGHTS, "newest checkpoint")


EVALUATED = config_of(
    train={"steps": 4, "warmup_steps": 1, "checkpoint_every": 2}, evaluate={"every": 1, "max_tasks": 2}
)


def test_a_worse_checkpoint_than_the_best_is_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(EVALUATED, tmp_path / "healthy")
    assert check_evaluated(tmp_path / "healthy") == ()
    scores = [line[TOKENS] for line in read_metrics(tmp_path / "healthy")]
    assert scores[0] != max(scores)  # else the first one is the best in any order
    # This run solves no task, so that its checkpoint is the same by tokens alone.
    monkeypatch.setattr(HeldOutScore, "order", property(lambda self: (self.token_accuracy, self.solved)))
    assert [found.where for found in check_evaluated(tmp_path / "healthy")] == ["of known scores"]
    monkeypatch.setattr(HeldOutScore, "order", property(lambda self: (self.solved, -self.token_accuracy)))
    train(EVALUATED, tmp_path / "wrong")
    assert check_evaluated(tmp_path / "wrong")[0].stage is PipelineStage.WEIGHTS


def test_a_logged_score_that_the_checkpoint_does_not_have_is_the_score(tmp_path: Path) -> None:
    train(EVALUATED, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text(
        "".join(json.dumps(line | {TOKENS: line[TOKENS] + 0.1}) + "\n" for line in lines), "utf-8"
    )
    assert {found.stage for found in check_evaluated(tmp_path / "run")} == {PipelineStage.SCORE}


def test_a_run_is_evaluated_every_some_steps_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(EVALUATED, train={"steps": 3}, evaluate={"every": 2, "max_tasks": 1})
    train(config, tmp_path / "healthy")
    assert check_evaluated(tmp_path / "healthy") == ()
    monkeypatch.setattr(HeldOutCurve, "due", lambda self, step: step == 2)  # not after the last step
    train(config, tmp_path / "wrong")
    [found] = check_evaluated(tmp_path / "wrong")
    assert (found.stage, found.tensor, found.where[:6]) == (PipelineStage.SCORE, "evaluated steps", "step 3")


@pytest.mark.filterwarnings("ignore:evaluate.precision")
def test_a_logged_score_is_computed_again_in_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(with_settings(EVALUATED, evaluate={"precision": "bfloat16"}), tmp_path / "run")
    asked = []

    def make(model: Variant, settings: EvaluateConfig) -> Predictor:
        asked.append((settings.halting, settings.precision))
        return make_predictor(model, settings)

    monkeypatch.setattr(reference_check, "make_predictor", make)
    assert check_evaluated(tmp_path / "run") == ()
    assert asked == [("all_steps", "bfloat16")]


def test_a_config_that_cannot_be_built_says_why() -> None:
    found = check_start(config_of(train={"decoder": Path("nowhere")}))
    assert found.error
    assert found.compared == 0


def test_the_course_is_read_from_the_run_folder(tmp_path: Path) -> None:
    train(config_of(train={"steps": 4, "warmup_steps": 0}, faults=("context-detached",)), tmp_path / "run")
    found = check_course(tmp_path / "run")
    assert found.compared == 4
    assert found.first is not None
    assert found.first.stage is PipelineStage.GRADIENT


def test_a_model_that_cannot_be_built_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr("etrm.training.trainer.Ema", crash)
    found = check_start(config_of())
    assert (found.compared, found.departures, found.error) == (0, [], "IndexError: planted")


def test_code_that_crashes_is_compared_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr("etrm.training.trainer.Trainer._clip", crash)
    found = check_start(config_of(faults=("context-ignored",)))
    assert found.error == "IndexError: planted"
    assert found.first is not None
    assert found.first.stage is PipelineStage.CONTEXT


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("no_fits")
def test_samples_of_workers_depart_nowhere() -> None:
    assert check_start(config_of(), config_of(data={"workers": 1})).departures == []


@pytest.mark.processes
@pytest.mark.usefixtures("no_fits")
def test_samples_that_workers_draw_ahead_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    given = config_of(data={"workers": 1})
    call = Prefetch.__call__
    monkeypatch.setattr(
        Prefetch, "__call__", lambda self, episodes, bucket, index: call(self, episodes, bucket, index ^ 1)
    )
    first = check_start(config_of(), given).first
    assert first is not None
    assert first.stage is PipelineStage.DATA
