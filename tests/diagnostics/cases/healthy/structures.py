"""Healthy programs whose models or loops are built in unusual ways: no tool may accuse them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.faults.further import adam, made_of_lengths
from tests.diagnostics.cases.faults.losses import Made, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Recursive(nn.Module):
    """Two states that one block refines: all cycles but the last run without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = (
            nn.Linear(10, 16),
            nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16)),
        )
        self.norm, self.head, self.halt = nn.LayerNorm(16), nn.Linear(16, 4), nn.Linear(16, 1)

    def cycle(self, given: Tensor, answer: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(2):
            latent = self.norm(latent + self.block(latent + answer + given))
        return self.norm(answer + self.block(answer + latent)), latent

    def forward(self, x: Tensor, answer: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = self.embed(x)
        with torch.no_grad():
            answer, latent = self.cycle(given, answer, latent)
        answer, latent = self.cycle(given, answer, latent)
        return answer.detach(), latent.detach(), self.head(answer), self.halt(answer).squeeze(1)


def recursion_with_supervision() -> Made:
    """Several updates per batch. Each starts from the states that the last one left."""
    torch.manual_seed(0)
    model = Recursive()
    optimizer = adam(model)

    def step(model: nn.Module, batch: Any) -> float:
        answer = latent = batch[0].new_zeros(len(batch[0]), 16)
        total = 0.0
        for _ in range(3):
            answer, latent, logits, halt = model(batch[0], answer, latent)
            right = (logits.argmax(1) == batch[1]).float()
            loss = F.cross_entropy(logits, batch[1]) + 0.5 * F.binary_cross_entropy_with_logits(halt, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return made(model, step, labelled(), optimizer)


def declared_recursion() -> Made:
    """The same, with the calls without gradient declared."""
    return recursion_with_supervision() | {"expect_partial": ["block", "norm"]}


class Experts(nn.Module):
    """Each token goes to one of eight experts; most get few tokens, some none."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.router, self.head = nn.Linear(10, 16), nn.Linear(16, 8, bias=False), nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(8)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.enter(x)
        shares = self.router(h).softmax(1)
        weight, chosen = shares.max(1)
        out = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                out = out.index_add(0, rows, weight[rows, None] * expert(h[rows]))
        balance = 8 * (F.one_hot(chosen, 8).float().mean(0) * shares.mean(0)).sum()
        return self.head(h + out), balance


def mixture_of_experts() -> Made:
    torch.manual_seed(0)
    model = Experts()

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits, balance = model(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.01 * balance

    return made(model, step, labelled(size=12), adam(model))


class LowRank(nn.Module):
    """A frozen layer and a low-rank change of it that starts at zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class Backbone(nn.Module):
    """A small transformer whose blocks are checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 16), nn.Parameter(torch.randn(8, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.score = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        state = self.embed(ids) + self.place
        for block in self.blocks:
            state = checkpoint(block, state, use_reentrant=False)
        return self.score(state.mean(1))


def low_rank_adapters() -> Made:
    """Adapters in the feed-forward layers of a frozen transformer with checkpoints; the head is trained whole."""
    torch.manual_seed(0)
    model = Backbone().requires_grad_(False)
    for block in model.blocks:
        block.linear1 = LowRank(block.linear1)
        block.linear2 = LowRank(block.linear2)
    model.score.requires_grad_(True)
    data = [(ids, ids[:, 0] % 3) for ids in torch.randint(0, 20, (20, 32, 8))]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return made(model, loss_of, data, torch.optim.AdamW(trained, 3e-3))


class Prompted(nn.Module):
    """A frozen language model behind eight trained vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = Backbone().requires_grad_(False)
        self.prompt = nn.Parameter(0.5 * torch.randn(4, 16))
        self.frozen.eval()

    def train(self, mode: bool = True) -> Prompted:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, ids: Tensor) -> Tensor:
        words = self.frozen.embed(ids) + self.frozen.place
        state = torch.cat([self.prompt.expand(len(ids), 4, 16), words], 1)
        for block in self.frozen.blocks:
            state = block(state)
        return self.frozen.score(state[:, :4].mean(1))


def prompt_tuning() -> Made:
    torch.manual_seed(0)
    model = Prompted()
    data = [(ids, ids[:, 0] % 3) for ids in torch.randint(0, 20, (20, 32, 8))]
    return made(model, loss_of, data, torch.optim.Adam([model.prompt], 1e-2))


def gradual_unfreezing() -> Made:
    """The head first, then one more layer after every five steps, with a smaller rate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    optimizer, count = torch.optim.Adam(model[4].parameters(), 3e-3), [0]
    waiting = {5: model[2], 10: model[0]}

    def step(model: nn.Module, batch: Any) -> float:
        layer = waiting.pop(count[0], None)
        count[0] += 1
        if layer is not None:
            optimizer.add_param_group({"params": layer.requires_grad_(True).parameters(), "lr": 1e-3})
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(32, 4) for name in ("colour", "shape", "place", "count", "size")}
        )


def task_per_step() -> Made:
    """Five tasks in turn: a step trains the body and one head."""
    torch.manual_seed(0)
    model, count = Heads(), [0]

    def step(model: Any, batch: Any) -> Tensor:
        shift = count[0] % len(model.heads)
        count[0] += 1
        logits = list(model.heads.values())[shift](model.body(batch[0]))
        return F.cross_entropy(logits, batch[0].roll(shift, 1)[:, :4].argmax(1))

    return made(model, step, labelled(), adam(model))


class Packed(nn.Module):
    """Sequences of several lengths, packed; the last state of both directions is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.read = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.read(packed)[0], batch_first=True)
        return self.head(states.sum(1) / lengths[:, None])


def packed_sequences() -> Made:
    torch.manual_seed(0)
    return made_of_lengths(Packed())


class Exits(nn.Module):
    """A classifier behind each block; the earlier ones also learn from the last one, which they do not change."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(n, 16), nn.ReLU()) for n in (10, 16, 16))
        self.exits = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for block, leave in zip(self.blocks, self.exits, strict=True):
            x = block(x)
            logits.append(leave(x))
        return logits


def early_exits() -> Made:
    torch.manual_seed(0)
    model = Exits()

    def step(model: nn.Module, batch: Any) -> Tensor:
        *early, last = model(batch[0])
        teacher = last.detach().softmax(1)
        loss = F.cross_entropy(last, batch[1])
        for logits in early:
            loss = loss + 0.5 * F.cross_entropy(logits, batch[1])
            loss = loss + 0.5 * F.kl_div(logits.log_softmax(1), teacher, reduction="batchmean")
        return loss

    return made(model, step, labelled(), adam(model))


class Local(nn.Module):
    """Each layer has a classifier of its own, and gets no gradient from those behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, 16) for n in (10, 16, 16))
        self.readers = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for layer, read in zip(self.layers, self.readers, strict=True):
            x = layer(x.detach()).relu()
            logits.append(read(x))
        return logits


def local_losses() -> Made:
    """Layer-wise training: three losses that are added, with a stop-gradient between the layers."""
    torch.manual_seed(0)
    model = Local()

    def step(model: nn.Module, batch: Any) -> Tensor:
        return torch.stack([F.cross_entropy(logits, batch[1]) for logits in model(batch[0])]).sum()

    return made(model, step, labelled(), adam(model))


class Probed(nn.Module):
    """A classifier, and a linear reader of its features that must not change them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(10, 32), nn.ReLU()), nn.Linear(32, 4)
        self.probe = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features), self.probe(features.detach()).squeeze(1)


def detached_probe() -> Made:
    """Two optimisers: one of the model, one of the probe."""
    torch.manual_seed(0)
    model = Probed()
    optimizers = [
        torch.optim.SGD([*model.body.parameters(), *model.head.parameters()], 0.1, momentum=0.9),
        adam(model.probe),
    ]

    def step(model: nn.Module, batch: Any) -> float:
        logits, guess = model(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        F.mse_loss(guess, batch[0].norm(dim=1)).backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizers)


class Hyper(nn.Module):
    """A network that computes the weights of another one from a task vector."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = nn.Embedding(6, 8)
        self.make = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10 * 4 + 4))

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        made = self.make(self.tasks(task))
        weight, bias = made[:, :40].view(-1, 10, 4), made[:, 40:]
        return torch.einsum("bi,bio->bo", x, weight) + bias


def hypernetwork() -> Made:
    torch.manual_seed(0)
    model, data = Hyper(), []
    for x, _ in labelled():
        task = torch.randint(0, 6, (32,))
        rolled = torch.stack([row.roll(int(shift)) for row, shift in zip(x, task, strict=True)])
        data.append((x, task, rolled[:, :4].argmax(1)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    return made(model, step, data, adam(model))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 10) / 10**0.5)
        self.hidden, self.visible = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight, self.hidden).tanh(), self.weight.T, self.visible)


def tied_autoencoder() -> Made:
    torch.manual_seed(0)
    model = Tied()
    data = list(torch.randn(20, 32, 4) @ torch.randn(4, 10))
    return made(model, lambda model, x: F.mse_loss(model(x), x), data, adam(model))


class FakeQuantised(nn.Module):
    """Weights and activations are rounded to 8 bits, straight through, with a running range."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 32), nn.Linear(32, 4)
        self.register_buffer("largest", torch.ones(()))

    @staticmethod
    def quantise(x: Tensor, largest: Tensor) -> Tensor:
        scale = largest / 127
        return x + ((x / scale).round().clamp(-128, 127) * scale - x).detach()

    def layer(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, self.quantise(layer.weight, layer.weight.detach().abs().max()), layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.first, x).relu()
        if self.training:
            self.largest.lerp_(h.detach().abs().max(), 0.1)
        return self.layer(self.second, self.quantise(h, self.largest))


def quantisation_aware() -> Made:
    torch.manual_seed(0)
    model = FakeQuantised()
    return made(model, loss_of, labelled(), adam(model))


def averaged_for_evaluation() -> Made:
    """After every fourth step the averaged weights are evaluated in place of the model's own, which come back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    average, optimizer, count = copy.deepcopy(model).requires_grad_(False), adam(model), [0]
    held = labelled(1)[0]

    def evaluate(model: nn.Module) -> None:
        own = copy.deepcopy(model.state_dict())
        model.load_state_dict(average.state_dict())
        model.eval()
        with torch.no_grad():
            loss_of(model, held)
        model.train()
        model.load_state_dict(own)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(average.parameters(), model.parameters(), strict=True):
                own.lerp_(other, 0.1)
        count[0] += 1
        if count[0] % 4 == 0:
            evaluate(model)
        return loss.item()

    return made(model, step, labelled(), optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "recursion with deep supervision": recursion_with_supervision,
    "recursion with deep supervision, declared": declared_recursion,
    "mixture of experts, some idle": mixture_of_experts,
    "low-rank adapters and checkpoints": low_rank_adapters,
    "prompt of a frozen model": prompt_tuning,
    "layers unfrozen one by one": gradual_unfreezing,
    "a task per step": task_per_step,
    "packed sequences": packed_sequences,
    "early exits that learn from the last": early_exits,
    "a loss per layer": local_losses,
    "detached probe with an optimiser of its own": detached_probe,
    "hypernetwork": hypernetwork,
    "autoencoder with tied weights": tied_autoencoder,
    "quantisation-aware training": quantisation_aware,
    "averaged weights in evaluations": averaged_for_evaluation,
}
