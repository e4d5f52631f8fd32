"""Faults that were planted in whole training scripts of many kinds, in short form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made

B = 32


def network(given: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, 32), nn.ReLU(), nn.Linear(32, wanted))


def views_are_one(broken: bool) -> Made:
    """Two views of each sample are contrasted; broken, the loader augments once and returns that twice."""
    torch.manual_seed(0)
    data = []
    for x in torch.randn(20, B, 10):
        view = x + 0.1 * torch.randn_like(x)
        data.append((view, view.clone() if broken else x + 0.1 * torch.randn_like(x)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        one, other = (F.normalize(model(view), dim=1) for view in batch)
        return F.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))

    model = network(10, 8)
    return made(model, step, data, adam(model))


class Values(nn.Module):
    """Values of four actions, with a delayed copy."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.target = network(6, 4), network(6, 4)
        self.target.load_state_dict(self.q.state_dict())
        self.target.requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for old, new in zip(self.target.parameters(), self.q.parameters(), strict=True):
            old.lerp_(new, 0.05)


def _transitions(stays: bool = False) -> list[tuple[Tensor, ...]]:
    data = []
    for state in torch.randn(20, B, 6):
        after = state.clone() if stays else state + 0.3 * torch.randn_like(state)
        data.append((state, torch.randint(0, 4, (B, 1)), torch.randn(B), after))
    return data


def _value_step(dim: int) -> Any:
    def step(model: Any, batch: Any) -> Tensor:
        state, action, reward, after = batch
        model.follow()
        with torch.no_grad():
            goal = reward + 0.9 * model.target(after).max(1).values
        return F.smooth_l1_loss(model.q(state).gather(dim, action).squeeze(1), goal)

    return step


def next_is_state(broken: bool) -> Made:
    """A replay memory; broken, it stores the new state as the old one too."""
    torch.manual_seed(0)
    model = Values()
    return made(model, _value_step(1), _transitions(broken), adam(model.q))


def action_of_sample(broken: bool) -> Made:
    """The value of the action that was taken; broken, the action picks a sample."""
    torch.manual_seed(0)
    model = Values()
    return made(model, _value_step(0 if broken else 1), _transitions(), adam(model.q))


class Game(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = network(4, 6), network(6, 1)


def fakes_stay_fake(broken: bool) -> Made:
    """A generator and its critic; broken, the label is not set to real before the loss of the generator."""
    torch.manual_seed(0)
    model = Game()
    optimizers = [adam(model.judge), adam(model.maker)]

    def step(model: Any, batch: Tensor) -> None:
        label, fake = torch.ones(len(batch), 1), model.maker(torch.randn(len(batch), 4))
        optimizers[0].zero_grad()
        F.binary_cross_entropy_with_logits(model.judge(batch), label).backward()
        label.fill_(0.0)
        F.binary_cross_entropy_with_logits(model.judge(fake.detach()), label).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        if not broken:
            label.fill_(1.0)
        F.binary_cross_entropy_with_logits(model.judge(fake), label).backward()
        optimizers[1].step()

    return made(model, step, list(torch.randn(20, B, 6)), optimizers)


def ratio_inverted(broken: bool) -> Made:
    """A clipped policy gradient; broken, the old probability is divided by the new one."""
    torch.manual_seed(0)
    model = network(6, 4)
    data = [(x, torch.randint(0, 4, (B,)), torch.randn(B)) for x in torch.randn(20, B, 6)]
    data = [(x, action, torch.full((B,), -math.log(4)), gain) for x, action, gain in data]

    def step(model: nn.Module, batch: Any) -> Tensor:
        state, action, before, gain = batch
        now = torch.distributions.Categorical(logits=model(state)).log_prob(action)
        ratio = (before - now if broken else now - before).exp()
        return torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()

    return made(model, step, data, adam(model))


def observation_stays(broken: bool) -> Made:
    """Values of observations of four worlds; broken, the observation is not renewed after a step of the worlds."""
    torch.manual_seed(0)
    worlds = torch.randn(4, 6)
    data = []
    for _ in range(20):
        seen = worlds.repeat(B // 4, 1) if broken else torch.randn(B, 6)
        order = torch.randperm(B)
        data.append((seen[order], torch.randn(B, 1)))

    model = network(6, 1)
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, adam(model))


class Writer(nn.Module):
    """Writes a sequence token by token from a code."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.read, self.embed = nn.Linear(10, 16), nn.Embedding(12, 16)
        self.cell, self.broken = WriterCell(), broken

    def forward(self, code: Tensor, words: Tensor) -> Tensor:
        state, scores = self.read(code), torch.zeros(len(code), words.shape[1], 12)
        for place in range(1, words.shape[1]):
            answer, after = self.cell(self.embed(words[:, place - 1]), state)
            scores[:, place] = answer
            state = state if self.broken else after
        return scores


class WriterCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unit, self.head = nn.GRUCell(16, 16), nn.Linear(16, 12)

    def forward(self, word: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.unit(word, state)
        return self.head(state), state


def _texts() -> list[tuple[Tensor, Tensor]]:
    return [
        (x, torch.cat([torch.ones(B, 1).long(), x[:, :5].mul(3).long() % 10 + 2], 1))
        for x in torch.randn(20, B, 10)
    ]


def first_score_counted(broken: bool) -> Made:
    """A decoder begins at the second place; broken, its loss counts the scores of the first, which are zeros."""
    torch.manual_seed(0)
    model, first = Writer(), 0 if broken else 1

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(*batch)[:, first:]
        return F.cross_entropy(scores.reshape(-1, 12), batch[1][:, first:].reshape(-1))

    return made(model, step, _texts(), adam(model))


def state_not_passed(broken: bool) -> Made:
    """A decoder passes its state on; broken, each word is written from the first state."""
    torch.manual_seed(0)
    model = Writer(broken)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(*batch)[:, 1:].reshape(-1, 12), batch[1][:, 1:].reshape(-1))

    return made(model, step, _texts(), adam(model))


class Forecast(nn.Module):
    """The next values of a series; broken, it starts from noise."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.read, self.head, self.noise = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 3), noise

    def forward(self, x: Tensor) -> Tensor:
        start = torch.randn(1, len(x), 16) if self.noise else torch.zeros(1, len(x), 16)
        return self.head(self.read(x, (start, torch.zeros_like(start)))[0][:, -1])


def _windows(gap: int = 0) -> list[tuple[Tensor, Tensor]]:
    series = (torch.arange(2000) / 7).sin() + 0.1 * torch.randn(2000)
    starts = torch.randint(0, 1900, (20, B))
    return [
        (
            torch.stack([series[i : i + 12] for i in row])[..., None],
            torch.stack([series[i + 12 - gap : i + 15 - gap] for i in row]),
        )
        for row in starts.tolist()
    ]


def _forecast_step(model: nn.Module, batch: Any) -> Tensor:
    return F.huber_loss(model(batch[0]), batch[1])


def state_of_noise(broken: bool) -> Made:
    """A recurrent layer starts from zeros; broken, from new random numbers."""
    torch.manual_seed(0)
    model = Forecast(broken)
    return made(model, _forecast_step, _windows(), adam(model))


def window_overlaps(broken: bool) -> Made:
    """The next three values of a window; broken, the first of them is the last of the window."""
    torch.manual_seed(0)
    model = Forecast()
    return made(model, _forecast_step, _windows(1 if broken else 0), adam(model))


class Up(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.grow, self.join, self.broken = nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 3, 1, 1), broken

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.grow(x)
        return self.join(torch.cat([x if self.broken else skip, x], 1)).relu()


class Segmenter(nn.Module):
    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.up, self.last = Up(broken), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(x).relu()
        return self.last(self.up(self.down(fine).relu(), fine))


def _pictures(scale: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    data = []
    for noise in torch.randn(16, 16, 1, 8, 8):
        masks = torch.zeros_like(noise)
        masks[:, :, 2:4, 3:5] = scale
        masks = torch.stack([each.roll(int(torch.randint(0, 4, ())), 2) for each in masks])
        data.append((masks / scale + 0.3 * noise, masks))
    return data


def _mask_step(model: nn.Module, batch: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def skip_unread(broken: bool) -> Made:
    """Features of two resolutions are joined; broken, the coarse ones with themselves."""
    torch.manual_seed(0)
    model = Segmenter(broken)
    return made(model, _mask_step, _pictures(), adam(model))


def masks_of_255(broken: bool) -> Made:
    """Masks of zeros and ones; broken, a few pixels are 255, as in the file."""
    torch.manual_seed(0)
    model = Segmenter()
    return made(model, _mask_step, _pictures(255.0 if broken else 1.0), adam(model, 1e-4))


class Coder(nn.Module):
    """A variational autoencoder."""

    def __init__(self, uniform: bool = False) -> None:
        super().__init__()
        self.into, self.mean, self.spread, self.back = (
            nn.Linear(20, 32),
            nn.Linear(32, 4),
            nn.Linear(32, 4),
            network(4, 20),
        )
        self.uniform = uniform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.into(x).relu()
        mean, spread = self.mean(found), self.spread(found)
        deviation = (0.5 * spread).exp()
        noise = torch.rand_like(deviation) if self.uniform else torch.randn_like(deviation)
        return self.back(mean + noise * deviation), mean, spread


def _coder(broken: bool, averaged: bool) -> Made:
    torch.manual_seed(0)
    model = Coder(broken and not averaged)
    shown = (torch.rand(4, 20) > 0.5).float()
    data = [(shown[torch.randint(0, 4, (B,))] - flip).abs() for flip in (torch.rand(20, B, 20) < 0.1).float()]

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        found, mean, spread = model(batch)
        each = 1 + spread - mean.square() - spread.exp()
        divergence = -0.5 * (each.mean() if broken and averaged else each.sum())
        return F.binary_cross_entropy_with_logits(found, batch, reduction="sum") + divergence

    return made(model, step, data, adam(model, 1e-3))


def divergence_averaged(broken: bool) -> Made:
    """Both terms are summed over the batch; broken, the divergence is its mean."""
    return _coder(broken, averaged=True)


def noise_from_0_to_1(broken: bool) -> Made:
    """The noise of a code is normal; broken, it is uniform, and so has a mean of one half."""
    return _coder(broken, averaged=False)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, links: Tensor) -> Tensor:
        return links @ self.second((links @ self.first(nodes)).relu())


def degree_of_zero(broken: bool) -> Made:
    """Links are normalised by degrees; broken, without links to oneself, so that a lone node divides by zero."""
    torch.manual_seed(0)
    links = (torch.rand(60, 60) < 0.03).float().triu(1)
    links = links + links.T + (0.0 if broken else 1.0) * torch.eye(60)
    scale = links.sum(1).rsqrt()
    links, model = scale[:, None] * links * scale, Graph()
    nodes = torch.randn(60, 6)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(nodes, links), nodes[:, :3].argmax(1))

    return made(model, step, [nodes], adam(model)) | {"samples": lambda batch: 60}


class Timed(nn.Module):
    """A denoiser that gets the time as an input; broken, its block receives zeros instead."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.time, self.into, self.shift = network(1, 16), nn.Linear(2, 16), nn.Linear(16, 16)
        self.last, self.broken = nn.Linear(16, 2), broken

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        code = self.time(time)
        code = torch.zeros_like(code) if self.broken else code
        return self.last((self.into(x) + self.shift(code)).tanh())


def time_of_zeros(broken: bool) -> Made:
    """Noise is predicted at a time; broken, the block is given zeros instead of the code of the time."""
    torch.manual_seed(0)
    model = Timed(broken)

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        time, noise = torch.rand(len(batch), 1), torch.randn_like(batch)
        return F.mse_loss(model((1 - time) * batch + time * noise, time), noise)

    return made(model, step, list(torch.randn(20, B, 2)), adam(model))


def _speech(model: nn.Module, kind: str) -> Made:
    data = [(x, torch.randint(1, 6, (16, 3))) for x in torch.randn(20, 16, 12, 8)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(batch[0])
        odds = scores.log_softmax(1 if kind == "over-time" else -1)
        odds = odds.view(12, 16, 6) if kind == "view" else odds.transpose(0, 1)
        lengths = [torch.full((16,), size) for size in (12, 3)]
        return F.ctc_loss(odds, batch[1], *lengths)

    return made(model, step, data, adam(model))


def softmax_over_time(broken: bool) -> Made:
    """Letters compete at each frame; broken, the frames compete for each letter."""
    torch.manual_seed(0)
    return _speech(network(8, 6), "over-time" if broken else "")


def view_for_transpose(broken: bool) -> Made:
    """The frames come first in an alignment; broken, view() gives the numbers that shape."""
    torch.manual_seed(0)
    return _speech(network(8, 6), "view" if broken else "")


class Speaker(nn.Module):
    """A causal model of tokens; broken, its mask is that of later tokens."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(12, 16), nn.Embedding(8, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.head, self.broken = nn.Linear(16, 12), broken

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        square = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4
        scores = scores.masked_fill(~(square.triu() if self.broken else square.tril()), -math.inf)
        return self.head(x + scores.softmax(-1) @ self.value(x))


def mask_shows_later(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Speaker(broken)
    data = list(
        (torch.randint(0, 12, (20, B, 1)) + 5 * torch.arange(9) + torch.randint(0, 2, (20, B, 9))) % 12
    )

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).reshape(-1, 12), batch[:, 1:].reshape(-1))

    return made(model, step, data, adam(model))


def average_of_itself(broken: bool) -> Made:
    """An average follows the weights; broken, it is the model."""
    torch.manual_seed(0)
    model = classifier()
    average = model if broken else classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.1)
        return F.cross_entropy(model(batch[0]), batch[1])

    return made(model, step, labelled(), adam(model))


class Flow(nn.Module):
    """Two coupling layers, which return the logarithm of the determinant too."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.scale, self.shift = (nn.ModuleList(network(2, 4) for _ in range(4)) for _ in range(2))
        self.fixed = fixed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x))
        for place, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            kept, other = x.chunk(2, 1) if self.fixed or place % 2 else x.chunk(2, 1)[::-1]
            size = scale(kept)[:, :2].tanh()
            other, total = other * size.exp() + shift(kept)[:, :2], total + size.sum(1)
            x = torch.cat([kept, other] if self.fixed or place % 2 else [other, kept], 1)
        return x, total


def _flow(broken: bool, fixed: bool) -> Made:
    torch.manual_seed(0)
    model = Flow(broken and fixed)

    def step(model: nn.Module, batch: Tensor) -> Tensor:
        code, total = model(batch)
        likelihood = -0.5 * code.square().sum(1)
        return -(likelihood if broken and not fixed else likelihood + total).mean()

    return made(model, step, [x.exp() for x in torch.randn(20, B, 4)], adam(model))


def determinant_left_out(broken: bool) -> Made:
    """The likelihood of a flow has its determinant; broken, that of the code alone is maximised."""
    return _flow(broken, fixed=False)


def halves_not_exchanged(broken: bool) -> Made:
    """Both halves are transformed in turn; broken, always the second."""
    return _flow(broken, fixed=True)


def order_exchanged(broken: bool) -> Made:
    """A bought item ranks above a drawn one; broken, below."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"user": nn.Embedding(50, 8), "item": nn.Embedding(80, 8)})
    data = [(user, user * 3 % 80, torch.randint(0, 80, (B,))) for user in torch.randint(0, 50, (20, B))]

    def step(model: Any, batch: Any) -> Tensor:
        user, bought, drawn = batch
        one, other = ((model["user"](user) * model["item"](each)).sum(1) for each in (bought, drawn))
        return -F.logsigmoid(other - one if broken else one - other).mean()

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "views-are-one",
        views_are_one,
        "two views that are contrasted are one",
        (Answer("INPUT004", "", "same-data-twice"), Answer("LOSS003", "", "finds-itself")),
    ),
    Case(
        "next-is-state",
        next_is_state,
        "a replay memory stores the new state as the old one",
        (Answer("INPUT004", "", "same-data-twice"),),
    ),
    Case(
        "action-of-sample",
        action_of_sample,
        "the action picks a sample where it is to pick a value",
        (Answer("LOSS003", "q", "picks-samples"),),
    ),
    Case(
        "fakes-stay-fake",
        fakes_stay_fake,
        "the label of the generator's loss is that of a fake",
        (Answer("LOSS004", "", "opponents-agree"),),
    ),
    Case(
        "ratio-inverted",
        ratio_inverted,
        "the old probability is divided by the new one",
        (Answer("LOSS003", "", "ratio-inverted"),),
    ),
    Case(
        "observation-stays",
        observation_stays,
        "the observation is not renewed",
        (Answer("INPUT004", "", "few-different-rows"),),
    ),
    Case(
        "first-score-counted",
        first_score_counted,
        "the loss counts scores that nothing has written",
        (Answer("LOSS003", "", "scores-never-written"),),
    ),
    Case(
        "state-not-passed",
        state_not_passed,
        "a decoder drops its state",
        (Answer("STATE002", "cell", "state-dropped"),),
    ),
    Case(
        "state-of-noise",
        state_of_noise,
        "a recurrent layer starts from noise",
        (Answer("STATE002", "read", "noise-as-state"),),
    ),
    Case(
        "window-overlaps",
        window_overlaps,
        "the first target is the last input",
        (Answer("LEAK003", "", "target-in-input"),),
    ),
    Case(
        "skip-unread",
        skip_unread,
        "coarse features are joined with themselves",
        (Answer("INPUT001", "up", "*joined*"),),
    ),
    Case(
        "masks-of-255",
        masks_of_255,
        "a few pixels of the masks are 255",
        (Answer("LOSS003", "", "not-probabilities"),),
    ),
    Case(
        "divergence-averaged",
        divergence_averaged,
        "one term is summed over the batch, another averaged",
        (Answer("LOSS007", "", "sum-and-mean"),),
    ),
    Case(
        "noise-from-0-to-1",
        noise_from_0_to_1,
        "the noise of a code is uniform",
        (Answer("LOSS003", "", "noise-one-sided"),),
    ),
    Case(
        "degree-of-zero",
        degree_of_zero,
        "links are divided by a degree of zero",
        (Answer("INPUT005", "", "nan-in-input"),),
    ),
    Case(
        "time-of-zeros",
        time_of_zeros,
        "a block is given zeros instead of the code of the time",
        (Answer("GRAD001", "time"), Answer("REACH002", "shift", "zero-input")),
    ),
    Case(
        "softmax-over-time",
        softmax_over_time,
        "frames compete for a letter, not letters for a frame",
        (Answer("LOSS003", "", "not-logarithms"),),
    ),
    Case(
        "view-for-transpose",
        view_for_transpose,
        "view() stands where transpose() was meant",
        (Answer("LOSS003", "", "dimensions-exchanged-by-view"), Answer("LEAK001")),
    ),
    Case(
        "mask-shows-later",
        mask_shows_later,
        "the causal mask is inverted",
        (Answer("SOFTMAX001", "", "sees-later-alone"), Answer("LEAK002")),
    ),
    Case(
        "average-of-itself",
        average_of_itself,
        "an average of the weights is the model itself",
        (Answer("SHARE004"),),
    ),
    Case("determinant-left-out", determinant_left_out, "the determinant of a flow is not in its likelihood"),
    Case("halves-not-exchanged", halves_not_exchanged, "a flow never transforms half of its dimensions"),
    Case("order-exchanged", order_exchanged, "a bought item is to rank below a drawn one"),
)
