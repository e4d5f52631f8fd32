"""Calls of the networks in an evaluation: right ones of every encoder kind, and planted changes of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from etrm.config import KINDS, Config, load, with_settings
from etrm.data import collate
from etrm.model.act import Carry
from etrm.model.recursive import RecursiveModel, recursive_core
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluated_calls import compare_calls
from etrm.reference.recorded import RecordedCore, RecordedEncoding
from etrm.training.monitoring.recorded_step import record_demos
from etrm.training.trainer import Trainer

VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"encoder": {"kind": kind}} for kind in KINDS},
    "cells": {"encoder": {"layout": "cells", "pooling": "none"}},
    "learned": {"positions": "learned", "L_cycles": 2},
}


def config_of(model: dict[str, Any]) -> Config:
    small = {"data": {"max_tasks": 12, "max_side": 8}, "train": {"batch_size": 3, "threads": 1}}
    return with_settings(load("smoke"), model=model, monitor={"enabled": False}, **small)


@torch.no_grad()
def call(config: Config) -> tuple[RecursiveModel, RecordedEncoding, RecordedCore]:
    """The first call of each network on three rows."""
    trainer = Trainer(config)
    model = trainer.model.eval()
    assert isinstance(model, RecursiveModel)
    assert model.encoder is not None
    batch = collate([trainer.episodes.sample(0, index) for index in range(3)])
    carry = model.initial_carry(3)
    state = model.encoder.begin(carry.encoder_state, carry.halted)
    context = model.encoder(batch.demos, state).context
    core = recursive_core(model)
    begun = Carry.begin(carry, core.context_tokens + batch.inputs.shape[1], core.H_init, core.L_init)
    given = (begun.z_H, begun.z_L, context, batch.inputs, batch.positions, batch.valid)
    return (
        model,
        RecordedEncoding(record_demos(batch.demos), state, context),
        RecordedCore(*given, *core(*given)),
    )


def compare(model: RecursiveModel, encoding: RecordedEncoding, core: RecordedCore) -> list[Departure]:
    return compare_calls(model.state_dict(), model.config, [encoding], [core])


@pytest.mark.parametrize("name", VARIANTS)
def test_calls_of_a_healthy_model_depart_nowhere(name: str) -> None:
    model, encoding, core = call(config_of(VARIANTS[name]))
    assert compare(model, encoding, core) == []
    assert compare(model, replace(encoding, state=None), core) == []  # a first call may leave it out


def test_each_value_departs_at_its_stage() -> None:
    model, encoding, core = call(config_of({}))
    last = torch.tensor([1.0, 1.0, 0.0])[:, None, None]
    [context] = compare(model, replace(encoding, context=encoding.context * last), core)
    assert (context.stage, context.tensor, context.size) == (
        PipelineStage.CONTEXT,
        "context",
        pytest.approx(1.0, rel=0.01),
    )
    [states] = compare(model, encoding, replace(core, z_L_out=core.z_L_out * last))
    assert (states.stage, states.tensor) == (PipelineStage.CORE, "z_L")
    [logits] = compare(model, encoding, replace(core, logits=core.logits[:, 1:]))
    assert (logits.tensor, logits.size) == ("logits", torch.inf)


def test_what_is_computed_at_padding_does_not_count() -> None:
    model, encoding, core = call(config_of({}))
    assert core.valid is not None
    padding = torch.cat((core.valid.new_ones(3, model.config.context_tokens), core.valid), dim=1)
    assert not padding.all()
    noise = torch.randn_like(core.z_H_out) * ~padding[..., None]
    assert compare(model, encoding, replace(core, z_H_out=core.z_H_out + noise)) == []
