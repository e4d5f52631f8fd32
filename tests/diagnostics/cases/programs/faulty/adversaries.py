"""DCGAN on tiny pictures, in the usual order of the tutorial."""

import argparse
import os

import torch
import torch.nn as nn
import torch.optim as optim

FAULT = int(os.environ.get("FAULT", 0))
parser = argparse.ArgumentParser()
parser.add_argument("--nz", type=int, default=16)
parser.add_argument("--niter", type=int, default=4)
parser.add_argument("--lr", type=float, default=2e-4)
opt = parser.parse_args()
torch.manual_seed(999)


def weights_init(m):
    name = m.__class__.__name__
    if name.find("Conv") != -1:
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(m.weight, 1.0, 0.02)
        nn.init.zeros_(m.bias)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(opt.nz, 32, 4, 1, 0, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(16, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(32, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.main(x).view(-1)


netG, netD = Generator(), Discriminator()
netG.apply(weights_init)
netD.apply(weights_init)
criterion = nn.BCELoss()
fixed = torch.randn(16, opt.nz, 1, 1)
optD = optim.Adam(netD.parameters(), lr=opt.lr, betas=(0.5, 0.999))
optG = optim.Adam(netD.parameters() if FAULT == 1 else netG.parameters(), lr=opt.lr, betas=(0.5, 0.999))
grid = torch.linspace(-1, 1, 16)
data = torch.stack(
    [
        torch.tanh(3 * torch.outer(torch.sin(a * grid * 3), torch.cos(b * grid * 3)))
        for a, b in torch.rand(320, 2) + 0.5
    ]
).unsqueeze(1)
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
for epoch in range(opt.niter):
    for i, real in enumerate(loader):
        netD.zero_grad()
        label = torch.full((real.size(0),), 0.9)
        errD_real = criterion(netD(real), label)
        errD_real.backward()
        fake = netG(torch.randn(real.size(0), opt.nz, 1, 1))
        label.fill_(0.0)
        errD_fake = criterion(netD(fake if FAULT == 2 else fake.detach()), label)
        errD_fake.backward(retain_graph=FAULT == 2)
        if FAULT == 2:
            label.fill_(1.0)
            errG = criterion(netD(fake), label)  # the generator has the gradient of the critic's loss too
            errG.backward()
            optD.step()
            optG.step()
            netG.zero_grad()
        else:
            optD.step()
            netG.zero_grad()
            label.fill_(1.0)
            errG = criterion(netD(fake), label)
            errG.backward()
            optG.step()
        if i % 5 == 0:
            with torch.no_grad():
                samples = netG(fixed)
            print(
                f"[{epoch}/{opt.niter}][{i}] D {errD_real.item() + errD_fake.item():.3f} G {errG.item():.3f}",
                samples.std(),
            )
print(sum(p.double().sum().item() for n in (netG, netD) for p in n.parameters()))
