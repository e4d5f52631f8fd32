"""Healthy programs that look unusual, in manners of public threads, written before their rules; own code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def slope_in_a_direction() -> Made:
    """The gradient is the slope in a random direction times the direction, without a backward pass."""
    torch.manual_seed(80)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)

    def step(model: nn.Module, batch: Any) -> float:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        direction = {name: torch.randn_like(weight) for name, weight in weights.items()}

        def loss(weights: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(functional_call(model, weights, (batch[0],)), batch[1])

        value, slope = jvp(loss, (weights,), (direction,))
        for name, weight in model.named_parameters():
            weight.grad = slope * direction[name]
        optimizer.step()
        return value.item()

    return made(model, step, labelled(), optimizer)


class Process(nn.Module):
    """A Gaussian process with learnt features, whose likelihood is that of all points together."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))
        self.log_length, self.log_noise = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        place = self.features(x) / self.log_length.exp()
        kernel = torch.exp(-0.5 * (place[:, None] - place[None]).square().sum(2))
        return kernel + self.log_noise.exp() * torch.eye(len(x))


def likelihood_of_all_points() -> Made:
    """A marginal likelihood couples all points of the data, on purpose."""
    torch.manual_seed(81)
    model = Process()
    x = torch.randn(48, 4)
    data = [(x, (2 * x[:, 0]).sin() + 0.1 * torch.randn(48))] * 8

    def step(model: nn.Module, batch: Any) -> Tensor:
        root = torch.linalg.cholesky(model(batch[0]))
        white = torch.linalg.solve_triangular(root, batch[1][:, None], upper=False)
        return (0.5 * white.square().sum() + root.diagonal().log().sum()) / len(batch[0])

    return made(model, step, data, adam(model))


def copied_from_the_best() -> Made:
    """Four models of a population; in every fifth step the worst takes the weights of the best, with another rate."""
    torch.manual_seed(82)
    model = nn.ModuleList(classifier() for _ in range(4))
    optimizers = [
        torch.optim.SGD(each.parameters(), rate)
        for each, rate in zip(model, (0.3, 0.1, 0.03, 0.01), strict=True)
    ]
    count = [0]

    def step(model: Any, batch: Any) -> float:
        count[0] += 1
        values = []
        for each, optimizer in zip(model, optimizers, strict=True):
            loss = loss_of(each, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        if count[0] % 5 == 0:
            best, worst = values.index(min(values)), values.index(max(values))
            model[worst].load_state_dict(model[best].state_dict())
            rate = optimizers[best].param_groups[0]["lr"] * (1.2 if count[0] % 10 else 0.8)
            optimizers[worst].param_groups[0]["lr"] = rate
        return sum(values) / 4

    return made(model, step, labelled(), optimizers)


def censored_times() -> Made:
    """Times of events, two thirds of which are not seen: those samples count among the others' alternatives only."""
    torch.manual_seed(83)
    model = nn.Sequential(nn.Linear(8, 32), nn.SELU(), nn.Linear(32, 1, bias=False))
    data = []
    for x in torch.randn(16, 48, 8):
        event = torch.empty(48).exponential_() * (-x[:, 0] + 0.5 * x[:, 1]).exp()
        seen = event < 0.5
        data.append((x, event.clamp(max=0.5), seen))

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, time, seen = batch
        order = time.argsort(descending=True)
        risk, seen = model(x)[order, 0], seen[order]
        return -(risk - risk.logcumsumexp(0))[seen].mean()

    return made(model, step, data, adam(model))


class Twins(nn.Module):
    """One encoder under two names, since both sides are to be encoded alike."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 24))
        self.towers = nn.ModuleDict({"question": encoder, "answer": encoder})
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, question: Tensor, answer: Tensor) -> Tensor:
        q, a = (
            F.normalize(self.towers[k](x), dim=1) for k, x in (("question", question), ("answer", answer))
        )
        return self.scale.exp() * q @ a.T


def towers_that_are_one() -> Made:
    """Both towers of a retriever are one encoder, on purpose."""
    torch.manual_seed(84)
    model = Twins()
    data = [(x, x + 0.3 * torch.randn(32, 10)) for x in torch.randn(16, 32, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        score, own = model(*batch), torch.arange(len(batch[0]))
        return (F.cross_entropy(score, own) + F.cross_entropy(score.T, own)) / 2

    return made(model, step, data, adam(model))


class Tasks(nn.Module):
    """Three tasks behind one trunk, with weights that are learnt from the norms of their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 48), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(48, 1) for _ in range(3))
        self.weights = nn.Parameter(torch.ones(3))


def balanced_by_norms() -> Made:
    """The weights of tasks follow the norms of their gradients (GradNorm), and sum to three."""
    torch.manual_seed(85)
    model = Tasks()
    of_model = torch.optim.Adam([*model.trunk.parameters(), *model.heads.parameters()], 2e-3)
    of_weights = torch.optim.Adam([model.weights], 1e-2)
    data = [
        (x, torch.stack([x[:, 0].sin(), 3 * x[:, 1] * x[:, 2], x[:, 3].abs()]))
        for x in torch.randn(16, 32, 10)
    ]
    first: list[Tensor] = []

    def step(model: Any, batch: Any) -> float:
        hidden = model.trunk(batch[0])
        losses = torch.stack(
            [F.mse_loss(head(hidden)[:, 0], y) for head, y in zip(model.heads, batch[1], strict=True)]
        )
        if not first:
            first.append(losses.detach())
        of_model.zero_grad()
        (model.weights.detach() * losses).sum().backward(retain_graph=True)
        shared = model.trunk[0].weight
        norms = torch.stack(
            [
                torch.autograd.grad(weight * loss, shared, create_graph=True)[0].norm()
                for weight, loss in zip(model.weights, losses, strict=True)
            ]
        )
        ratio = losses.detach() / first[0]
        goal = (norms.detach().mean() * (ratio / ratio.mean()) ** 0.5).detach()
        model.weights.grad = torch.autograd.grad((norms - goal).abs().sum(), model.weights)[0]
        of_model.step()
        of_weights.step()
        with torch.no_grad():
            model.weights.clamp_(min=0.05).mul_(3 / model.weights.sum())
        return losses.sum().item()

    return {**made(model, step, data, [of_model, of_weights]), "samples": lambda batch: len(batch[0])}


def search_within_batches() -> Made:
    """LBFGS on batches, with a strong line search whose closure clears the gradients of the model."""
    torch.manual_seed(86)
    model = nn.Sequential(nn.Linear(10, 16), nn.Softplus(), nn.Linear(16, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3, line_search_fn="strong_wolfe")

    def step(model: nn.Module, batch: Any) -> float:
        def closure() -> Tensor:
            model.zero_grad()
            loss = loss_of(model, batch) + 1e-3 * sum(weight.square().sum() for weight in model.parameters())
            loss.backward()
            return loss

        return float(optimizer.step(closure))

    return made(model, step, labelled(10, 128), optimizer)


def disturbed_for_free() -> Made:
    """Each batch is trained on three times, with a disturbance that each backward pass changes too."""
    torch.manual_seed(87)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    kept = torch.zeros(32, 10)

    def step(model: nn.Module, batch: Any) -> float:
        total = 0.0
        for _ in range(3):
            noise = kept.clone().requires_grad_()
            loss = F.cross_entropy(model(batch[0] + noise), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kept.add_(0.03 * noise.grad.sign()).clamp_(-0.1, 0.1)
            total += loss.item() / 3
        return total

    return made(model, step, labelled(), optimizer)


class Translator(nn.Module):
    """Reads a sequence, then writes one, now and then from its own words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 24)
        self.reader, self.writer = nn.GRU(24, 32, batch_first=True), nn.GRUCell(24, 32)
        self.head = nn.Linear(32, 12)

    def forward(self, source: Tensor, target: Tensor, own: float) -> Tensor:
        state = self.reader(self.embed(source))[1][0]
        word, given = torch.zeros_like(target[:, 0]), []
        for i in range(target.shape[1]):
            state = self.writer(self.embed(word), state)
            given.append(self.head(state))
            drawn = torch.rand(len(word)) < own
            word = torch.where(drawn, given[-1].detach().argmax(1), target[:, i])
        return torch.stack(given, 1)


def own_words_now_and_then() -> Made:
    """A decoder is given its own words with a share that grows (scheduled sampling)."""
    torch.manual_seed(88)
    model = Translator()
    data = [(words, words.flip(1)) for words in torch.randint(1, 12, (16, 32, 5))]
    count = [0]

    def step(model: nn.Module, batch: Any) -> Tensor:
        count[0] += 1
        logits = model(*batch, own=min(0.5, count[0] / 100))
        return F.cross_entropy(logits.transpose(1, 2), batch[1])

    return made(model, step, data, adam(model))


def teacher_of_earlier_weights() -> Made:
    """A model learns from labels and from its own answers of the last snapshot, taken in every tenth step."""
    torch.manual_seed(89)
    model = classifier()
    earlier = copy.deepcopy(model).requires_grad_(False)
    count = [0]

    def step(model: nn.Module, batch: Any) -> Tensor:
        if count[0] % 10 == 0:
            earlier.load_state_dict(model.state_dict())
        count[0] += 1
        logits = model(batch[0])
        with torch.no_grad():
            soft = (earlier(batch[0]) / 2).softmax(1)
        return loss_of(model, batch) + 0.5 * F.kl_div(
            (logits / 2).log_softmax(1), soft, reduction="batchmean"
        )

    return made(model, step, labelled(), adam(model))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "slope in a random direction": slope_in_a_direction,
    "likelihood of all points at once": likelihood_of_all_points,
    "weights taken from the best of four": copied_from_the_best,
    "times that are censored": censored_times,
    "towers that are one encoder": towers_that_are_one,
    "tasks balanced by norms": balanced_by_norms,
    "line search within batches": search_within_batches,
    "disturbances that come for free": disturbed_for_free,
    "own words, now and then": own_words_now_and_then,
    "answers of earlier weights": teacher_of_earlier_weights,
}
