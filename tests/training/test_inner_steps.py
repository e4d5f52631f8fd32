from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from etrm.config import Config, load, with_settings
from etrm.data import pose_demonstrations
from etrm.errors import ConfigError
from etrm.investigation.comparison.gradient_check import check_slope
from etrm.model.construct import build_variant
from etrm.training.context_fit import PosedDemos
from etrm.training.inner_steps import InnerSteps
from etrm.training.loss import act_loss
from etrm.training.monitoring.step_check import read_compared
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]
INNER = ("train.inner_steps=1", "train.inner_rate=0.5", "model.hidden_size=16")


def trainer_of(smoke: Smoke, *more: str) -> Trainer:
    trainer = Trainer(smoke(*INNER, "monitor.enabled=false", *more))
    nn.init.normal_(trainer.model.core.lm_head.weight)  # type: ignore[union-attr]
    return trainer


def loss_of(trainer: Trainer, context: Tensor, demos: PosedDemos) -> Tensor:
    model = trainer.model
    _, output = model.step(model.initial_carry(demos.batch.size), demos.batch, context[demos.owner])
    return act_loss(output, demos.batch.labels).lm.sum()


def test_one_step_moves_each_number_by_the_rate_against_its_gradient(smoke: Smoke) -> None:
    """Adam's first step is the sign of the gradient times the rate; the derivative of training is the identity's."""
    trainer = trainer_of(smoke)
    trainer.train_step()  # the shared weights follow an update in place
    slots = trainer.slots[0]
    slots.refill([True] * 4)
    sets = [pose_demonstrations(sample) for sample in slots.samples]
    demos = PosedDemos.collated(sets, [None] * 4, trainer.device)
    batch, carry, model = slots.batch(), trainer.model.initial_carry(4), trainer.model
    given = model.context_policy(model, carry, batch).context
    probe = given.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(trainer, probe, demos), [probe])
    assert trainer.inner is not None
    with trainer.inner.moving(slots.samples):
        moved = model.context_policy(model, carry, batch).context
    clear = gradient.abs() > 1e-6
    assert clear.float().mean() > 0.9
    torch.testing.assert_close((moved - given)[clear], (-0.5 * gradient.sign())[clear], rtol=1e-2, atol=1e-3)
    weights = list(model.encoder.parameters())  # type: ignore[union-attr]
    direction = torch.randn_like(given)
    plain = torch.autograd.grad((given * direction).sum(), weights, allow_unused=True)
    through = torch.autograd.grad((moved * direction).sum(), weights, allow_unused=True)
    for one, other in zip(plain, through, strict=True):
        torch.testing.assert_close(one, other)
    assert model.context_policy(model, carry, batch).context.equal(given)  # only inside


@pytest.mark.parametrize("variant", ["etrm", "trm"])
def test_a_run_with_inner_steps_departs_from_no_reference_and_resumes(
    smoke: Smoke, tmp_path: Path, run_bytes: Callable[[Path], dict[str, bytes]], variant: str
) -> None:
    settings = (
        *INNER,
        f"model.variant={variant}",
        "data.augmentations=1",
        "train.steps=4",
        "train.checkpoint_every=2",
    )
    config = smoke(*settings, "train.warmup_steps=0", "monitor.reference_every=1")
    assert train(config, tmp_path / "whole")
    compared = read_compared(tmp_path / "whole")
    assert [step.step for step in compared] == [1, 2, 3, 4]
    assert [(step.departures, step.absent) for step in compared] == [((), "")] * 4

    def stop(trainer: Trainer, metrics: dict[str, object]) -> None:
        if metrics["step"] == 2:
            trainer.stop()

    assert not train(config, tmp_path / "parts", on_step=stop)
    assert train(config, tmp_path / "parts", resume=True)
    assert run_bytes(tmp_path / "parts") == run_bytes(tmp_path / "whole")


def test_no_weight_is_left_without_an_optimiser(smoke: Smoke) -> None:
    """The start of the steps is a constant too: a second leaf of the loss would get a gradient in vain."""
    found = check_slope(smoke(*INNER))
    assert found is not None
    assert found.outside == 0


def test_without_inner_steps_nothing_changes_and_with_them_everything_after(smoke: Smoke) -> None:
    losses = {}
    for steps in (0, 1):
        trainer = trainer_of(smoke, f"train.inner_steps={steps}")
        assert (trainer.inner is None) == (steps == 0)
        losses[steps] = trainer.train_step()["loss"]
    assert losses[0] != losses[1]


def test_the_parts_of_a_batch_move_as_the_whole(smoke: Smoke) -> None:
    found = [trainer_of(smoke, f"train.accumulate={parts}").train_step()["loss"] for parts in (1, 2)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_distribution_is_refused() -> None:
    with raises_code(ConfigError, "search.no-free-context", "symbolic"):
        InnerSteps(build_variant(load("symbolic").model), load("symbolic").train)
    with raises_code(ConfigError, "config.training-of-symbolic", "train.inner_steps"):
        with_settings(load("symbolic"), train={"inner_steps": 1})
