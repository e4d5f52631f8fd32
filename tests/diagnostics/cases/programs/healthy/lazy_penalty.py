"""A GAN with a penalty of its slope in every fourth step, an average of the generator, and truncation for samples."""

import copy

import torch
import torch.nn.functional as F
from torch import autograd, nn, optim

torch.manual_seed(3)
Z, H, LAZY = 6, 32, 4


class G(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(Z, H), nn.LeakyReLU(0.2), nn.Linear(H, H), nn.LeakyReLU(0.2))
        self.const = nn.Parameter(torch.randn(1, H))
        self.style = nn.Linear(H, 2 * H)
        self.out = nn.Linear(H, 2)
        self.register_buffer("w_avg", torch.zeros(H))

    def forward(self, z, psi=None):
        w = self.mapping(F.normalize(z, dim=1) * Z**0.5)
        if self.training:
            self.w_avg.lerp_(w.detach().mean(0), 0.05)
        if psi is not None:
            w = self.w_avg + psi * (w - self.w_avg)
        gain, bias = self.style(w).chunk(2, 1)
        return self.out(F.leaky_relu(self.const * (1 + gain) + bias, 0.2))


class D(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, H), nn.LeakyReLU(0.2), nn.Linear(H, H), nn.LeakyReLU(0.2), nn.Linear(H, 1)
        )

    def forward(self, x):
        return self.net(x)


def real(n):
    a = torch.randint(0, 6, (n,)) * 3.14159 / 3
    return torch.stack([a.cos(), a.sin()], 1) * 1.5 + 0.05 * torch.randn(n, 2)


g, d = G(), D()
g_ema = copy.deepcopy(g).eval()
for p in g_ema.parameters():
    p.requires_grad_(False)
g_opt = optim.Adam(g.parameters(), lr=2e-3, betas=(0.0, 0.99))
r = LAZY / (LAZY + 1)
d_opt = optim.Adam(d.parameters(), lr=2e-3 * r, betas=(0.0, 0.99**r))
for i in range(60):
    d.requires_grad_(True)
    g.requires_grad_(False)
    fake = g(torch.randn(64, Z))
    d_loss = F.softplus(d(fake)).mean() + F.softplus(-d(real(64))).mean()
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    if i % LAZY == 0:
        x = real(64).requires_grad_()
        (slope,) = autograd.grad(d(x).sum(), x, create_graph=True)
        d_opt.zero_grad()
        (0.5 * 0.2 * LAZY * slope.square().sum(1).mean()).backward()
        d_opt.step()
    d.requires_grad_(False)
    g.requires_grad_(True)
    g_loss = F.softplus(-d(g(torch.randn(64, Z)))).mean()
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    with torch.no_grad():
        for a, b in zip(g_ema.parameters(), g.parameters()):
            a.lerp_(b, 0.02)
        for a, b in zip(g_ema.buffers(), g.buffers()):
            a.copy_(b)
    if i % 20 == 19:
        with torch.no_grad():
            print(i, d_loss.item(), g_loss.item(), g_ema(torch.randn(8, Z), psi=0.7).std().item())
print(sum(p.double().sum().item() for m in (g, d, g_ema) for p in m.state_dict().values()))
