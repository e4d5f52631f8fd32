"""Healthy training loops that look unusual: none may be accused or changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Finding, Monitor

Use = tuple[nn.Module, Any, int, Callable[[], None]]
"""A model, its optimisers, the samples of a step, and a step."""
STEPS = 40


def net(inputs: int = 6, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 1e-3)


def gan(order: str) -> Use:
    model = nn.ModuleDict({"g": net(6, 4), "d": net(4, 1)})
    og, od = adam(model["g"]), adam(model["d"])

    def generator(fake: Tensor) -> None:
        og.zero_grad()
        if order == "toggled":
            model["d"].requires_grad_(False)
        F.softplus(-model["d"](fake)).mean().backward()
        og.step()
        model["d"].requires_grad_(True)

    def discriminator(fake: Tensor) -> None:
        od.zero_grad()
        F.softplus(-model["d"](torch.randn(16, 4))).mean().backward()
        F.softplus(model["d"](fake.detach())).mean().backward()
        od.step()
        if order == "clipped":
            with torch.no_grad():
                for weight in model["d"].parameters():
                    weight.clamp_(-0.3, 0.3)

    def step() -> None:
        fake = model["g"](torch.randn(16, 6))
        for part in (discriminator, generator) if order == "critic first" else (generator, discriminator):
            part(fake)

    return model, [og, od], 16, step


def delayed_actor() -> Use:
    """TD3: two critics, targets of all three, an actor that is updated in every second step."""
    model = nn.ModuleDict({"actor": net(6, 2), "critic": net(8, 1)})
    model["actor_target"] = copy.deepcopy(model["actor"]).requires_grad_(False)
    model["critic_target"] = copy.deepcopy(model["critic"])
    oa, oc = adam(model["actor"]), adam(model["critic"])
    count = [0]

    def step() -> None:
        count[0] += 1
        state, action, after = torch.randn(16, 6), torch.randn(16, 2), torch.randn(16, 6)
        with torch.no_grad():
            chosen = model["actor_target"](after)
            wanted = torch.randn(16, 1) + 0.9 * model["critic_target"](torch.cat([after, chosen], 1))
        oc.zero_grad()
        F.mse_loss(model["critic"](torch.cat([state, action], 1)), wanted).backward()
        oc.step()
        if count[0] % 2 == 0:
            oa.zero_grad()
            (-model["critic"](torch.cat([state, model["actor"](state)], 1)).mean()).backward()
            oa.step()
            with torch.no_grad():
                for name in ("actor", "critic"):
                    pairs = zip(model[f"{name}_target"].parameters(), model[name].parameters(), strict=True)
                    for own, other in pairs:
                        own.lerp_(other, 0.01)

    return model, [oa, oc], 16, step


def contrastive_with_targets() -> Use:
    """SimSiam: a stop-gradient on the target, behind a projector."""
    model = nn.ModuleDict({"encoder": net(6, 8), "projector": nn.Linear(8, 8), "predictor": nn.Linear(8, 8)})
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        one, other = (model["projector"](model["encoder"](x + 0.1 * torch.randn_like(x))) for _ in range(2))
        (-F.cosine_similarity(model["predictor"](one), other.detach()).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def satisfied(kind: str) -> Use:
    model = net(6, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def step() -> None:
        x = torch.randn(16, 6)
        sign = x[:, :1].sign()
        x[:, :1] += 2 * sign
        if kind == "hinge":
            loss = F.relu(0.3 - sign * model(x)[:, :1]).mean()
        else:
            anchor, near, far = model(x), model(x + 0.05 * torch.randn_like(x)), model(-x)
            loss = F.triplet_margin_loss(anchor, near, far, margin=0.2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def rare_branch() -> Use:
    model = nn.ModuleDict({"body": net(6, 6), "often": nn.Linear(6, 3), "rarely": nn.Linear(6, 3)})
    optimizer, count = adam(model), [0]

    def step() -> None:
        x = torch.randn(16, 6)
        h = model["body"](x)
        logits = model["often"](h) + (model["rarely"](h) if count[0] % 4 == 0 else 0.0)
        count[0] += 1
        F.cross_entropy(logits, x[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def random_masks() -> Use:
    """Semi-supervised: some samples have a label, others in each batch."""
    model = net()
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        labels = x[:, :3].argmax(1).masked_fill(torch.rand(16) < 0.7, -100)
        labels[torch.randint(0, 16, (1,))] = 0
        F.cross_entropy(model(x), labels, ignore_index=-100).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def converged() -> Use:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    x = torch.randn(30, 4)
    y = torch.tanh(x.sum(1, keepdim=True))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y) + 1e-2 * sum(weight.square().sum() for weight in model.parameters())
        loss.backward()
        return loss

    return model, optimizer, 30, lambda: optimizer.step(closure)


def projected_gradients() -> Use:
    """PCGrad with `.grad`: one backward pass per task, read, combined and assigned."""
    model = nn.ModuleDict({"body": net(6, 6), "one": nn.Linear(6, 3), "two": nn.Linear(6, 3)})
    optimizer = adam(model)

    def step() -> None:
        x, read = torch.randn(16, 6), []
        for head in ("one", "two"):
            optimizer.zero_grad()
            F.cross_entropy(model[head](model["body"](x)), x[:, :3].argmax(1)).backward()
            read.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        for weight, first, second in zip(model.parameters(), *read, strict=True):
            both = [each for each in (first, second) if each is not None]
            weight.grad = both[0] if len(both) == 1 else both[0] * 0.7 + both[1] * (both[0] * both[1] > 0)
        optimizer.step()

    return model, optimizer, 16, step


def adapted_embedding() -> Use:
    """A frozen embedding that is kept out of the optimiser, and low-rank adapters."""

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(8, 8).requires_grad_(False)
            self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8).requires_grad_(False)
            self.adapter, self.head = Adapter(), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.adapter(self.embed(ids))).mean(1))

    model = Model()
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], 1e-3)

    def step() -> None:
        ids = torch.randint(0, 20, (16, 5))
        F.cross_entropy(model(ids), ids[:, 0] % 3).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def scaled_and_clipped() -> Use:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")

    def step() -> None:
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), x[:, :3].argmax(1))).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()

    return model, optimizer, 16, step


USES: dict[str, Callable[[], Use]] = {
    "GAN, generator first": lambda: gan("generator first"),
    "GAN, discriminator first": lambda: gan("critic first"),
    "GAN with clipped weights": lambda: gan("clipped"),
    "GAN with toggled requires_grad": lambda: gan("toggled"),
    "delayed actor with targets": delayed_actor,
    "stop-gradient behind a projector": contrastive_with_targets,
    "hinge that is met": lambda: satisfied("hinge"),
    "triplets that are met": lambda: satisfied("triplet"),
    "branch of every fourth step": rare_branch,
    "labels for some samples": random_masks,
    "LBFGS that has converged": converged,
    "gradients combined by hand": projected_gradients,
    "adapters on a frozen embedding": adapted_embedding,
    "scaled and clipped": scaled_and_clipped,
}


def run_use(make: Callable[[], Use], steps: int = STEPS) -> tuple[list[Finding], bool]:
    """The findings of a loop, and whether its weights are those of the loop without a monitor."""
    findings: list[Finding] = []
    weights = []
    for watched in (True, False):
        torch.manual_seed(0)
        model, optimizer, samples, step = make()
        monitor = Monitor(model, optimizer) if watched else None
        torch.manual_seed(1)
        for _ in range(steps):
            with nullcontext() if monitor is None else monitor.step(samples=samples):
                step()
        if monitor is not None:
            findings = monitor.findings()
            monitor.detach()
        weights.append([weight.detach().clone() for weight in model.parameters()])
    same = all(one.is_meta or torch.equal(one, other) for one, other in zip(*weights, strict=True))
    return findings, same
