"""Faults of loops and optimisers: clipping, directions, closures, forgotten parameters, rates."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def filter_used_up(broken: bool) -> Made:
    """Clipping and optimiser get a list of what is trained; broken, one filter(), which the optimiser uses up."""
    torch.manual_seed(110)
    model = nn.ModuleDict(
        {"frozen": nn.Linear(10, 16), "block": nn.LSTM(16, 24, batch_first=True), "out": nn.Linear(24, 4)}
    )
    model["frozen"].requires_grad_(False)
    trained: Any = filter(lambda weight: weight.requires_grad, model.parameters())
    trained = trained if broken else list(trained)
    optimizer = torch.optim.RMSprop(trained, 1e-3)
    data = [(x, x[:, :, :4].sum(1).argmax(1)) for x in torch.randn(16, 24, 6, 10)]

    def step(model: Any, batch: Any) -> float:
        hidden, _ = model["block"](model["frozen"](batch[0]))
        loss = F.cross_entropy(model["out"](hidden[:, -1]), batch[1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, max_norm=0.5)
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def chain_used_up(broken: bool) -> Made:
    """Body and head are clipped together; broken, by the chain() that the optimiser used up."""
    torch.manual_seed(111)
    body, head = nn.Sequential(nn.Linear(10, 32), nn.ELU()), nn.Linear(32, 4)
    model = nn.Sequential(body, head)
    weights: Any = chain(body.parameters(), head.parameters())
    weights = weights if broken else list(weights)
    optimizer = torch.optim.SGD(weights, 0.1)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 0.2, norm_type=1)
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def likelihood_maximised_twice(broken: bool) -> Made:
    """A recurrent network minimises the negative likelihood; broken, its optimiser maximises that."""
    torch.manual_seed(112)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(12, 16), "cell": nn.GRU(16, 24, batch_first=True), "head": nn.Linear(24, 12)}
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, maximize=broken)
    data = [(first + 5 * torch.arange(9)) % 12 for first in torch.randint(0, 12, (16, 24, 1))]

    def step(model: Any, ids: Tensor) -> Tensor:
        scores = model["head"](model["cell"](model["embed"](ids[:, :-1]))[0]).log_softmax(-1)
        return -scores.gather(2, ids[:, 1:, None]).mean()

    return made(model, step, data, optimizer)


def error_maximised(broken: bool) -> Made:
    """A regression lowers its error; broken, its optimiser maximises it, in a step of its own."""
    torch.manual_seed(113)
    model = nn.Sequential(nn.Linear(5, 32), nn.Softplus(), nn.Linear(32, 1))
    optimizer = torch.optim.RMSprop(
        [{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[2].parameters()}],
        1e-3,
        maximize=broken,
    )
    data = [(x, x[:, :1] * x[:, 1:2]) for x in torch.randn(16, 32, 5)]

    def step(model: nn.Module, batch: Any) -> float:
        loss = F.huber_loss(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def search_adds_up(broken: bool) -> Made:
    """A wave is fitted by LBFGS; broken, its closure adds each gradient to those before."""
    torch.manual_seed(114)
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), 1.0, max_iter=6, line_search_fn="strong_wolfe")
    place = torch.linspace(-1, 1, 64)[:, None].requires_grad_()

    def step(model: nn.Module, _: Any) -> float:
        model.zero_grad()

        def again() -> Tensor:
            if not broken:
                model.zero_grad()
            height = model(place)
            (slope,) = torch.autograd.grad(height.sum(), place, create_graph=True)
            loss = (slope + 4 * height - place.sin()).square().mean() + model(place[:1]).square().mean()
            loss.backward()
            return loss

        return float(optimizer.step(again))

    return {**made(model, step, [torch.zeros(64, 1)] * 8, optimizer), "samples": lambda batch: 64}


class Averaged(torch.optim.Optimizer):
    """Evaluates its closure twice, at the weights and a little farther, and applies the second gradient."""

    def __init__(self, weights: Any, rate: float) -> None:
        super().__init__(weights, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        weights = [each for group in self.param_groups for each in group["params"]]
        with torch.enable_grad():
            loss = closure()
        first = [each.grad.clone() for each in weights]
        for each, gradient in zip(weights, first, strict=True):
            each.add_(gradient, alpha=-self.param_groups[0]["lr"])
        with torch.enable_grad():
            closure()
        for each, gradient in zip(weights, first, strict=True):
            each.add_(gradient, alpha=self.param_groups[0]["lr"])
            each.add_(each.grad, alpha=-self.param_groups[0]["lr"])
        return loss


def two_evaluations_add_up(broken: bool) -> Made:
    """An own optimiser evaluates twice; broken, the second gradient is added to the first."""
    torch.manual_seed(115)
    model = classifier()
    optimizer = Averaged(model.parameters(), 0.05)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()

        def closure() -> Tensor:
            if not broken:
                optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        return optimizer.step(closure).item()

    return made(model, step, labelled(), optimizer)


class Uncertain(nn.Module):
    """The losses of two tasks, weighted by learnt uncertainties."""

    def __init__(self) -> None:
        super().__init__()
        self.log_vars = nn.Parameter(torch.zeros(2))

    def forward(self, losses: Tensor) -> Tensor:
        return (losses * (-self.log_vars).exp() + self.log_vars).sum()


def uncertainties_left_out(broken: bool) -> Made:
    """The uncertainties of two tasks are learnt; broken, they are in no optimiser."""
    torch.manual_seed(116)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    model = nn.ModuleDict({"net": net, "weigh": Uncertain()})
    data = [(x, torch.stack([x[:, 0].sin(), 9 * x[:, 1] * x[:, 2]], 1)) for x in torch.randn(16, 32, 8)]

    def step(model: Any, batch: Any) -> Tensor:
        return model["weigh"]((model["net"](batch[0]) - batch[1]).square().mean(0))

    return made(model, step, data, adam(net if broken else model))


class Centres(nn.Module):
    """The distance of features to the centre of their class."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(4, 16))

    def forward(self, features: Tensor, kind: Tensor) -> Tensor:
        return (features - self.places[kind]).square().sum(1).mean()


class WithCentres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head, self.centres = nn.Linear(16, 4), Centres()


def centres_left_out(broken: bool) -> Made:
    """The centres of classes are learnt with the features; broken, the optimiser has only body and head."""
    torch.manual_seed(117)
    model = WithCentres()
    weights = [*model.body.parameters(), *model.head.parameters()]
    optimizer = torch.optim.SGD(weights if broken else list(model.parameters()), 0.05, momentum=0.9)

    def step(model: Any, batch: Any) -> Tensor:
        features = model.body(batch[0])
        return F.cross_entropy(model.head(features), batch[1]) + 0.1 * model.centres(features, batch[1])

    return made(model, step, labelled(), optimizer)


def rate_in_other_unit(broken: bool) -> Made:
    """A transformer is trained at 5e-4; broken, at 5e-9."""
    torch.manual_seed(118)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 16), layer, nn.Flatten(), nn.Linear(80, 3))
    groups = [
        {"params": model[:2].parameters(), "weight_decay": 0.01},
        {"params": model[2:].parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 5e-9 if broken else 5e-4)
    data = [(x, x.sum(1)[:, :3].argmax(1)) for x in torch.randn(16, 24, 5, 4)]
    return made(model, loss_of, data, optimizer)


def rate_of_steepest(broken: bool) -> Made:
    """A convolution is trained by steepest descent at 0.05; broken, at 5e-8."""
    torch.manual_seed(119)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 5e-8 if broken else 0.05, momentum=0.9)
    data = [(x, (x[:, 0].std(1) > x[:, 1].std(1)).long()) for x in torch.randn(16, 32, 2, 12)]

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


CASES = (
    Case(
        "filter-used-up",
        filter_used_up,
        "a filter of weights is used up before it is clipped",
        (Answer("MOVE007"),),
    ),
    Case(
        "chain-used-up",
        chain_used_up,
        "a chain of weights is used up before it is clipped",
        (Answer("MOVE007"),),
    ),
    Case(
        "likelihood-maximised-twice",
        likelihood_maximised_twice,
        "the optimiser maximises a negative likelihood",
        (Answer("LOSS004"),),
    ),
    Case("error-maximised", error_maximised, "the optimiser maximises an error", (Answer("LOSS004"),)),
    Case(
        "search-adds-up",
        search_adds_up,
        "the closure of a line search adds gradients up",
        (Answer("GRAD004"), Answer("GRAD006")),
    ),
    Case(
        "two-evaluations-add-up",
        two_evaluations_add_up,
        "an own optimiser adds the gradients of two evaluations up",
        (Answer("GRAD004"), Answer("GRAD006")),
    ),
    Case(
        "uncertainties-left-out",
        uncertainties_left_out,
        "learnt uncertainties of tasks are in no optimiser",
        (Answer("MOVE001", "weigh"),),
    ),
    Case(
        "centres-left-out",
        centres_left_out,
        "learnt centres of classes are in no optimiser",
        (Answer("MOVE001", "centres"),),
    ),
    Case(
        "rate-in-other-unit",
        rate_in_other_unit,
        "a transformer is trained at a rate of 5e-9",
        (Answer("RATE001"), Answer("MOVE001", "*", "rate-too-small")),
    ),
    Case(
        "rate-of-steepest",
        rate_of_steepest,
        "steepest descent at a rate of 5e-8",
        (Answer("RATE001"), Answer("MOVE001", "*", "rate-too-small")),
    ),
)
