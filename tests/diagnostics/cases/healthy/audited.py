"""Eight healthy programs that look unusual, as arguments of an audit: no tool may accuse them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class FixedPoint(nn.Module):
    """A state that is refined without gradient, and then once with it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.core, self.head = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        given, state = self.enter(x), x.new_zeros(len(x), 16)
        with torch.no_grad():
            for _ in range(5):
                state = torch.tanh(self.core(state) + given)
        return self.head(torch.tanh(self.core(state) + given))


def one_step_gradient() -> Made:
    torch.manual_seed(0)
    model = FixedPoint()
    return made(model, loss_of, labelled(), adam(model))


class Graph(nn.Module):
    """Two layers of message passing over the nodes of one graph, which mix by design."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 16), nn.Linear(16, 4)
        edges = (torch.rand(40, 40) < 0.1).float() + torch.eye(40)
        self.register_buffer("edges", edges / edges.sum(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.edges @ self.second((self.edges @ self.first(x)).relu())


def nodes_of_a_graph() -> Made:
    """The same nodes in each step, of which half have a label."""
    torch.manual_seed(0)
    model = Graph()
    x = torch.randn(40, 10)
    batch = (x, x[:, :4].argmax(1), torch.arange(40) < 20)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0])[batch[2]], batch[1][batch[2]])

    return made(model, step, [batch] * 20, adam(model))


def target_copied_at_times() -> Made:
    """Q-learning whose target is overwritten in every tenth step."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    model = nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})
    optimizer, count = adam(online), [0]
    data = [(x, torch.randint(0, 3, (32, 1)), torch.randn(32)) for x in torch.randn(20, 32, 6)]

    def step(model: Any, batch: Any) -> float:
        if count[0] % 10 == 0:
            model["target"].load_state_dict(model["online"].state_dict())
        count[0] += 1
        with torch.no_grad():
            wanted = batch[2] + 0.9 * model["target"](batch[0].roll(1, 0)).amax(1)
        loss = F.smooth_l1_loss(model["online"](batch[0]).gather(1, batch[1]).squeeze(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def masked_autoencoder() -> Made:
    """Features are hidden in a clone and predicted; the labels of the loader are not read."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 10))
    mix = torch.randn(3, 10)

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0][:, :3] @ mix
        hidden = torch.rand_like(x) < 0.6
        given = x.clone().masked_fill_(hidden, 0.0)
        return ((model(given) - x).square() * hidden).sum() / hidden.sum()

    return made(model, step, labelled(), adam(model))


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = classifier(), classifier()
        self.log_scale = nn.Parameter(torch.tensor(2.0))


def image_and_text() -> Made:
    """A symmetric contrastive loss over the batch with a learnt temperature."""
    torch.manual_seed(0)
    model = TwoTowers()
    data = [(x, x.roll(1, 1) + 0.1 * torch.randn_like(x)) for x in torch.randn(20, 32, 10)]

    def step(model: Any, batch: Any) -> Tensor:
        image, text = F.normalize(model.image(batch[0]), dim=1), F.normalize(model.text(batch[1]), dim=1)
        scores, right = model.log_scale.exp() * image @ text.T, torch.arange(len(image))
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    return made(model, step, data, adam(model))


class Denoiser(nn.Module):
    """Predicts the noise; its last layer starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.body = nn.Linear(1, 16), nn.Linear(10, 16)
        self.out = nn.Linear(16, 10)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.out(F.silu(self.body(x) + self.time(time)))


def diffusion() -> Made:
    """Random times and noise, and an average of the weights inside the model, which is followed but never read."""
    torch.manual_seed(0)
    network = Denoiser()
    model = nn.ModuleDict({"network": network, "average": copy.deepcopy(network).requires_grad_(False)})
    optimizer = adam(network)

    def step(model: Any, batch: Any) -> float:
        noise, time = torch.randn_like(batch[0]), torch.rand(len(batch[0]), 1)
        loss = F.mse_loss(model["network"](batch[0] * (1 - time) + noise * time, time), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(model["average"].parameters()), list(model["network"].parameters()), 0.01
            )
        return loss.item()

    return made(model, step, labelled(), optimizer)


def summed_then_divided() -> Made:
    """Four micro-batches whose losses are sums; the gradient is divided by the samples before the update."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            loss = F.cross_entropy(model(x), y, reduction="sum")
            loss.backward()
            total += loss.item()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.div_(len(batch[0]))
        optimizer.step()
        return total / len(batch[0])

    return made(model, step, labelled(), optimizer)


def pseudo_labels() -> Made:
    """Labels of unlabelled samples come from a third call of the same network, without gradient."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": classifier()})

    def step(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            sure, label = model["body"](batch[0] + 0.05 * torch.randn_like(batch[0])).softmax(1).max(1)
        strong = model["body"](batch[0] + 0.2 * torch.randn_like(batch[0]))
        pseudo = (F.cross_entropy(strong, label, reduction="none") * (sure > 0.3)).mean()
        return F.cross_entropy(model["body"](batch[0]), batch[1]) + pseudo

    return made(model, step, labelled(), adam(model))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "gradient of the last step of a fixed point": one_step_gradient,
    "nodes of one graph, half of them labelled": nodes_of_a_graph,
    "target copied in every tenth step": target_copied_at_times,
    "masked autoencoder, labels unread": masked_autoencoder,
    "contrast of images and texts": image_and_text,
    "diffusion with an average inside": diffusion,
    "micro-batches summed, then divided": summed_then_divided,
    "labels from the network itself": pseudo_labels,
}
