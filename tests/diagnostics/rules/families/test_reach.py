"""Gradients of single parameters."""

from __future__ import annotations

import torch
from torch import nn

from tests.diagnostics.rules.trainings import (
    Cases,
    Listed,
    Net,
    changed,
    dead_units,
    in_loss,
    normalised,
    skipping_broken,
    train,
    updated,
)

CASES: Cases = {
    "REACH001": (
        changed(lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2)))),
        changed(
            lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2), requires_grad=False))
        ),
    ),
    "REACH002": (changed(dead_units(-100.0)), changed(dead_units(0.0))),
    "REACH003": (
        lambda **o: train(scale=in_loss, **o),
        updated(skipping_broken, scale=in_loss),
    ),
    "REACH004": (changed(normalised(bias=True)), changed(normalised(bias=False))),
    "REACH005": (
        changed(lambda model: setattr(model, "encoder", Listed(registered=False))),
        changed(lambda model: setattr(model, "encoder", Listed(registered=True))),
    ),
}


def test_a_bias_that_cannot_change_the_loss_is_no_parameter_that_does_not_move() -> None:
    model = Net()
    normalised(bias=True)(model)
    nn.init.constant_(model.encoder[0].bias, 1.0)  # a gradient of rounding size does not change a bit of it
    assert train(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01)) & {"MOVE001", "REACH004"} == {
        "REACH004"
    }
