"""Fourteen faults in programs of several domains: adapters, speech, detection, graphs, diffusion, policies; own code.

Some programs have their own loop and return a number, as scripts do that are watched by a `Monitor`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank update; broken, both factors start at zero."""

    def __init__(self, base: nn.Linear, broken: bool = False) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(4, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 4))
        if not broken:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * (x @ self.down.T) @ self.up.T


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())


def adapter_of_zeros(broken: bool) -> Made:
    torch.manual_seed(0)
    body = _body()
    for number in (0, 2):
        body[number] = Adapted(body[number], broken)
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", nn.Linear(32, 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def adapter_not_inserted(broken: bool) -> Made:
    """Adapters replace the layers of a frozen body; broken, they replace the variable of the loop alone."""
    torch.manual_seed(0)
    body, adapters = _body(), []
    for name, layer in list(body.named_children()):
        if isinstance(layer, nn.Linear):
            layer = Adapted(layer)
            adapters.append(layer)
            if not broken:
                setattr(body, name, layer)
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", nn.Linear(32, 4))
    trained = [p for part in (*adapters, model.head) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-3)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    case = made(model, step, labelled(), optimizer)
    return case | {"expect_frozen": ["body.0", "body.2"]} if broken else case


class Listener(nn.Module):
    """Frames to letters: strided convolutions, then a recurrence."""

    def __init__(self, strides: tuple[int, int], letters: int = 8) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(letters, 32, 3, strides[0], 1),
            nn.ReLU(),
            nn.Conv1d(32, 32, 3, strides[1], 1),
            nn.ReLU(),
        )
        self.rnn, self.head = nn.GRU(32, 32, batch_first=True), nn.Linear(32, letters)
        self.factor = strides[0] * strides[1]

    def forward(self, frames: Tensor) -> Tensor:
        found = self.front(frames.transpose(1, 2)).transpose(1, 2)
        return self.head(self.rnn(found)[0]).log_softmax(2)


def _spoken(first: int, frames: int, letters: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Sounds of six letters each, `frames` frames per letter."""
    data = []
    for _ in range(20):
        text = torch.randint(first, letters, (16, 6))
        sound = F.one_hot(text, letters).float().repeat_interleave(frames, 1)
        data.append((sound + 0.3 * torch.randn_like(sound), text))
    return data


def _ctc(model: Any, batch: Any, **given: Any) -> Tensor:
    sound, text = batch
    scores = model(sound).transpose(0, 1)
    heard = torch.full((len(text),), scores.shape[0])
    return F.ctc_loss(scores, text, heard, torch.full((len(text),), text.shape[1]), **given)


def blank_is_a_letter(broken: bool) -> Made:
    """The letters are numbered from 0, which the loss takes for the blank; fixed, from 1."""
    torch.manual_seed(0)
    model = Listener((1, 2))
    return made(model, _ctc, _spoken(0 if broken else 1, 4), adam(model))


def too_short_to_align(broken: bool) -> Made:
    """Broken, strides leave five frames for six letters, and zero_infinity hides that no alignment exists."""
    torch.manual_seed(0)
    model = Listener((3, 2) if broken else (1, 2))
    data = []
    for sound, text in _spoken(1, 5):
        text = text.clone()
        text[:3, 3:] = 0  # three of the samples have half of the letters
        data.append((sound, text))

    def step(model: nn.Module, batch: Any) -> Tensor:
        sound, text = batch
        scores = model(sound).transpose(0, 1)
        heard = torch.full((len(text),), scores.shape[0])
        return F.ctc_loss(scores, text, heard, (text > 0).sum(1), zero_infinity=True)

    return made(model, step, data, adam(model))


class Detector(nn.Module):
    """One object per image: its class and its box."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.classes, self.box = nn.Linear(32 * 64, 3), nn.Linear(32 * 64, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.trunk(images)
        return self.classes(found), self.box(found)


def boxes_in_pixels(broken: bool) -> Made:
    """Two losses are added; broken, boxes are in pixels, so that the squared error of boxes is all that counts."""
    torch.manual_seed(0)
    model, data = Detector(), []
    for _ in range(12):
        kind, corner = torch.randint(0, 3, (16,)), torch.randint(0, 16, (16, 2))
        images = 0.1 * torch.randn(16, 3, 32, 32)
        for image, colour, (x, y) in zip(images, kind, corner.tolist(), strict=True):
            image[colour, y : y + 12, x : x + 12] += 1
        data.append((images, kind, torch.cat([corner, corner + 12], 1).float() * 20))
    optimizer = adam(model, 1e-3)

    def step(model: nn.Module, batch: Any) -> float:
        images, kind, boxes = batch
        optimizer.zero_grad()
        scores, found = model(images)
        loss = F.cross_entropy(scores, kind) + F.mse_loss(found, boxes if broken else boxes / 640)
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def target_unscaled(broken: bool) -> Made:
    """Prices in dollars; broken, the network starts at 0 and moves by a thousandth per step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = adam(model, 1e-3)
    data = []
    for x in torch.randn(20, 32, 8):
        price = 180_000 + 40_000 * x[:, 0] + 20_000 * x[:, 1] * x[:, 2]
        data.append((x, price if broken else (price - 180_000) / 45_000))

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch[0]).squeeze(1), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


class Graphs(nn.Module):
    """Sends messages along edges, and answers per graph."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.message, self.head = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(48, 2)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor, graphs: int) -> Tensor:
        state = self.enter(nodes).relu()
        sent = self.message(state[edges[0]]).relu()
        state = torch.cat([state, torch.zeros_like(state).index_add(0, edges[1], sent)], 1)
        return self.head(torch.zeros(graphs, 48).index_add(0, graph, state))


def edges_not_offset(broken: bool) -> Made:
    """Graphs are put into one by concatenation; broken, the numbers of nodes in their edges stay those of one graph."""
    torch.manual_seed(0)
    model, data = Graphs(), []
    for _ in range(20):
        nodes, edges, graph, labels = [], [], [], []
        for number in range(12):
            size, before = 5 + number % 4, sum(map(len, nodes))
            ring = torch.arange(size)
            ends = torch.stack([ring, ring.roll(1)])
            one = torch.randn(size, 6)
            labels.append(int((one[:, 0] * one[ends[0].roll(-1), 0]).sum() > 0))
            nodes.append(one)
            edges.append(ends if broken else ends + before)
            graph.append(torch.full((size,), number))
        data.append((torch.cat(nodes), torch.cat(edges, 1), torch.cat(graph), torch.tensor(labels)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        nodes, edges, graph, labels = batch
        return F.cross_entropy(model(nodes, edges, graph, len(labels)), labels)

    return made(model, step, data, adam(model)) | {"samples": lambda batch: len(batch[3])}


class Siamese(nn.Module):
    """An encoder with a projector, and a predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16))
        self.predictor = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.encoder(x)
        return found, self.predictor(found)


def target_not_stopped(broken: bool) -> Made:
    """Two views are drawn together; broken, the target has gradient too, so that all views become one."""
    torch.manual_seed(0)
    model = Siamese()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        (one, guess), (other, answer) = (model(batch[0] + 0.3 * torch.randn(32, 12)) for _ in range(2))
        targets = (one, other) if broken else (one.detach(), other.detach())
        near = F.cosine_similarity(guess, targets[1]).mean() + F.cosine_similarity(answer, targets[0]).mean()
        loss = -near / 2
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, [(x,) for x in torch.randn(20, 32, 12)], optimizer)


def action_drawn_again(broken: bool) -> Made:
    """A policy gradient; broken, the log-probability is that of an action drawn anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))

    def step(model: nn.Module, batch: Any) -> Tensor:
        states = batch[0]
        policy = torch.distributions.Categorical(logits=model(states))
        actions = policy.sample()
        rewards = (actions == states[:, :4].argmax(1)).float()
        taken = policy.sample() if broken else actions
        return -(policy.log_prob(taken) * (rewards - rewards.mean())).mean()

    return made(model, step, [(states,) for states in torch.randn(20, 64, 6)], adam(model))


def one_loss_unscaled(broken: bool) -> Made:
    """Mixed precision with two losses; broken, the second is not multiplied with the scale that is divided out."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(10, 32), "classes": nn.Linear(32, 4), "size": nn.Linear(32, 1)})
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any) -> float:
        x, labels = batch
        optimizer.zero_grad()
        found = model["body"](x).relu()
        first = F.cross_entropy(model["classes"](found), labels)
        second = F.mse_loss(model["size"](found.detach()).squeeze(1), x.square().mean(1))
        scaler.scale(first).backward()
        (second if broken else scaler.scale(second)).backward()
        scaler.step(optimizer)
        scaler.update()
        return (first + second).item()

    return made(model, step, labelled(), optimizer)


class Heads(nn.Module):
    """Causal attention written by hand; broken, the heads are merged without moving their axis back."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.mixed, self.out, self.broken = nn.Linear(32, 96), nn.Linear(32, 32), broken

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, 4, 8).transpose(1, 2) for part in self.mixed(x).chunk(3, 2)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(8)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        found = scores.masked_fill(later, -math.inf).softmax(3) @ value
        return self.out((found if self.broken else found.transpose(1, 2)).reshape(batch, length, width))


class Speaker(nn.Module):
    """A language model of one block."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(24, 32), nn.Embedding(16, 32)
        self.norm, self.attend, self.head = nn.LayerNorm(32), Heads(broken), nn.Linear(32, 24)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        return self.head(x + self.attend(self.norm(x)))


def heads_merged_by_reshape(broken: bool) -> Made:
    torch.manual_seed(0)
    model, data = Speaker(broken), []
    for start, stride in zip(
        torch.randint(0, 24, (20, 32, 1)), torch.randint(1, 4, (20, 32, 1)), strict=True
    ):
        data.append(((start + stride * torch.arange(13)) % 24,))

    def step(model: nn.Module, batch: Any) -> Tensor:
        ids = batch[0]
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    return made(model, step, data, adam(model))


def sinusoids(times: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width), for times that are counted in steps."""
    angles = times[:, None] * torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimedDenoiser(nn.Module):
    """Predicts noise, given the time through sinusoids; broken, they receive the time as a share of 1."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter, self.middle, self.leave = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 8)
        self.broken = broken

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(sinusoids(t / 1000 if self.broken else t.float(), 32))
        return self.leave(F.silu(self.middle(F.silu(self.enter(x) + time))))


def time_scaled_away(broken: bool) -> Made:
    torch.manual_seed(0)
    model = TimedDenoiser(broken)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    data = [(torch.sign(torch.randn(64, 1)) + 0.2 * torch.randn(64, 8),) for _ in range(20)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        t, noise = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
        noisy = kept[t].sqrt()[:, None] * x + (1 - kept[t]).sqrt()[:, None] * noise
        return F.mse_loss(model(noisy, t), noise)

    return made(model, step, data, adam(model, 1e-3))


def several_in_one_softmax(broken: bool) -> Made:
    """Tags that do not exclude each other; broken, they are the targets of a softmax, where they sum to several."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 6))
    data = [(x, (x[:, :6] > 0).float()) for x in torch.randn(20, 32, 10)]
    criterion = nn.CrossEntropyLoss() if broken else nn.BCEWithLogitsLoss()
    return made(model, lambda model, batch: criterion(model(batch[0]), batch[1]), data, adam(model))


def smoothing_is_confidence(broken: bool) -> Made:
    """Broken, the smoothing of the labels is the confidence that was to be left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.9 if broken else 0.1)
    return made(model, lambda model, batch: criterion(model(batch[0]), batch[1]), labelled(), adam(model))


CASES = (
    Case(
        "adapter-of-zeros",
        adapter_of_zeros,
        "both factors of a low-rank adapter start at zero, so that neither gets gradient",
        (
            Answer("GRAD*", "body*", "*zero*"),
            Answer("GRAD002", "body*"),
            Answer("INIT*", "body*"),
            Answer("UNITS001", "body*", "same-start-still"),
            Answer("MOVE*", "body*", "*zero*"),
        ),
    ),
    Case(
        "adapter-not-inserted",
        adapter_not_inserted,
        "adapters are made and given to the optimiser, but the model keeps its own layers",
        (Answer("*", "*", "*outside*"), Answer("*", "*", "*not-in-model*"), Answer("HIDDEN*")),
    ),
    Case(
        "blank-is-a-letter",
        blank_is_a_letter,
        "a letter has the number that the alignment loss takes for the blank",
        (Answer("LOSS003", "*", "*blank*"), Answer("*", "*", "*blank*")),
    ),
    Case(
        "too-short-to-align",
        too_short_to_align,
        "the encoder leaves fewer frames than letters, and zero_infinity makes such losses 0",
        (
            Answer("COV*", "*", "*align*"),
            Answer("LOSS*", "*", "*align*"),
            Answer("LOSS*", "*", "*infinit*"),
            Answer("COV001", "*"),
            Answer("COV002", "*"),
        ),
    ),
    Case(
        "boxes-in-pixels",
        boxes_in_pixels,
        "boxes are in pixels, so that their squared error drowns the loss of the classes",
        (
            Answer("UNITS*", "*"),
            Answer("*", "*", "*drown*"),
            Answer("*", "*", "*reach*"),
            Answer("TERM*", "*", "*small*"),
            Answer("TARGET*", "*", "*scale*"),
            Answer("*", "*", "*range*"),
        ),
    ),
    Case(
        "target-unscaled",
        target_unscaled,
        "targets are in the hundred thousands, and the output moves by thousandths",
        (
            Answer("UNITS*", "*"),
            Answer("TARGET*", "*"),
            Answer("*", "*", "*range*"),
            Answer("*", "*", "*reach*"),
            Answer("*", "*", "*scale*"),
        ),
    ),
    Case(
        "edges-not-offset",
        edges_not_offset,
        "edges of concatenated graphs all point into the first graph",
        (
            Answer("ROWS003"),
            Answer("COV00[12]", "message"),
            Answer("*", "*", "*offset*"),
            Answer("INPUT*", "message"),
            Answer("LEAK*", "*"),
        ),
    ),
    Case(
        "target-not-stopped",
        target_not_stopped,
        "the target of a siamese network has gradient, so that it collapses",
        (
            Answer("LOSS003", "*", "both-sides-trained"),
            Answer("COLLAPSE*", "encoder*"),
            Answer("COLLAPSE*", ""),
            Answer("TARGET*", "*"),
        ),
    ),
    Case(
        "action-drawn-again",
        action_drawn_again,
        "the log-probability is that of another draw than the action that was rewarded",
        (Answer("*", "*", "*drawn*"), Answer("*", "*", "*random*"), Answer("ORIGIN*")),
    ),
    Case(
        "one-loss-unscaled",
        one_loss_unscaled,
        "one of two losses is not scaled, and its gradient is divided by the scale",
        (
            Answer("*", "size", "*scale*"),
            Answer("GRAD005", "size"),
            Answer("MOVE*", "size"),
        ),
    ),
    Case(
        "heads-merged-by-reshape",
        heads_merged_by_reshape,
        "a reshape merges heads without moving their axis back, which mixes the tokens",
        (Answer("LEAK*", "*", "*future*"), Answer("LEAK002"), Answer("LEAK003"), Answer("ORIGIN*")),
    ),
    Case(
        "time-scaled-away",
        time_scaled_away,
        "sinusoids for a thousand steps receive times between 0 and 1, so that all look alike",
        (
            Answer("RESPONSE*", "*"),
            Answer("INPUT*", "time*"),
            Answer("REACH*", "time*"),
            Answer("COLLAPSE*", "time*"),
        ),
    ),
    Case(
        "several-in-one-softmax",
        several_in_one_softmax,
        "tags that do not exclude each other are the targets of a softmax",
        (Answer("LOSS003", "*", "*sum*"), Answer("LOSS003", "*", "*probabilit*"), Answer("LOSS003")),
    ),
    Case(
        "smoothing-is-confidence",
        smoothing_is_confidence,
        "the smoothing of the labels is 0.9, the confidence that was to be left",
        (Answer("LOSS*", "*", "*smooth*"), Answer("*", "*", "*smooth*")),
    ),
)
