"""Low-rank adapters of a frozen network, merged for evaluation; the best state is loaded at the end."""

import copy
import os

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(0)


class LoRALinear(nn.Module):
    def __init__(self, base, r=4, alpha=8):
        super().__init__()
        self.base, self.scale, self.merged = base, alpha / r, False
        self.base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(r, base.in_features) * 0.02)
        self.b = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        y = self.base(x)
        return y if self.merged else y + self.scale * F.linear(F.linear(x, self.a), self.b)

    @torch.no_grad()
    def merge(self, sign=1):
        self.base.weight += sign * self.scale * self.b @ self.a
        self.merged = sign > 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 6)

    def forward(self, x):
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Batches:
    def __init__(self, shift):
        x = torch.randn(480, 16)
        y = (x @ torch.randn(16, 6, generator=torch.Generator().manual_seed(1)) + shift * x[:, :6]).argmax(1)
        self.train = DataLoader(TensorDataset(x[:384], y[:384]), batch_size=32, shuffle=True)
        self.val = DataLoader(TensorDataset(x[384:], y[384:]), batch_size=48)


def fit(model, loader, epochs, lr):
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(epochs):
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
        yield


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    adapters = [m for m in model.modules() if isinstance(m, LoRALinear)]
    for each in adapters:
        each.merge()
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    for each in adapters:
        if FAULT == 1:
            each.merged = False
        else:
            each.merge(-1)
    model.train()
    return hits / len(loader.dataset)


net = Net()
with torch.no_grad():
    net.head.weight.mul_(2)
net.fc1, net.fc2 = LoRALinear(net.fc1), LoRALinear(net.fc2)
data = Batches(1.5)
best, best_state = 0, None
for epoch, _ in enumerate(fit(net, data.train, 8, 2e-2)):
    acc = accuracy(net, data.val)
    print(epoch, acc)
    if acc > best:
        best, best_state = acc, net.state_dict() if FAULT == 2 else copy.deepcopy(net.state_dict())
net.load_state_dict(best_state)
print("test", accuracy(net, data.val))
print(sum(p.double().sum().item() for p in net.parameters()))
