"""A GAN whose critic is not updated while it is right too often, with labels that are smoothed and swapped at times."""

import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(15)


def block(i, o):
    return [nn.Linear(i, o), nn.BatchNorm1d(o), nn.LeakyReLU(0.2, inplace=True)]


G = nn.Sequential(*block(8, 32), *block(32, 32), nn.Linear(32, 2), nn.Tanh())
D = nn.Sequential(
    nn.Linear(2, 32),
    nn.LeakyReLU(0.2, inplace=True),
    nn.Dropout(0.2),
    nn.Linear(32, 32),
    nn.LeakyReLU(0.2),
    nn.Linear(32, 1),
)
for m in [*G.modules(), *D.modules()]:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, 0.0, 0.4)
optG = optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
optD = optim.Adam(D.parameters(), lr=1e-2, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
skipped = 0
for it in range(60):
    a = 6.2832 * torch.rand(64)
    real = 0.7 * torch.stack([a.cos(), a.sin()], 1) + 0.02 * torch.randn(64, 2)
    optD.zero_grad()
    up = torch.full((64, 1), 0.9)
    down = torch.zeros(64, 1)
    if torch.rand(()) < 0.05:
        up, down = down, up
    out = D(real)
    lossD_real = criterion(out, up)
    lossD_real.backward()
    fake = G(torch.randn(64, 8))
    out_fake = D(fake.detach())
    lossD_fake = criterion(out_fake, down)
    lossD_fake.backward()
    right = ((out > 0).float().mean() + (out_fake < 0).float().mean()) / 2
    if right < 0.6:
        optD.step()
    else:
        skipped += 1
    optG.zero_grad()
    lossG = criterion(D(fake), torch.ones(64, 1))
    lossG.backward()
    optG.step()
    if it % 15 == 0:
        print(it, lossD_real.item() + lossD_fake.item(), lossG.item(), right.item(), skipped)
print(sum(p.double().sum().item() for m in (G, D) for p in m.parameters()))
