"""Faults of the training loop and the optimiser, of kinds that no rule was written for; small programs, own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def scheduled_per_batch(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        if broken:  # meant to be called once per epoch
            scheduler.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def loaded_after(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.load_state_dict(saved, assign=broken)
    return made(model, loss_of, labelled(), optimizer)


def decayed_to_zero(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=50.0 if broken else 0.01)
    return made(model, loss_of, labelled(), optimizer)


def accumulated_undivided(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(model: nn.Module, batch: Any) -> float:
        total = 0.0
        optimizer.zero_grad()
        for x, y in zip(batch[0].chunk(8), batch[1].chunk(8), strict=True):
            loss = F.cross_entropy(model(x), y) / (1 if broken else 8)
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    return made(model, step, labelled(), optimizer)


def unfrozen_late(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    model[0].requires_grad_(False)
    held = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(held if broken else model.parameters(), 1e-3)
    model[0].requires_grad_(True)
    return made(model, loss_of, labelled(), optimizer)


def optimizer_renewed(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def step(model: nn.Module, batch: Any) -> float:
        used = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9) if broken else optimizer
        used.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        used.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def rate_too_high(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(x, x[:, :1] * 2) for x in torch.randn(20, 32, 10)]
    optimizer = torch.optim.SGD(model.parameters(), 5.0 if broken else 0.01)
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, optimizer)


def rate_too_low(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 1e-10 if broken else 0.05)
    return made(model, loss_of, labelled(), optimizer)


def step_before_backward(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        if broken:
            optimizer.step()
        loss.backward()
        if not broken:
            optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def loss_rewrapped(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        if broken:
            loss = torch.tensor(loss.item(), requires_grad=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def backward_twice(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        if broken:
            loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


CASES = (
    Case(
        "scheduled-per-batch",
        scheduled_per_batch,
        "a scheduler meant for epochs divides the rate by 10 in each step",
        (
            Answer("MOVE*", "", "zero-rate"),
            Answer("MOVE*", "", "rate*"),
            Answer("RATE001", "", "rate-vanished"),
        ),
    ),
    Case(
        "loaded-after-optimizer",
        loaded_after,
        "weights loaded with assign=True are not those of the optimiser",
        (Answer("MOVE001", "", "in-no-group"),),
    ),
    Case(
        "decayed-to-zero",
        decayed_to_zero,
        "weight decay is larger than every gradient",
        (Answer("MOVE*", "", "weight-decay*"),),
    ),
    Case(
        "accumulated-undivided",
        accumulated_undivided,
        "eight micro-batches are summed, not averaged",
        (Answer("GRAD*", "", "*sum*"), Answer("LOSS*")),
    ),
    Case(
        "unfrozen-late",
        unfrozen_late,
        "a layer is unfrozen after the optimiser was made without it",
        (Answer("MOVE001", "0", "in-no-group"),),
    ),
    Case(
        "optimizer-renewed",
        optimizer_renewed,
        "a new optimiser in each step forgets its momentum",
        (Answer("MOVE*", "", "*optimizer*"), Answer("MOVE003", "")),
    ),
    Case(
        "rate-too-high",
        rate_too_high,
        "the rate is 500 times too high",
        (Answer("REACH003", "*", "*rate*"), Answer("MOVE*", "*", "*rate*"), Answer("FINITE*", "*", "*rate*")),
    ),
    Case(
        "rate-too-low",
        rate_too_low,
        "the rate moves weights by rounding alone",
        (Answer("MOVE*", "", "*round*"), Answer("MOVE*", "", "rate*")),
    ),
    Case(
        "step-before-backward",
        step_before_backward,
        "the optimiser steps between zero_grad and backward",
        (Answer("MOVE*", "", "cleared-gradient"), Answer("GRAD*", "", "*discard*")),
    ),
    Case(
        "loss-rewrapped",
        loss_rewrapped,
        "the loss is made anew from a number, which has no graph",
        (Answer("GRAD001", "", "detached"), Answer("LOSS*"), Answer("STEP001")),
    ),
    Case(
        "backward-twice", backward_twice, "backward runs twice on one loss", (Answer("GRAD*", "", "*twice*"),)
    ),
)
