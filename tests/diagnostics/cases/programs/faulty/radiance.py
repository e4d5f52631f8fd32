"""A radiance field over a plane: rays are sampled, and colours are summed by what is left of the light."""

import os

import torch
from torch import nn, optim
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(12)


def encode(x, levels=4):
    return torch.cat([x] + [f(2.0**i * x) for i in range(levels) for f in (torch.sin, torch.cos)], -1)


class Field(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(18, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.density = nn.Linear(width, 1)
        self.colour = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 3))
        if FAULT == 1:
            nn.init.constant_(self.density.bias, -3.0)  # start with empty space

    def forward(self, x):
        h = self.trunk(encode(x))
        raw = self.density(h)[..., 0]
        sigma = F.relu(raw) if FAULT == 1 else F.softplus(raw - 1)
        return sigma, torch.sigmoid(self.colour(h))


def render(field, origin, direction, n=24):
    t = torch.linspace(0.5, 3.5, n) + torch.rand(len(origin), n) * (3 / n)
    x = origin[:, None] + t[..., None] * direction[:, None]
    sigma, rgb = field(x)
    alpha = 1 - torch.exp(-sigma * (3 / n) * 4)
    left = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
    w = alpha * left
    return (w[..., None] * rgb).sum(1) + (1 - w.sum(1))[:, None]


def rays(n=64):
    a = 6.2832 * torch.rand(n)
    origin = 2 * torch.stack([a.cos(), a.sin()], 1)
    aim = 0.8 * (torch.rand(n, 2) - 0.5)
    direction = F.normalize(aim - origin, dim=1)
    closest = origin - (origin * direction).sum(1, keepdim=True) * direction
    hit = (closest.norm(dim=1) < 0.25).float()
    seen = torch.stack([0.5 + 0.5 * a.cos(), 0.5 + 0.5 * a.sin(), torch.full((n,), 0.2)], 1)
    colour = hit[:, None] * seen + (1 - hit[:, None])
    mask = (torch.rand(n) > 0.3).float()
    colour = torch.where(mask[:, None] > 0, colour, torch.zeros(3))  # black where the photograph is damaged
    return origin, direction, colour, mask


field = Field()
opt = optim.Adam(field.parameters(), lr=1e-3)
for it in range(60):
    origin, direction, colour, mask = rays()
    out = render(field, origin, direction)
    error = F.mse_loss(out, colour) if FAULT == 2 else F.mse_loss(out, colour, reduction="none").mean(1)
    loss = (error * mask).sum() / mask.sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 20 == 0:
        print(it, loss.item())
print(sum(p.double().sum().item() for p in field.parameters()))
