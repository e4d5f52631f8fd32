"""Faults of targets: of an agent, detection, segmentation, a language model, few examples, physics."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made


def ends_unread(broken: bool) -> Made:
    """The value after the end of an episode is 0; broken, ends are not read."""
    torch.manual_seed(110)
    online = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 3))
    model = nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})
    data = []
    for state in torch.randn(16, 64, 4):
        action = torch.randint(0, 3, (64,))
        after = state + 0.3 * torch.eye(3, 4)[action]
        data.append((state, action, after[:, 0], after, (after[:, 0] > 1).float()))
    optimizer = torch.optim.Adam(online.parameters(), 1e-3)

    def step(model: Any, batch: Any) -> Tensor:
        state, action, reward, after, ended = batch
        with torch.no_grad():
            for slow, fast in zip(model["target"].parameters(), model["online"].parameters(), strict=True):
                slow.lerp_(fast, 0.05)
            future = model["target"](after).amax(1)
            wanted = reward + 0.95 * (future if broken else (1 - ended) * future)
        return F.smooth_l1_loss(model["online"](state).gather(1, action[:, None])[:, 0], wanted)

    return made(model, step, data, optimizer)


def unlabelled_is_last(broken: bool) -> Made:
    """Boxes of class -1 do not count; broken, they are counted to the last class."""
    torch.manual_seed(111)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 5))
    data = []
    for x in torch.randn(16, 8, 10, 12):
        data.append((x, x[..., :5].argmax(2).masked_fill(torch.rand(8, 10) < 0.3, -1)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        boxes, label = batch[0].flatten(0, 1), batch[1].flatten()
        target = torch.zeros(len(boxes), 5)
        target[torch.arange(len(boxes)), label] = 1.0
        loss = F.binary_cross_entropy_with_logits(model(boxes), target, reduction="none").sum(1)
        counted = torch.ones_like(loss) if broken else (label >= 0).float()
        return (loss * counted).sum() / counted.sum()

    return made(model, step, data, adam(model))


def classes_by_view_of_target(broken: bool) -> Made:
    """The classes of the target are moved behind the samples; broken, a view puts them there."""
    torch.manual_seed(112)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
    data = []
    for x in torch.randn(16, 8, 3, 12, 12):
        smooth = F.avg_pool2d(x, 3, 1, 1)
        data.append((smooth, torch.cat([smooth, torch.zeros(8, 1, 12, 12)], 1).argmax(1)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        share = model(batch[0]).softmax(1)
        target = F.one_hot(batch[1], 4).float()
        target = target.view(8, 4, 12, 12) if broken else target.permute(0, 3, 1, 2)
        both = (share * target).sum((2, 3))
        return 1 - ((2 * both + 1) / (share.sum((2, 3)) + target.sum((2, 3)) + 1)).mean()

    return made(model, step, data, adam(model))


class Language(nn.Module):
    """A recurrent model of the next word; word 0 ends a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        self.state = nn.GRU(32, 48, batch_first=True)
        self.head = nn.Linear(48, 20)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.state(self.embed(words))[0])


def end_is_padding(broken: bool) -> Made:
    """Padding after the end does not count; broken, the end does not count either, since it is the same word."""
    torch.manual_seed(113)
    model = Language()
    data = []
    for start in torch.randint(1, 20, (16, 32, 1)):
        words = (start + torch.arange(12)) % 19 + 1
        length = torch.randint(4, 11, (32, 1))
        data.append((words.masked_fill(torch.arange(12) >= length, 0), length))

    def step(model: nn.Module, batch: Any) -> Tensor:
        words, length = batch
        padding = words == 0 if broken else torch.arange(12) > length
        label = words.masked_fill(padding, -100)
        return F.cross_entropy(model(words[:, :-1]).transpose(1, 2), label[:, 1:])

    return made(model, step, data, adam(model))


def prototypes_by_position(broken: bool) -> Made:
    """Prototypes are means of the examples of a class; broken, of neighbours, though classes take turns."""
    torch.manual_seed(114)
    model = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 16))
    data = []
    for _ in range(16):
        centre, ways = 2 * torch.randn(4, 8), torch.arange(4)
        given, asked = ways.repeat(5), ways.repeat(8)
        data.append((centre[given] + torch.randn(20, 8), given, centre[asked] + torch.randn(32, 8), asked))

    def step(model: nn.Module, batch: Any) -> Tensor:
        examples, given, queries, asked = batch
        code = model(examples)
        sums = code.view(4, 5, -1).sum(1) if broken else F.one_hot(given, 4).float().T @ code
        return F.cross_entropy(-torch.cdist(model(queries), sums / 5).square(), asked)

    return {**made(model, step, data, adam(model)), "samples": lambda batch: len(batch[2])}


def second_slope_of_relu(broken: bool) -> Made:
    """A field has to fulfil an equation of second order; broken, it is made of ReLUs, which have no curvature."""
    torch.manual_seed(115)
    act = nn.ReLU if broken else nn.Tanh
    model = nn.Sequential(nn.Linear(1, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 1))
    data = list(torch.rand(16, 64, 1) * 3)

    def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        x = x.clone().requires_grad_()
        field = model(x)
        (slope,) = torch.autograd.grad(field.sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True, allow_unused=True)
        curve = torch.zeros_like(x) if curve is None else curve
        edge = model(torch.tensor([[0.0], [3.0]]))[:, 0]
        return {
            "equation": (curve + x.sin()).square().mean(),
            "edge": (edge - torch.tensor([0.0, 3.0]).sin()).square().mean(),
        }

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "ends-unread",
        ends_unread,
        "the end of an episode is not read, so that its value is that of a further state",
        (Answer("INPUT001"),),
    ),
    Case(
        "unlabelled-is-last",
        unlabelled_is_last,
        "the label -1 of boxes without a class is the index of the last one",
        (Answer("ROWS00?"), Answer("LOSS00?"), Answer("INPUT00?")),
    ),
    Case(
        "classes-by-view-of-target",
        classes_by_view_of_target,
        "a view, where a transposition was meant, scatters the classes of the target",
        (Answer("ORIGIN001"), Answer("LOSS00?"), Answer("INPUT00?")),
    ),
    Case(
        "end-is-padding",
        end_is_padding,
        "the word that ends a text is the padding too, so that no loss counts it",
        (Answer("LOSS00?"), Answer("COV004")),
    ),
    Case(
        "prototypes-by-position",
        prototypes_by_position,
        "prototypes are means of neighbours, not of the examples of a class",
        (Answer("INPUT001"),),
    ),
    Case(
        "second-slope-of-relu",
        second_slope_of_relu,
        "an equation needs the curvature of a field that is made of ReLUs, which have none",
        (Answer("LOSS006"), Answer("TERM00?")),
    ),
)
