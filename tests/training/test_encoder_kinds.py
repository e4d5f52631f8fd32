"""Every kind of encoder under the trainer: trained by every sample, and resumed exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etrm.config import STATEFUL, VARIATIONAL, Config
from etrm.model.encoders import ENCODERS
from etrm.training.trainer import Trainer, train

Smoke = Callable[..., Config]
RunBytes = Callable[[Path], dict[str, bytes]]


def settings_of(kind: str) -> tuple[str, ...]:
    return (f"model.encoder.kind={kind}", *(("train.kl_weight=1e-3",) if kind in VARIATIONAL else ()))


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_sample_trains_every_kind_at_every_step(smoke: Smoke, kind: str) -> None:
    trainer = Trainer(smoke(*settings_of(kind), "data.buckets=1", "train.clip_norm=none"))
    for _ in range(3):
        metrics = trainer.train_step()
        assert metrics["encoder.coverage"] == 1
        assert metrics["encoder.params_idle"] == 0
        assert ("kl" in metrics) == (kind in VARIATIONAL)


@pytest.mark.parametrize(
    "kind",
    [
        STATEFUL[0],
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in STATEFUL[1:]),
        "hybrid_variational",
    ],
)
def test_a_run_that_was_stopped_and_resumed_leaves_the_same_bytes(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes, kind: str
) -> None:
    """The state of a stateful encoder and the position in the noise of a variational one are kept."""
    config = smoke("train.steps=8", "train.checkpoint_every=3", *settings_of(kind))
    assert train(config, tmp_path / "whole")
    for place, steps in enumerate((4, 7)):

        class Killed(Exception):
            pass

        def die(trainer: Trainer, metrics: dict, last: int = steps, error: type = Killed) -> None:
            if metrics["step"] == last:
                raise error

        with pytest.raises(Killed):
            train(config, tmp_path / "resumed", resume=place > 0, on_step=die)
    assert train(config, tmp_path / "resumed", resume=True)
    whole, resumed = run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_checkpoint_holds_the_state_of_the_encoder(smoke: Smoke, kind: str) -> None:
    trainer = Trainer(smoke(*settings_of(kind), "data.buckets=1", "monitor.enabled=false"))
    trainer.train_step()
    captured = trainer.state.capture()
    carried = trainer.carries[0].encoder_state
    assert carried
    trainer.train_step()
    trainer.state.restore(captured)
    restored = trainer.carries[0].encoder_state
    assert restored is not None
    assert restored.keys() == carried.keys()
    assert all(torch.equal(restored[name], carried[name]) for name in carried)


@pytest.mark.parametrize("kind", VARIATIONAL)
def test_watching_a_sampling_encoder_changes_nothing(smoke: Smoke, kind: str) -> None:
    losses = []
    for watching in ("false", "true"):
        trainer = Trainer(smoke(*settings_of(kind), f"monitor.enabled={watching}", "monitor.probe_every=1"))
        losses.append([trainer.train_step()["loss"] for _ in range(3)])
    assert losses[0] == losses[1]


def test_the_divergence_is_in_the_loss_by_its_weight(smoke: Smoke) -> None:
    steps = {}
    for weight in (0.0, 0.5):
        given = ("model.encoder.kind=lpn_variational", f"train.kl_weight={weight}", "monitor.enabled=false")
        steps[weight] = Trainer(smoke(*given)).train_step()
    assert steps[0.0]["kl"] == steps[0.5]["kl"] > 0
    assert steps[0.5]["loss"] - steps[0.0]["loss"] == pytest.approx(0.5 * steps[0.5]["kl"], rel=1e-5)


def test_the_softmax_loss_is_what_is_trained_on(smoke: Smoke) -> None:
    first = [Trainer(smoke(f"train.loss={kind}")).train_step() for kind in ("stablemax", "softmax")]
    assert first[0]["lm_loss"] != first[1]["lm_loss"]
    assert first[0]["accuracy_all"] == first[1]["accuracy_all"]


@pytest.mark.parametrize(
    "settings",
    [("model.positions=learned",), ("model.positions=none",), ("model.mlp_t=true", "data.canvas=published")],
)
def test_a_core_with_other_positions_or_mixing_trains(smoke: Smoke, settings: tuple[str, ...]) -> None:
    trainer = Trainer(smoke(*settings, "data.buckets=1", "train.batch_size=2", "train.clip_norm=none"))
    for _ in range(2):
        metrics = trainer.train_step()
    assert metrics["encoder.coverage"] == 1
    assert metrics["core.params_idle"] == 0
