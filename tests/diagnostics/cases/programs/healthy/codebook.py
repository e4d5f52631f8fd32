"""Vector quantisation whose codebook is an average that forward writes; dead codes start again; one layer is pruned."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

torch.manual_seed(0)


class Codebook(nn.Module):
    def __init__(self, k=32, d=8):
        super().__init__()
        self.register_buffer("codes", 0.1 * torch.randn(k, d))
        self.register_buffer("count", torch.ones(k))
        self.register_buffer("total", self.codes.clone())

    def forward(self, z):
        i = torch.cdist(z, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                hot = F.one_hot(i, len(self.codes)).float()
                self.count.lerp_(hot.sum(0), 0.1)
                self.total.lerp_(hot.T @ z, 0.1)
                self.codes.copy_(self.total / self.count.clamp_min(1e-3)[:, None])
                dead = self.count < 0.2
                if dead.any():
                    pick = z[torch.randint(len(z), (int(dead.sum()),))]
                    self.codes[dead] = pick
                    self.total[dead] = pick
                    self.count[dead] = 1.0
        q = self.codes[i]
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class VQ(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), parametrizations.orthogonal(nn.Linear(32, 8)))
        self.vq = Codebook()
        self.dec = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        prune.random_unstructured(self.dec[0], "weight", 0.3)

    def forward(self, x):
        q, commit = self.vq(self.enc(x))
        return self.dec(q), commit


model = VQ()
opt = torch.optim.Adam(model.parameters(), 2e-3)
basis = torch.randn(5, 16)
for _step in range(50):
    x = basis[torch.randint(0, 5, (64,))] + 0.1 * torch.randn(64, 16)
    out, commit = model(x)
    loss = F.mse_loss(out, x) + 0.25 * commit
    opt.zero_grad()
    loss.backward()
    opt.step()
print(
    sum(value.double().sum().item() for model in (model,) for value in model.state_dict().values()),
    torch.rand(1),
)
