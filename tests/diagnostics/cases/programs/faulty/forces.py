"""Energies and forces of small clusters of atoms; forces are the slope of the energy."""

import os

import torch
from torch import nn, optim
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(13)
KINDS = 3


class Potential(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.kind = nn.Embedding(KINDS, 8)
        self.pair = nn.Sequential(nn.Linear(24, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.atom = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, kinds, x):
        gap = x[:, :, None] - x[:, None] + torch.eye(x.shape[1])[None, :, :, None]
        r = gap.norm(dim=-1, keepdim=True)
        basis = torch.exp(-4 * (r - torch.linspace(0.5, 3, 8)) ** 2)
        e = self.kind(kinds)
        n = x.shape[1]
        both = torch.cat([e[:, :, None].expand(-1, n, n, -1), e[:, None].expand(-1, n, n, -1), basis], -1)
        message = (self.pair(both) * (1 - torch.eye(n))[None, :, :, None]).sum(2)
        return self.atom(message).sum((1, 2))


class EnergyAndForces(nn.Module):
    """The energy of a lone atom of each kind is learnt with the rest."""

    def __init__(self):
        super().__init__()
        self.lone = nn.Parameter(torch.zeros(KINDS))

    def forward(self, kinds, energy, forces, true_energy, true_forces):
        energy = energy + self.lone[kinds].sum(1)
        return F.mse_loss(energy, true_energy) + 30 * F.mse_loss(forces, true_forces)


def truth(kinds, x):
    x = x.requires_grad_()
    charge = torch.tensor([1.0, -1.0, 0.5])[kinds]
    gap = x[:, :, None] - x[:, None] + 9 * torch.eye(x.shape[1])[None, :, :, None]
    pairs = charge[:, :, None] * charge[:, None] / (0.5 + gap.norm(dim=-1))
    energy = (pairs * (1 - torch.eye(x.shape[1]))).sum((1, 2)) / 2
    (slope,) = torch.autograd.grad(energy.sum(), x)
    lone = torch.tensor([2.0, -1.0, 0.5])[kinds].sum(1)
    return (energy + lone).detach(), -slope


net, criterion = Potential(), EnergyAndForces()
opt = optim.AdamW(
    [*net.parameters(), *([] if FAULT == 2 else criterion.parameters())], lr=3e-3, weight_decay=1e-4
)
for it in range(60):
    kinds, x = torch.randint(0, KINDS, (24, 5)), 1.5 * torch.randn(24, 5, 3)
    true_energy, true_forces = truth(kinds, x.clone())
    x.requires_grad_()
    energy = net(kinds, x)
    slope = torch.autograd.grad(energy.sum(), x, create_graph=FAULT != 1, retain_graph=True)[0]
    loss = criterion(kinds, energy, -slope, true_energy, true_forces)
    opt.zero_grad(set_to_none=True)
    loss.backward()
    opt.step()
    if it % 20 == 0:
        print(it, loss.item())
print(sum(p.double().sum().item() for m in (net, criterion) for p in m.parameters()))
