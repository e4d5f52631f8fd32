"""A classifier over features that a hook takes out of a backbone, with an auxiliary head; rate set per epoch."""

import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(1)


class Shapes(Dataset):
    def __init__(self, n=256):
        g = torch.Generator().manual_seed(2)
        self.y = torch.randint(0, 3, (n,), generator=g)
        self.x = 0.4 * torch.randn(n, 1, 16, 16, generator=g)
        for i, c in enumerate(self.y.tolist()):
            if c == 0:
                self.x[i, 0, 4:12, 7:9] += 1
            elif c == 1:
                self.x[i, 0, 7:9, 4:12] += 1
            else:
                self.x[i, 0, 5:11, 5:11] += 0.7

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def block(i, o):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)
    )


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = block(1, 12), block(12, 24), block(24, 32)

    def forward(self, x):
        return self.layer3(self.layer2(self.layer1(x)))


class WithHooks(nn.Module):
    """Pools what two layers give."""

    def __init__(self, backbone, layers=("layer2", "layer3")):
        super().__init__()
        self.backbone, self.layers, self.kept = backbone, layers, {}
        for name in layers:
            getattr(backbone, name).register_forward_hook(self.keep(name))
        self.head = nn.Linear(24 + 32, 3)

    def keep(self, name):
        def hook(module, args, output):
            self.kept[name] = output.detach().clone() if FAULT == 2 else output

        return hook

    def forward(self, x):
        self.kept.clear()
        self.backbone(x)
        return self.head(torch.cat([self.kept[n].mean((2, 3)) for n in self.layers], 1))


model = WithHooks(Backbone())
train = DataLoader(Shapes(), batch_size=64, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)


def train_one_epoch(epoch):
    global optimizer
    lr = 2e-3 * 0.5 * (1 + math.cos(math.pi * epoch / 12))
    if FAULT == 1:
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    for group in optimizer.param_groups:
        group["lr"] = lr
    total = 0
    model.train()
    for x, y in train:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(train)


for epoch in range(12):
    print(epoch, train_one_epoch(epoch))
model.eval()
with torch.no_grad():
    print("acc", sum((model(x).argmax(1) == y).sum().item() for x, y in train) / 256)
print(sum(p.double().sum().item() for p in model.parameters()))
