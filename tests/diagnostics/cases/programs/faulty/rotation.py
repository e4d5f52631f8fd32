"""Two scans of an object are aligned by three learnt angles and a shift, then their parts are classified."""

import math
import os

import torch
from torch import nn, optim
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(11)


class Alignment(nn.Module):
    def __init__(self):
        super().__init__()
        self.angles = nn.Parameter(torch.zeros(3))
        self.shift = nn.Parameter(torch.zeros(3))

    def matrix(self):
        out = torch.eye(3)
        for i, a in enumerate(self.angles):
            c, s = torch.cos(a), torch.sin(a)
            j, k = (i + 1) % 3, (i + 2) % 3
            if FAULT == 1:
                m = torch.eye(3)
                m[[j, j, k, k], [j, k, j, k]] = torch.tensor([c, -s, s, c])
            else:
                m = torch.eye(3).index_put(
                    (torch.tensor([j, j, k, k]), torch.tensor([j, k, j, k])), torch.stack([c, -s, s, c])
                )
            out = out @ m
        return out

    def forward(self, points):
        return points @ self.matrix().T + self.shift


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.align = Alignment()
        self.point = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.head = nn.Linear(96, 4)

    def forward(self, scan):
        moved = self.align(scan)
        x = self.point(moved)
        whole = x.max(dim=1, keepdim=True).values.expand_as(x)
        return self.head(torch.cat([x, whole], dim=-1)), moved


def batch(n=16, m=24):
    model = torch.randn(n, m, 3) * torch.tensor([1.0, 0.6, 0.3])
    part = (model[..., 0] > 0).long() + 2 * (model[..., 1] > 0).long()
    c, s = math.cos(0.7), math.sin(0.7)
    scan = model @ torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) + torch.tensor([0.2, 0.0, -0.1])
    return model, scan, part


net = Parts()
params = net.parameters() if FAULT == 2 else list(net.parameters())
opt = optim.Adam(params, lr=2e-3)
for it in range(60):
    model, scan, part = batch()
    logits, moved = net(scan)
    loss = F.cross_entropy(logits.flatten(0, 1), part.flatten()) + F.smooth_l1_loss(moved, model)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(params, 0.5)
    opt.step()
    if it % 20 == 0:
        print(it, loss.item())
print(sum(p.double().sum().item() for p in net.parameters()))
