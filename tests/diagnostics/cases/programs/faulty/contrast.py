"""Contrastive pretraining, then a linear probe, with a registry, callbacks, warm-up and an optimiser of its own."""

import os

import torch
from torch import nn
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))
REGISTRY = {}


def register(name):
    def deco(obj):
        REGISTRY[name] = obj
        return obj

    return deco


@register("lars")
class LARS(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, momentum=0.9, eta=0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "eta": eta})

    @torch.no_grad()
    def step(self, closure=None):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                d = p.grad
                w, n = p.norm(), d.norm()
                if p.dim() > 1 and w > 0 and n > 0:
                    d = d * (g["eta"] * w / n)
                buf = self.state[p].setdefault("m", torch.zeros_like(p))
                buf.mul_(g["momentum"]).add_(d)
                p.add_(buf, alpha=-g["lr"])


@register("encoder")
class Encoder(nn.Module):
    def __init__(self, d=16, h=32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, h))

    def forward(self, x):
        return self.layers(x)


class Projector(nn.Sequential):
    def __init__(self, h=32, o=8):
        super().__init__(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, o))


def nt_xent(a, b, t=0.2):
    z = F.normalize(torch.cat([a, b]), dim=1)
    s = z @ z.T / t
    if FAULT != 1:
        s = s.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    n = len(a)
    return F.cross_entropy(s, torch.arange(2 * n).roll(n))


class Callback:
    def on_step(self, trainer): ...


class Log(Callback):
    def on_step(self, trainer):
        if trainer.step % 10 == 0:
            print(trainer.step, trainer.loss, trainer.scheduler.get_last_lr()[0])


class Pretrainer:
    def __init__(self, data, steps=40, warmup=10):
        self.encoder, self.projector = REGISTRY["encoder"](), Projector()
        self.data, self.steps, self.step, self.callbacks = data, steps, 0, [Log()]
        self.opt = REGISTRY["lars"](
            [{"params": self.encoder.parameters()}, {"params": self.projector.parameters(), "lr": 0.05}],
            lr=0.1,
        )
        rule = (lambda s: min(1, (s + 1) // warmup)) if FAULT == 2 else (lambda s: min(1.0, (s + 1) / warmup))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.opt, rule)

    def augment(self, x):
        return x + 0.2 * torch.randn_like(x)

    def run(self):
        for _ in range(self.steps):
            x = self.data[torch.randint(len(self.data), (32,))]
            a, b = (self.projector(self.encoder(self.augment(x))) for _ in range(2))
            loss = nt_xent(a, b)
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
            self.scheduler.step()
            self.step += 1
            self.loss = loss.item()
            for c in self.callbacks:
                c.on_step(self)
        return self.encoder


def probe(encoder, x, y):
    encoder.eval().requires_grad_(False)
    head = nn.Linear(32, 3)
    opt = torch.optim.LBFGS(head.parameters(), lr=0.5, max_iter=5)
    for _ in range(5):

        def closure():
            opt.zero_grad()
            loss = F.cross_entropy(head(encoder(x)), y)
            loss.backward()
            return loss

        opt.step(closure)
    return (head(encoder(x)).argmax(1) == y).float().mean().item()


torch.manual_seed(0)
centres = torch.randn(3, 16)
labels = torch.randint(0, 3, (300,))
x = centres[labels] + 0.3 * torch.randn(300, 16)
pre = Pretrainer(x)
enc = pre.run()
print("probe", probe(enc, x, labels))
print(sum(p.double().sum().item() for p in enc.parameters()))
