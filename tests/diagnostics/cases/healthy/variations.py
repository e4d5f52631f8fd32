"""Variations of healthy loops that look unusual, and of models that a monitor must not break; own code.

Each is a whole program, with its data in the batches: it is audited, monitored, and compared with itself unmonitored.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diagnostics import Monitor
from tests.diagnostics.cases.faults.losses import Made
from tests.diagnostics.cases.healthy.training_loops import Use


def mlp(inputs: int, outputs: int, width: int = 20) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, outputs))


def classes(batches: int = 8, size: int = 16, width: int = 6) -> list[Any]:
    return [(x, x[:, :3].argmax(1)) for x in torch.randn(batches, size, width)]


def adam(module: nn.Module, rate: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam((each for each in module.parameters() if each.requires_grad), rate)


class WassersteinTrainer:
    """Five updates of the critic for one of the generator, which share a loop over steps."""

    def __init__(self) -> None:
        self.generator = nn.Sequential(
            nn.Linear(4, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 4, 2, 1)
        )
        self.critic = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1)
        )
        self.model = nn.ModuleDict({"generator": self.generator, "critic": self.critic})
        self.optimizers = [
            torch.optim.Adam(each.parameters(), 1e-4, betas=(0.0, 0.9))
            for each in (self.generator, self.critic)
        ]
        self.updates = 0

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        between = torch.lerp(real, fake, torch.rand(len(real), 1, 1, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def __call__(self, model: nn.Module, real: Tensor) -> dict[str, float]:
        self.updates += 1
        logs = {}
        with torch.no_grad():
            fake = self.generator(torch.randn(len(real), 4))
        self.critic.zero_grad()
        loss = self.critic(fake).mean() - self.critic(real).mean() + 10 * self.penalty(real, fake)
        loss.backward()
        self.optimizers[1].step()
        logs["critic"] = loss.item()
        if self.updates % 5 == 0:
            self.generator.zero_grad()
            loss = -self.critic(self.generator(torch.randn(len(real), 4))).mean()
            loss.backward()
            self.optimizers[0].step()
            logs["generator"] = loss.item()
        return logs


def wasserstein() -> Made:
    torch.manual_seed(0)
    trainer = WassersteinTrainer()
    images = list(F.avg_pool2d(torch.randn(8, 16, 8, 8), 3, 1, 1)[:, :, None])
    return {"model": trainer.model, "optimizer": trainer.optimizers, "batches": images, "step": trainer}


def backward_of_inputs() -> Made:
    """Both losses of a GAN from one forward pass; each backward pass names its own weights."""
    torch.manual_seed(1)
    model = nn.ModuleDict({"g": mlp(4, 6), "d": mlp(6, 1)})
    og, od = (
        torch.optim.RMSprop(model["g"].parameters(), 1e-4),
        torch.optim.RMSprop(model["d"].parameters(), 1e-4),
    )

    def step(model: Any, real: Tensor) -> tuple[float, float]:
        fake = model["g"](torch.randn(len(real), 4))
        on_fake, on_real = model["d"](fake), model["d"](real)
        loss_d = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        loss_g = F.softplus(-on_fake).mean()
        loss_d.backward(inputs=list(model["d"].parameters()), retain_graph=True)
        loss_g.backward(inputs=list(model["g"].parameters()))
        od.step()
        og.step()
        od.zero_grad()
        og.zero_grad()
        return loss_d.item(), loss_g.item()

    return {"model": model, "optimizer": [og, od], "batches": list(torch.randn(8, 16, 6)), "step": step}


def cycle() -> Made:
    """Two generators, two critics, an optimiser for each pair, critics frozen while the generators learn."""
    torch.manual_seed(2)
    model = nn.ModuleDict({"ab": mlp(5, 5), "ba": mlp(5, 5), "da": mlp(5, 1), "db": mlp(5, 1)})
    og = torch.optim.Adam(itertools.chain(model["ab"].parameters(), model["ba"].parameters()), 5e-4)
    od = torch.optim.Adam(itertools.chain(model["da"].parameters(), model["db"].parameters()), 5e-4)

    def step(model: Any, batch: Any) -> None:
        a, b = batch
        for critic in (model["da"], model["db"]):
            critic.requires_grad_(False)
        og.zero_grad(set_to_none=False)
        fake_b, fake_a = model["ab"](a), model["ba"](b)
        loss = (model["db"](fake_b) - 1).square().mean() + (model["da"](fake_a) - 1).square().mean()
        loss = loss + 5 * (F.l1_loss(model["ba"](fake_b), a) + F.l1_loss(model["ab"](fake_a), b))
        loss.backward()
        og.step()
        for critic in (model["da"], model["db"]):
            critic.requires_grad_(True)
        od.zero_grad(set_to_none=False)
        for critic, real, fake in ((model["da"], a, fake_a), (model["db"], b, fake_b)):
            (0.5 * ((critic(real) - 1).square().mean() + critic(fake.detach()).square().mean())).backward()
        od.step()

    loader = [(x, x.flip(1) + 1) for x in torch.randn(8, 16, 5)]
    return {"model": model, "optimizer": [og, od], "batches": loader, "step": step}


class SoftActorCritic(nn.Module):
    """Twin critics with averaged copies inside, a temperature that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.pi = mlp(4, 4)
        self.q1, self.q2 = mlp(6, 1), mlp(6, 1)
        self.q1_target, self.q2_target = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def act(self, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.pi(state).chunk(2, 1)
        normal = torch.distributions.Normal(mean, spread.clamp(-3, 1).exp())
        raw = normal.rsample()
        return raw.tanh(), (normal.log_prob(raw) - 2 * (0.693 - raw - F.softplus(-2 * raw))).sum(
            1, keepdim=True
        )


def soft_actor_critic() -> Made:
    torch.manual_seed(3)
    model = SoftActorCritic()
    critics = torch.optim.Adam([*model.q1.parameters(), *model.q2.parameters()], 1e-3)
    actor, alpha = torch.optim.Adam(model.pi.parameters(), 1e-3), torch.optim.Adam([model.log_alpha], 1e-3)
    updates = itertools.count(1)

    def step(model: Any, batch: Any) -> None:
        state, action, reward, after = batch
        with torch.no_grad():
            chosen, chance = model.act(after)
            ahead = torch.cat([after, chosen], 1)
            value = torch.min(model.q1_target(ahead), model.q2_target(ahead)) - model.log_alpha.exp() * chance
            wanted = reward + 0.97 * value
        pair = torch.cat([state, action], 1)
        loss = F.mse_loss(model.q1(pair), wanted) + F.mse_loss(model.q2(pair), wanted)
        critics.zero_grad()
        loss.backward()
        critics.step()
        if next(updates) % 3 == 0:
            chosen, chance = model.act(state)
            pair = torch.cat([state, chosen], 1)
            loss = (
                model.log_alpha.exp().detach() * chance - torch.min(model.q1(pair), model.q2(pair))
            ).mean()
            actor.zero_grad()
            loss.backward()
            actor.step()
            alpha.zero_grad()
            (-model.log_alpha * (chance.detach() - 2)).mean().backward()
            alpha.step()
        with torch.no_grad():
            for own, target in ((model.q1, model.q1_target), (model.q2, model.q2_target)):
                torch._foreach_lerp_(list(target.parameters()), list(own.parameters()), 0.02)

    loader = []
    for state in torch.randn(8, 16, 4):
        loader.append((state, torch.rand(16, 2) * 2 - 1, state[:, :1], state + 0.1 * torch.randn_like(state)))
    return {
        "model": model,
        "optimizer": [critics, actor, alpha],
        "batches": loader,
        "step": step,
        "targets": {"q1_target": "q1", "q2_target": "q2"},
    }


def accumulated_over_steps() -> Made:
    """An update after every fourth batch, each of which is a step of its own."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv1d(1, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(32, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    seen = itertools.count(1)

    def step(model: nn.Module, batch: Any) -> float:
        loss = F.cross_entropy(model(batch[0][:, None]), batch[1])
        (loss / 4).backward()
        if next(seen) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


class Modal(nn.Module):
    """Text and, for few samples, a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.EmbeddingBag(20, 12)
        self.picture = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 12)
        )
        self.out = nn.Linear(12, 3)

    def forward(self, ids: Tensor, pictures: Tensor, which: Tensor) -> Tensor:
        state = self.text(ids)
        if len(which):
            state = state.index_add(0, which, self.picture(pictures))
        return self.out(torch.tanh(state))


def rare_pictures() -> Made:
    """A picture comes with two samples of every third batch."""
    torch.manual_seed(5)
    model = Modal()
    loader = []
    for number, ids in enumerate(torch.randint(0, 20, (9, 16, 5))):
        which = torch.tensor([3, 8]) if number % 3 == 0 else torch.zeros(0, dtype=torch.long)
        loader.append((ids, torch.randn(len(which), 1, 6, 6), which, ids[:, 0] % 3))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(*batch[:3]), batch[3])

    return {
        "model": model,
        "optimizer": adam(model),
        "batches": loader,
        "step": step,
        "samples": lambda batch: len(batch[0]),
    }


def per_sample_gradients() -> Made:
    """Private training: torch.func gives a gradient for each sample, which are clipped, summed and made noisy."""
    torch.manual_seed(6)
    model = mlp(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loss_of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, weights, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))

    def step(model: nn.Module, batch: Any) -> None:
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        found = each(weights, *batch)
        size = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in found.values()]).norm(dim=0)
        share = (1 / size).clamp(max=1)
        for name, weight in model.named_parameters():
            mean = torch.einsum("b,b...->...", share, found[name]) / len(share)
            weight.grad = mean + 0.001 * torch.randn_like(mean)
        optimizer.step()
        optimizer.zero_grad()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


def ensemble() -> Made:
    """Four networks in one by vmap over stacked weights."""
    torch.manual_seed(7)
    members = [mlp(6, 3) for _ in range(4)]
    stacked, _ = torch.func.stack_module_state(members)  # type: ignore[arg-type]
    base = copy.deepcopy(members[0]).to("meta")

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterDict(
                {name.replace(".", "_"): nn.Parameter(each.detach()) for name, each in stacked.items()}
            )

        def forward(self, x: Tensor) -> Tensor:
            weights = {name: self.weights[name.replace(".", "_")] for name in stacked}
            return torch.func.vmap(lambda own: torch.func.functional_call(base, own, (x,)))(weights)

    model = Ensemble()

    def step(model: nn.Module, batch: Any) -> Tensor:
        return sum(F.cross_entropy(each, batch[1]) for each in model(batch[0])) / 4

    return {"model": model, "optimizer": adam(model), "batches": classes(), "step": step}


def converged_newton() -> Made:
    """LBFGS with a line search on a line that it fits exactly after two steps."""
    torch.manual_seed(8)
    model = nn.Linear(3, 1).double()
    optimizer = torch.optim.LBFGS(model.parameters(), 1.0, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    x = torch.randn(64, 3, dtype=torch.double)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.double) + 3

    def step(model: nn.Module, batch: Any) -> float:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return float(optimizer.step(closure).detach())

    return {"model": model, "optimizer": optimizer, "batches": [(x, y)], "step": step}


class Levels(nn.Module):
    """Holds layers and has no forward: others call what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(12)) for _ in range(2)])
        self.blocks = nn.ModuleDict(
            {f"level{n}": nn.ModuleList([nn.Linear(12, 12), nn.LayerNorm(12)]) for n in range(2)}
        )


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = Levels()
        self.io = nn.ModuleDict({"enter": nn.Linear(6, 12), "leave": nn.Linear(12, 3)})

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        state, kept = self.io["enter"](x), []
        for scale, (mix, norm) in zip(self.levels.scales, self.levels.blocks.values(), strict=True):
            state = state + scale * F.silu(mix(norm(state)))
            kept.append(state)
        return self.io["leave"](state), kept


def containers() -> Made:
    torch.manual_seed(9)
    model = Holder()
    return {
        "model": model,
        "optimizer": adam(model),
        "batches": classes(),
        "step": lambda model, batch: F.cross_entropy(model(batch[0])[0], batch[1]),
    }


class Filler(nn.Module):
    """A masked language model whose loss is computed inside, at the hidden places alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        state = self.layer(self.embed(ids) + self.place.weight)
        return F.cross_entropy(self.head(state).transpose(1, 2), labels, ignore_index=-100)


def rows_without_labels() -> Made:
    """Hidden tokens alone are learnt; a third of the sequences has none."""
    torch.manual_seed(10)
    model = Filler()
    loader = []
    for ids in torch.randint(1, 20, (8, 18, 1)) + torch.zeros(8, dtype=torch.long):
        hidden = torch.rand(18, 8) < 0.3
        hidden[::3] = False
        loader.append((ids.masked_fill(hidden, 0), ids.masked_fill(~hidden, -100)))
    return {
        "model": model,
        "optimizer": adam(model),
        "batches": loader,
        "step": lambda model, batch: model(*batch),
    }


class Bootstrap(nn.Module):
    """BYOL: an online network, its predictor, and an averaged target, from a library's class."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8)
        )
        self.predictor = mlp(8, 8)
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        self.target = torch.optim.swa_utils.AveragedModel(self.online, multi_avg_fn=decay, use_buffers=True)

    def forward(self, images: Tensor) -> Tensor:
        one, other = (images + 0.1 * torch.randn_like(images) for _ in range(2))
        with torch.no_grad():
            wanted = self.target(other)
        return 2 - 2 * F.cosine_similarity(self.predictor(self.online(one)), wanted, dim=1).mean()


def averaged_model_inside() -> Made:
    torch.manual_seed(11)
    model = Bootstrap()
    optimizer = torch.optim.SGD(
        [*model.online.parameters(), *model.predictor.parameters()], 0.05, momentum=0.9
    )

    def step(model: Any, images: Tensor) -> float:
        optimizer.zero_grad()
        loss = model(images)
        loss.backward()
        optimizer.step()
        model.target.update_parameters(model.online)
        return loss.item()

    return {
        "model": model,
        "optimizer": optimizer,
        "batches": list(torch.randn(8, 16, 1, 8, 8)),
        "step": step,
    }


def margins_met() -> Made:
    """A convolutional network whose triplets have mostly met their margin, so that few samples have gradient."""
    torch.manual_seed(12)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 6))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    loader = []
    for label in torch.randint(0, 2, (8, 16, 1, 1, 1)):
        base, away = 0.6 * label, 0.6 * (1 - label)
        noise = torch.randn(3, 16, 1, 8, 8) * 0.5
        loader.append((base + noise[0], base + noise[1], away + noise[2]))

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.triplet_margin_loss(*(model(each) for each in batch), margin=0.5)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": loader, "step": step}


class TreeCell(nn.Module):
    """A tree of words, one cell call per level with as many rows as the level has nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.join = nn.Embedding(12, 10), nn.Linear(20, 10)
        self.score = nn.Linear(10, 3)

    def forward(self, words: Tensor) -> Tensor:
        state = self.leaf(words)
        while state.shape[1] > 1:
            pairs = state.reshape(len(state), state.shape[1] // 2, 20)
            state = torch.tanh(self.join(pairs.flatten(0, 1))).reshape(len(state), -1, 10)
        return self.score(state[:, 0])


def trees() -> Made:
    torch.manual_seed(13)
    model = TreeCell()
    loader = [(words, words[:, 0] % 3) for words in torch.randint(0, 12, (8, 16, 8))]
    return {
        "model": model,
        "optimizer": adam(model, 3e-3),
        "batches": loader,
        "step": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    }


class Jagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.mix, self.out = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        state = torch.nn.functional.relu(self.lift(sequences))
        padded = torch.nested.to_padded_tensor(self.mix(state), 0.0)
        return self.out(padded.sum(1))


def nested() -> Made:
    """Sequences of different lengths as one nested tensor."""
    torch.manual_seed(14)
    model = Jagged()
    loader = []
    for _ in range(6):
        sequences = [torch.randn(int(length), 5) for length in torch.randint(2, 7, (12,))]
        labels = torch.stack([each.mean(0)[:3].argmax() for each in sequences])
        loader.append((sequences, labels))

    def step(model: nn.Module, batch: Any) -> Tensor:
        whole = torch.nested.nested_tensor(batch[0], layout=torch.jagged)
        return F.cross_entropy(model(whole), batch[1])

    return {
        "model": model,
        "optimizer": adam(model),
        "batches": loader,
        "step": step,
        "samples": lambda batch: len(batch[1]),
    }


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.jit.script(nn.Sequential(nn.Linear(6, 16), nn.ReLU()))
        self.traced = torch.jit.trace(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), torch.randn(4, 16))
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.traced(self.body(x)))


def scripted_children() -> Made:
    torch.manual_seed(15)
    model = Scripted()
    return {
        "model": model,
        "optimizer": adam(model),
        "batches": classes(),
        "step": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    }


class Prepared(torch.optim.Optimizer):
    """A wrapper such as libraries make: it holds the optimiser, and steps only when gradients are complete."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.synchronised = True

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.optimizer.param_groups = groups

    @property
    def defaults(self) -> Any:  # type: ignore[override]
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: Any) -> None:
        self.optimizer.defaults = defaults

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.synchronised:
            self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.synchronised:
            self.optimizer.step(closure)


def wrapped_optimizer() -> Made:
    torch.manual_seed(16)
    model = mlp(6, 3)
    optimizer = Prepared(torch.optim.AdamW(model.parameters(), 1e-3))
    seen = itertools.count(1)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.synchronised = next(seen) % 2 == 0
        loss = F.cross_entropy(model(batch[0]), batch[1]) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


def saved_while_watched() -> Made:
    """The model is pickled, saved and copied in each fifth step, and the best weights are kept."""
    torch.manual_seed(17)
    model = nn.ModuleDict({"cell": nn.GRU(3, 12, batch_first=True), "out": nn.Linear(12, 3)})
    optimizer = adam(model)
    seen, best = itertools.count(1), {}

    def step(model: Any, batch: Any) -> float:
        optimizer.zero_grad()
        states, _ = model["cell"](batch[0].view(-1, 2, 3))
        loss = F.cross_entropy(model["out"](states[:, -1]), batch[1])
        loss.backward()
        optimizer.step()
        if next(seen) % 5 == 0:
            file = io.BytesIO()
            torch.save(model, file)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, io.BytesIO())
            file.seek(0)
            torch.load(file, weights_only=False)["cell"](batch[0].view(-1, 2, 3))
            pickle.loads(pickle.dumps(copy.deepcopy(model)))
            best["weights"] = copy.deepcopy(model.state_dict())
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


def lazy() -> Made:
    """Layers whose sizes the first batch decides, inside the monitored loop."""
    torch.manual_seed(18)
    model = nn.Sequential(
        nn.LazyConv1d(8, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0][:, None]), batch[1])

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


def failing_batches() -> Made:
    """Some batches raise within the forward or after the backward pass, and the loop skips them."""
    torch.manual_seed(19)
    model = mlp(6, 3)
    optimizer = adam(model)
    seen = itertools.count(1)

    def train(model: nn.Module, batch: Any) -> float:
        number = next(seen)
        optimizer.zero_grad()
        x = batch[0][:, :4] if number % 7 == 3 else batch[0]
        loss = F.cross_entropy(model(x), batch[1])
        loss.backward()
        if number % 11 == 5:
            raise MemoryError
        optimizer.step()
        return loss.item()

    def step(model: nn.Module, batch: Any) -> float | None:
        with suppress(RuntimeError, MemoryError):
            return train(model, batch)
        return None

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


@dataclass
class Output:
    """What a library's model returns."""

    loss: Tensor | None
    logits: Tensor
    past: tuple[Tensor, ...] = ()


class Dataclassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(2, 12, batch_first=True, num_layers=2, dropout=0.1), nn.Linear(12, 3)

    def forward(self, *, inputs: Tensor, labels: Tensor | None = None) -> Output:
        states, past = self.body(inputs)
        logits = self.head(states.mean(1))
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits, past)


def mixed_precision() -> Made:
    """bfloat16 in an autocast, a disabled scaler, a dataclass as output, the loss inside."""
    torch.manual_seed(20)
    model = Dataclassed()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=1000)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(inputs=batch[0].view(-1, 3, 2), labels=batch[1])
        scaler.scale(output.loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        return output.loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


class Spectral(nn.Module):
    """A Fourier operator: complex weights on the lowest frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv1d(1, 8, 1)
        self.modes = nn.Parameter(0.1 * torch.randn(8, 8, 5, dtype=torch.cfloat))
        self.side, self.drop = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 1, 1)

    def forward(self, signal: Tensor) -> Tensor:
        state = self.lift(signal)
        spectrum = torch.fft.rfft(state)
        kept = torch.zeros_like(spectrum)
        kept[..., :5] = torch.einsum("bim,iom->bom", spectrum[..., :5], self.modes)
        return self.drop(F.gelu(torch.fft.irfft(kept, n=signal.shape[-1]) + self.side(state)))


def complex_weights() -> Made:
    torch.manual_seed(21)
    model = Spectral()
    loader = [(x, x.cumsum(-1) / 4) for x in torch.randn(8, 12, 1, 16)]
    return {
        "model": model,
        "optimizer": adam(model, 3e-3),
        "batches": loader,
        "step": lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
    }


class SparseGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return torch.sparse.mm(adjacency, self.second(F.relu(torch.sparse.mm(adjacency, self.first(nodes)))))


def sparse_graph() -> Made:
    """One graph with a sparse adjacency and isolated nodes; a training mask picks the nodes of the loss."""
    torch.manual_seed(22)
    model = SparseGraph()
    edges = torch.cat([torch.randint(0, 30, (2, 80)), torch.arange(40).expand(2, -1)], 1)
    adjacency = torch.sparse_coo_tensor(edges, torch.full((120,), 0.3), (40, 40)).coalesce().to_sparse_csr()
    nodes = torch.randn(40, 6)
    mask = torch.zeros(40, dtype=torch.bool)
    mask[::3] = True

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], adjacency)[mask], batch[1][mask])

    return {
        "model": model,
        "optimizer": adam(model, 1e-2),
        "batches": [(nodes, nodes[:, :3].argmax(1))],
        "step": step,
        "samples": lambda batch: 40,
    }


class Reversed(torch.autograd.Function):
    """An own function, which computes a square and its derivative."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        share = x.sigmoid()
        return gradients[0] * (share + x * share * (1 - share))


class Inventive(nn.Module):
    """In-place activations, own functions, views, a checkpoint, and children that return no tensor."""

    class Counter(nn.Module):
        def forward(self, x: Tensor) -> str:
            return f"{len(x)} rows"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.active, self.counter = nn.ReLU(inplace=True), self.Counter()

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        self.counter(x)
        state = self.active(self.first(x))
        state = state.view(-1, 4, 4).transpose(1, 2).flatten(1)
        state = checkpoint(lambda given: Reversed.apply(self.second(given)), state, use_reentrant=False)
        yield state
        yield self.third(state.add_(1.0))


def inventive() -> Made:
    torch.manual_seed(23)
    model = Inventive()
    return {
        "model": model,
        "optimizer": adam(model),
        "batches": classes(),
        "step": lambda model, batch: F.cross_entropy(list(model(batch[0]))[-1], batch[1]),
    }


def applied_in_backward() -> Made:
    """An optimiser per weight, which a hook runs as soon as its gradient is complete and then frees it."""
    torch.manual_seed(24)
    model = nn.Sequential(mlp(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizers = {weight: torch.optim.SGD([weight], 0.05, momentum=0.9) for weight in model.parameters()}

    def apply(weight: Tensor) -> None:
        optimizers[weight].step()
        optimizers[weight].zero_grad()

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(apply)

    def step(model: nn.Module, batch: Any) -> float:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss.item()

    return {"model": model, "optimizer": list(optimizers.values()), "batches": classes(), "step": step}


def validated_inside() -> Made:
    """Each fourth step evaluates on other data, in evaluation mode, before it trains."""
    torch.manual_seed(25)
    model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    held, seen = torch.randn(50, 6), itertools.count()

    def step(model: nn.Module, batch: Any) -> float:
        if next(seen) % 4 == 0:
            model.eval()
            with torch.inference_mode():
                model(held).argmax(1)
            model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


def monitored_twice() -> Made:
    """A notebook's cell ran twice: an earlier monitor of the same model was never released."""
    made = containers()
    forgotten = Monitor(made["model"], made["optimizer"])
    with forgotten.step(samples=16):
        made["step"](made["model"], made["batches"][0])
    return made


def group_added_late() -> Made:
    """A backbone is frozen for ten steps, then joins the optimiser as a further group."""
    torch.manual_seed(26)
    model = nn.ModuleDict({"backbone": mlp(6, 12), "head": nn.Linear(12, 3)})
    model["backbone"].requires_grad_(False)
    optimizer = torch.optim.AdamW(model["head"].parameters(), 1e-2)
    seen = itertools.count()

    def step(model: Any, batch: Any) -> float:
        if next(seen) == 10:
            model["backbone"].requires_grad_(True)
            optimizer.add_param_group({"params": list(model["backbone"].parameters()), "lr": 1e-3})
        optimizer.zero_grad()
        loss = F.cross_entropy(model["head"](torch.tanh(model["backbone"](batch[0]))), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": model, "optimizer": optimizer, "batches": classes(), "step": step}


class Recurrent(nn.Module):
    """PPO with a recurrent policy; steps after the end of an episode are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(4, 16, batch_first=True)
        self.policy, self.value = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, observed: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        states, _ = self.core(observed)
        return torch.distributions.Categorical(logits=self.policy(states)), self.value(states)[..., 0]


def masked_episodes() -> Made:
    torch.manual_seed(27)
    model = Recurrent()
    loader = []
    for observed in torch.randn(8, 12, 7, 4):
        alive = torch.arange(7) < torch.randint(1, 8, (12, 1))
        loader.append(
            {
                "obs": observed,
                "act": torch.randint(0, 3, (12, 7)),
                "old": -1.1 + 0.05 * torch.randn(12, 7),
                "adv": torch.randn(12, 7),
                "alive": alive,
            }
        )

    def step(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        chances, value = model(batch["obs"])
        ratio = (chances.log_prob(batch["act"]) - batch["old"]).exp()
        gain = torch.min(ratio * batch["adv"], ratio.clamp(0.8, 1.2) * batch["adv"])
        loss = -gain + 0.5 * (value - batch["adv"]).square() - 0.01 * chances.entropy()
        return loss[batch["alive"]].mean()

    return {
        "model": model,
        "optimizer": adam(model),
        "batches": loader,
        "step": step,
        "samples": lambda batch: len(batch["obs"]),
    }


PROGRAMS: dict[str, Callable[[], Made]] = {
    "critic with five updates for one": wasserstein,
    "backward passes that name their weights": backward_of_inputs,
    "two generators in a cycle": cycle,
    "twin critics and a learnt temperature": soft_actor_critic,
    "update after every fourth step": accumulated_over_steps,
    "pictures for few samples": rare_pictures,
    "a gradient per sample": per_sample_gradients,
    "four networks by vmap": ensemble,
    "line search that has converged": converged_newton,
    "holders without forward": containers,
    "a third of the rows has no label": rows_without_labels,
    "a library's averaged model inside": averaged_model_inside,
    "margins that are met": margins_met,
    "trees of words": trees,
    "one nested tensor": nested,
    "children in TorchScript": scripted_children,
    "optimiser in a wrapper": wrapped_optimizer,
    "saved and copied while watched": saved_while_watched,
    "sizes decided by the first batch": lazy,
    "batches that raise": failing_batches,
    "mixed precision and a dataclass": mixed_precision,
    "complex weights": complex_weights,
    "sparse graph": sparse_graph,
    "own functions and views": inventive,
    "updates within the backward pass": applied_in_backward,
    "evaluation within the step": validated_inside,
    "an earlier monitor": monitored_twice,
    "a group added late": group_added_late,
    "episodes that end early": masked_episodes,
}


def as_use(make: Callable[[], Made]) -> Use:
    """A program as a loop: its model, its optimisers, the samples of a step, and a step with backward and update."""
    made = make()
    model, optimizer, batches = made["model"], made["optimizer"], itertools.cycle(made["batches"])
    optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    first = made["batches"][0]
    size = (
        made["samples"](first)
        if "samples" in made
        else len(first)
        if torch.is_tensor(first)
        else len(first[0])
    )

    def step() -> None:
        loss = made["step"](model, next(batches))
        if torch.is_tensor(loss):
            loss.backward()
            for each in optimizers:
                each.step()
                each.zero_grad()

    return model, optimizer, size, step


USES: dict[str, Callable[[], Use]] = {
    f"{name}, compared": partial(as_use, make) for name, make in PROGRAMS.items()
}
"""The same programs as loops, which are compared with themselves unmonitored."""
