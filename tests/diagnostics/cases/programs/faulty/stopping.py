"""Early stopping with the best weights, and weights averaged over the last epochs; a fit() of one epoch at a time."""

import os

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(4)


class EarlyStopping:
    def __init__(self, patience=3):
        self.best, self.weights, self.bad, self.patience = float("inf"), {}, 0, patience

    def __call__(self, value, net):
        if value < self.best:
            self.best, self.bad = value, 0
            for k, v in net.state_dict().items():
                self.weights[k] = v if FAULT == 1 else v.clone()
        else:
            self.bad += 1
        return self.bad >= self.patience


def data(n):
    x = torch.randn(n, 12)
    return TensorDataset(x, (x[:, :3] * x[:, 3:6]).argmax(1))


class Fitter:
    def __init__(self, net):
        self.net = net
        self.sgd = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def fit(self, ds, epochs=1, lr=0.1):
        if FAULT == 3:
            self.sgd = optim.SGD(self.net.parameters(), lr=lr, momentum=0.9, nesterov=True)
        for g in self.sgd.param_groups:
            g["lr"] = lr
        for _ in range(epochs):
            for x, y in DataLoader(ds, 32, shuffle=True):
                self.sgd.zero_grad()
                F.cross_entropy(self.net(x), y).backward()
                self.sgd.step()


net = nn.Sequential(nn.Linear(12, 96), nn.ReLU(), nn.Linear(96, 3))
train, val = data(160), data(200)
fitter, stop, last = Fitter(net), EarlyStopping(), []
for epoch in range(12):
    fitter.fit(train, lr=0.1 * 0.95**epoch)
    with torch.no_grad():
        loss = sum(F.cross_entropy(net(x), y).item() for x, y in DataLoader(val, 50)) / 4
    print(epoch, loss)
    last.append(net.state_dict() if FAULT == 2 else {k: v.clone() for k, v in net.state_dict().items()})
    if stop(loss, net):
        break
averaged = {k: torch.stack([each[k] for each in last[-3:]]).mean(0) for k in last[0]}
net.load_state_dict(averaged)
with torch.no_grad():
    print("averaged", F.cross_entropy(net(val.tensors[0]), val.tensors[1]).item())
net.load_state_dict(stop.weights)
print(sum(p.double().sum().item() for p in net.parameters()))
