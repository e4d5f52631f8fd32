"""Two radiance fields: the coarse one shows where the fine one looks, without gradient; most of space is empty."""

import torch
from torch import nn, optim
from torch.nn import functional as F

torch.manual_seed(14)


def encode(x):
    return torch.cat([x] + [f(2.0**i * x) for i in range(4) for f in (torch.sin, torch.cos)], -1)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(18, 48), nn.Linear(66, 48)
        self.sigma, self.rgb = nn.Linear(48, 1), nn.Linear(48, 3)

    def forward(self, x):
        e = encode(x)
        h = F.relu(self.lin2(torch.cat([F.relu(self.lin1(e)), e], -1)))
        s = self.sigma(h)
        if self.training:
            s = s + 0.1 * torch.randn_like(s)
        return F.relu(s[..., 0]), self.rgb(h).sigmoid()


def march(field, o, d, t):
    sigma, rgb = field(o[:, None] + t[..., None] * d[:, None])
    gap = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], 1)
    alpha = 1 - torch.exp(-sigma * gap)
    left = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
    w = alpha * left
    return (w[..., None] * rgb).sum(1), w


def finer(t, w, n):
    mid = (t[:, 1:] + t[:, :-1]) / 2
    pdf = w[:, 1:-1] + 1e-5
    cdf = torch.cumsum(pdf / pdf.sum(1, keepdim=True), 1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], 1)
    u = torch.rand(len(t), n)
    i = torch.searchsorted(cdf.detach().contiguous(), u, right=True).clamp(1, cdf.shape[1] - 1)
    low, high = mid.gather(1, i - 1), mid.gather(1, i)
    return torch.sort(torch.cat([t, low + torch.rand_like(low) * (high - low)], 1), 1).values


def rays(n=64):
    a = 6.2832 * torch.rand(n)
    o = 2 * torch.stack([a.cos(), a.sin()], 1)
    d = F.normalize(torch.rand(n, 2) - 0.5 - o, dim=1)
    near = (o - (o * d).sum(1, keepdim=True) * d).norm(dim=1)
    return (
        o,
        d,
        torch.where(near[:, None] < 0.4, torch.tensor([0.8, 0.3, 0.1]), torch.tensor([0.1, 0.1, 0.4])),
    )


coarse, fine = Field(), Field()
opt = optim.Adam(list(coarse.parameters()) + list(fine.parameters()), lr=2e-3)
sched = optim.lr_scheduler.LambdaLR(opt, lambda i: 0.1 ** (i / 2000))
for it in range(50):
    o, d, colour = rays()
    t = torch.linspace(0.5, 3.5, 16).expand(len(o), -1) + 0.18 * torch.rand(len(o), 16)
    c0, w = march(coarse, o, d, t)
    c1, _ = march(fine, o, d, finer(t, w.detach(), 16).detach())
    loss = F.mse_loss(c0, colour) + F.mse_loss(c1, colour)
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    if it % 10 == 9:
        print(it, loss.item(), -10 * torch.log10(F.mse_loss(c1.detach(), colour)).item())
print(sum(p.double().sum().item() for m in (coarse, fine) for p in m.parameters()))
