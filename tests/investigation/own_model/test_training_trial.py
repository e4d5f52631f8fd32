"""A changed rate holds whatever sets the rates, and leaves the optimiser's own groups as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from etrm.investigation.own_model.training_trial import UNCHANGED, TrainingChange, TrainingTrial
from tests.investigation.own_model.toy_adapter import Toy, factory, with_model

RATE, FACTOR, OF_CONTEXT = 1e-2, 10.0, 0.1


def use_two_groups(model: nn.Module) -> Optimizer:
    """The encoder and a part of the decoder at one rate, which is a tensor that the groups share."""
    bias = model.get_submodule("decoder").bias
    others = [p for p in model.parameters() if p is not bias]
    return Adam([{"params": others}, {"params": [bias]}], torch.tensor(RATE))


def warm_up(optimizer: Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, [lambda step: 1.0 for _ in optimizer.param_groups])


def move(change: TrainingChange, **changes: object) -> dict[str, float]:
    """How far one step moves each tensor at most."""
    trial = TrainingTrial(factory(**changes), 0, change)
    before = {name: p.detach().clone() for name, p in trial.model.named_parameters()}
    groups = [
        (group["params"], float(group["lr"]))
        for optimizer in trial.optimizers
        for group in optimizer.param_groups
    ]
    trial.update(trial.loss(0, trial.batch(0)))
    if not trial.schedulers:
        after = [(group["params"], float(group["lr"])) for o in trial.optimizers for group in o.param_groups]
        assert after == groups
    return {
        name: float((p.detach() - before[name]).abs().max()) for name, p in trial.model.named_parameters()
    }


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        (lambda model: Adam(model.parameters(), RATE), None),
        (use_two_groups, None),
        (use_two_groups, warm_up),
        (
            lambda model: Adam(model.parameters(), 1.0),
            lambda optimizer: OneCycleLR(optimizer, 25 * RATE, total_steps=9),  # which starts at a 25th
        ),
    ],
    ids=["a number", "a tensor of two groups", "a schedule for each group", "a schedule that sets rates"],
)
def test_rates_are_changed_by_their_factors(
    optimizer: Callable[[nn.Module], Optimizer], schedule: Callable[[Optimizer], LRScheduler] | None
) -> None:
    """The first step of Adam is as long as its rate."""
    adapter = {"optimizer": optimizer, "schedule": schedule}
    assert move(UNCHANGED, **adapter) == pytest.approx(dict.fromkeys(NAMES, RATE), rel=1e-3)
    higher = move(TrainingChange("rate", "", rate=FACTOR), **adapter)
    assert higher == pytest.approx(dict.fromkeys(NAMES, FACTOR * RATE), rel=1e-3)
    lower = move(TrainingChange("context", "", context_rate=OF_CONTEXT), **adapter)
    wanted = {name: RATE * (OF_CONTEXT if name.startswith("encoder") else 1.0) for name in NAMES}
    assert lower == pytest.approx(wanted, rel=1e-3)


NAMES: list[str] = [name for name, _ in factory().build(0).model.named_parameters()]


def test_moments_are_kept_over_steps_with_changed_rates() -> None:
    """Two steps at ten times the rate are those of an optimiser that has that rate."""

    def train(change: TrainingChange, rate: float) -> Tensor:
        trial = TrainingTrial(factory(optimizer=lambda model: Adam(model.parameters(), rate)), 0, change)
        for number in range(2):
            trial.step(number, trial.batch(number))
        return torch.cat([p.detach().flatten() for p in trial.model.parameters()])

    changed = train(TrainingChange("rate", "", rate=FACTOR), RATE)
    torch.testing.assert_close(changed, train(UNCHANGED, FACTOR * RATE))


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_any_layout_are_clipped_to_their_joint_norm(sparse: bool) -> None:
    class Table(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(2, 3, sparse=sparse)

        def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
            return super().forward(demos, queries + self.table((queries[:, 0] > 0).long()))

    made = with_model(Table, optimizer=lambda model: SGD(model.parameters(), 1.0))
    trial = TrainingTrial(made, 0, TrainingChange("clip", "", clip_norm=1e-3))
    before = [p.detach().clone() for p in trial.model.parameters()]
    trial.step(0, trial.batch(0))
    moves = [(p.detach() - old).flatten() for p, old in zip(trial.model.parameters(), before, strict=True)]
    assert float(torch.cat(moves).norm()) == pytest.approx(1e-3, rel=1e-3)
