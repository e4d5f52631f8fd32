"""The toolkit's assertions on our own models during training: every variant, every encoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from diagnostics import (
    assert_all_params_receive_grad,
    assert_frozen,
    assert_gradient_coverage,
    assert_trains,
)
from etrm.config import VARIATIONAL, Config
from etrm.device import to_device
from etrm.model.encoders import ENCODERS
from etrm.training.loss import act_loss
from etrm.training.trainer import Trainer

Smoke = Callable[..., Config]
MODELS = [("trm", "standard"), ("etrm_fct", "standard"), *(("etrm", kind) for kind in ENCODERS)]
ROWS = {"encoder": lambda args, kwargs, output: args[0].slots}


def trainer_of(smoke: Smoke, variant: str, kind: str) -> Trainer:
    """A trainer in which some rows continue and others begin."""
    settings = ["data.buckets=1", "monitor.enabled=false", f"model.variant={variant}"]
    settings += [] if variant == "trm" else [f"model.encoder.kind={kind}"]
    settings += ["train.kl_weight=1e-3"] if kind in VARIATIONAL else []
    settings += ["data.augmentations=1"] if variant == "trm" else []
    trainer = Trainer(smoke(*settings))
    trainer.train_step()
    carry = trainer.carries[0]
    carry.halted[: len(carry.halted) // 2] = True
    carry.halted[len(carry.halted) // 2 :] = False
    trainer.state.set_carry(0, carry)
    return trainer


def loss_of(trainer: Trainer) -> Callable[[], Tensor]:
    """The loss of the current rows, one step further from the same carry."""
    train, slots = trainer.config.train, trainer.slots[0]
    slots.refill(trainer.carries[0].halted.tolist())
    batch = to_device(slots.batch(), trainer.device)

    def loss() -> Tensor:
        _, output = trainer.model(trainer.carries[0], batch)
        return act_loss(output, batch.labels, train.loss).total(train)

    return loss


@pytest.mark.parametrize(("variant", "kind"), MODELS)
def test_every_sample_reaches_every_part_and_every_part_moves(smoke: Smoke, variant: str, kind: str) -> None:
    trainer = trainer_of(smoke, variant, kind)
    rows = ROWS if trainer.model.encoder is not None else {}
    samples = trainer.config.train.batch_size
    record = assert_gradient_coverage(
        trainer.model, loss_of(trainer), samples, watch=[*rows, "core"], rows=rows
    )
    assert all(module.coverage == 1 for module in record.modules.values())
    assert_all_params_receive_grad(trainer.model, loss_of(trainer))
    assert_trains(trainer.model, trainer.train_step)


def test_the_cached_variant_is_known_to_be_bad(smoke: Smoke) -> None:
    trainer = trainer_of(smoke, "etrm_cached", "standard")
    with pytest.raises(AssertionError, match="encoder"):
        assert_gradient_coverage(
            trainer.model,
            loss_of(trainer),
            trainer.config.train.batch_size,
            watch=["encoder", "core"],
            rows=ROWS,
        )


@pytest.mark.parametrize("part", ["encoder", "core"])
def test_a_frozen_part_stays_and_the_rest_trains(smoke: Smoke, part: str) -> None:
    setting = "train.freeze_encoder_steps=20" if part == "encoder" else "train.freeze_decoder_steps=20"
    trainer = Trainer(smoke(setting, "data.buckets=1", "monitor.enabled=false"))
    assert_frozen(trainer.model, trainer.train_step, [part], optimizers=trainer.optimizers)
