"""Activations that are computed again: the same gradients from a fraction of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.config import Config, load, with_settings
from etrm.model.forward_context import recomputing, run_network
from etrm.training.trainer import Trainer

KINDS = ("standard", "lpn_standard", "hybrid_variational", "recurrent", "trm_style")


@contextmanager
def counting_kept_bytes() -> Iterator[list[int]]:
    """The bytes of the tensors that autograd keeps, each storage once, weights excluded."""
    kept: dict[int, Tensor] = {}
    total = [0]

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no place is used twice
            total[0] = sum(one.untyped_storage().nbytes() for one in kept.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total


def config_of(recompute: bool, **changes: Any) -> Config:
    base = with_settings(
        load("smoke"),
        model={"H_cycles": 2, "L_cycles": 3},
        train={"threads": 1, "recompute": recompute},
        monitor={"enabled": False},
    )
    return with_settings(base, **changes)


@pytest.mark.filterwarnings("ignore:train.precision bfloat16")
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *((kind, "float32") for kind in ("standard", "hybrid_variational", "recurrent")),
        *(pytest.param(kind, "float32", marks=pytest.mark.slow) for kind in ("lpn_standard", "trm_style")),
        (KINDS[0], "bfloat16"),
        *(pytest.param(kind, "bfloat16", marks=pytest.mark.slow) for kind in KINDS[1:]),
    ],
)
def test_training_is_the_same_bit_for_bit(kind: str, precision: str) -> None:
    changes = {"model": {"encoder": {"kind": kind}}, "train": {"precision": precision}}
    weights = []
    for recompute in (False, True):
        trainer = Trainer(config_of(recompute, **changes))
        for _ in range(2):
            trainer.train_step()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_fraction_of_the_memory_is_kept() -> None:
    kept = []
    for recompute in (False, True):
        trainer = Trainer(config_of(recompute))
        with counting_kept_bytes() as total:
            trainer.train_step()
        kept.append(total[0])
    assert kept[1] < kept[0] / 3


def test_without_gradient_nothing_is_computed_twice() -> None:
    calls = []
    network = torch.nn.Linear(2, 2)
    network.register_forward_pre_hook(lambda *args: calls.append(1))
    with recomputing(True):
        with torch.no_grad():
            run_network(network, torch.ones(1, 2))
        assert len(calls) == 1
        run_network(network, torch.ones(1, 2)).sum().backward()
    assert len(calls) == 3
