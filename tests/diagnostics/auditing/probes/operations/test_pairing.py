"""Rows at a loss and the targets of their samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.operations.pairing import check_pairing

SAMPLES, LENGTH = 6, 4
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 9, (SAMPLES, LENGTH), generator=GENERATOR)
TARGETS = torch.randint(0, 3, (SAMPLES, LENGTH), generator=GENERATOR)
SIZES = torch.tensor([3, 1, 3, 2, 2, 1])
Batch = tuple[Tensor, Tensor, Tensor]
Step = Callable[[nn.ModuleDict, Batch], Tensor]


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"embed": nn.Embedding(9, 8), "norm": nn.BatchNorm1d(8), "head": nn.Linear(8, 3)})


def scores(model: nn.ModuleDict, ids: Tensor) -> Tensor:
    return model["head"](model["embed"](ids))


def straight(model: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(scores(model, batch[0]).flatten(0, 1), batch[1].flatten())


def time_first(model: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(scores(model, batch[0].T).flatten(0, 1), batch[1].flatten())


def both_time_first(model: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(scores(model, batch[0].T).flatten(0, 1), batch[1].T.flatten())


def sorted_by_size(model: nn.ModuleDict, batch: Batch) -> Tensor:
    order = batch[2].argsort()
    return F.cross_entropy(scores(model, batch[0][order]).mean(1), batch[1])


def sorted_and_back(model: nn.ModuleDict, batch: Batch) -> Tensor:
    order = batch[2].argsort()
    return F.cross_entropy(scores(model, batch[0][order]).mean(1)[order.argsort()], batch[1])


def both_sorted(model: nn.ModuleDict, batch: Batch) -> Tensor:
    order = batch[2].argsort()
    return F.cross_entropy(scores(model, batch[0][order]).mean(1), batch[1][order])


def one_per_sample(model: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(scores(model, batch[0]).mean(1), batch[1])


def turned(model: nn.ModuleDict, batch: Batch) -> Tensor:
    return F.cross_entropy(scores(model, batch[0]).mean(1).roll(1, 0), batch[1])


def normalised(model: nn.ModuleDict, batch: Batch) -> Tensor:
    """Each row depends on all samples, on its own too."""
    return F.cross_entropy(model["head"](model["norm"](model["embed"](batch[0]).mean(1))), batch[1])


@pytest.mark.parametrize(
    ("step", "targets", "misplaced"),
    [
        (straight, TARGETS, False),
        (time_first, TARGETS, True),
        (both_time_first, TARGETS, False),
        (one_per_sample, TARGETS[:, 0], False),
        (turned, TARGETS[:, 0], True),
        (normalised, TARGETS[:, 0], False),
        (sorted_by_size, TARGETS[:, 0], True),
        (sorted_and_back, TARGETS[:, 0], False),
        (both_sorted, TARGETS[:, 0], False),  # its targets are no tensor of the batch: nothing is known
    ],
)
def test_rows_that_meet_the_targets_of_others(step: Step, targets: Tensor, misplaced: bool) -> None:
    found = check_pairing(model(), step, (IDS, targets, SIZES), [], SAMPLES)
    assert [each.code for each in found] == (["reordered"] if misplaced else [])


def test_the_batch_is_left_as_it_was() -> None:
    ids = IDS.clone()
    check_pairing(model(), time_first, (ids, TARGETS, SIZES), [], SAMPLES)
    assert torch.equal(ids, IDS)
