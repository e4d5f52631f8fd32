"""An autoencoder whose divergence is faded in, and an average that is evaluated, without a function for the loop."""

import copy
import os

import torch
from torch import nn, optim
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(0)


class VAE(nn.Module):
    def __init__(self, d=20, h=32, z=4):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(d, h), nn.LayerNorm(h), nn.SiLU(), nn.Dropout(0.1))
        self.mu, self.logvar = nn.Linear(h, z), nn.Linear(h, z)
        self.dec = nn.Sequential(nn.Linear(z, h), nn.SiLU(), nn.Linear(h, d))

    def reparameterize(self, mu, logvar):
        std = (0.5 * logvar).exp()
        return mu + std * torch.randn_like(std)

    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = self.reparameterize(mu, logvar)
        if FAULT == 1:
            z = torch.tensor(z.tolist())  # a copy without graph
        return self.dec(z), mu, logvar


basis = torch.randn(4, 20)
X = torch.randn(512, 4) @ basis + 0.1 * torch.randn(512, 20)
model = VAE()
ema = copy.deepcopy(model)
if FAULT != 2:
    ema.eval()
for p in ema.parameters():
    p.requires_grad_(False)
opt = optim.Adam(model.parameters(), lr=2e-3)
warmup = 30
it = 0
for epoch in range(5):
    perm = torch.randperm(len(X))
    for i in range(0, len(X), 64):
        x = X[perm[i : i + 64]]
        recon, mu, logvar = model(x)
        rec = F.mse_loss(recon, x, reduction="none").sum(1).mean()
        kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
        loss = rec + min(1.0, (it + 1) / warmup) * kl
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for e, p in zip(ema.parameters(), model.parameters()):
                e.mul_(0.9).add_(p, alpha=0.1)
        it += 1
        if it % 4 == 0:
            with torch.no_grad():
                r, m, lv = ema(X[:128])
                val = F.mse_loss(r, X[:128]).item()
    print(f"epoch {epoch}: rec {rec.item():.3f} kl {kl.item():.3f} val(ema) {val:.3f}")
print(sum(p.double().sum().item() for p in model.parameters()))
