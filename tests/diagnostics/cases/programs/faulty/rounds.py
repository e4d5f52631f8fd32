"""A model of sequences whose optimiser and schedule come from a function; a loader for each epoch."""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

FAULT = int(os.environ.get("FAULT", 0))
torch.manual_seed(6)


class Sums(Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(n)
        self.x = torch.randn(n, 9, 2, generator=g)
        self.y = (self.x[..., 0] * (self.x[..., 1] > 0)).cumsum(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i]}


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(2, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0]).squeeze(-1)


def configure(model, epoch):
    opt = torch.optim.Adam(model.parameters(), lr=1e-2 / (1 + epoch / 4), betas=(0.9, 0.99))
    return opt, torch.optim.lr_scheduler.LinearLR(opt, 0.5, 1.0, 3)


model, ds = Counter(), Sums(192)
opt, sched = configure(model, 0)
for epoch in range(8):
    if FAULT == 1:
        opt, sched = configure(model, epoch)
    for batch in DataLoader(ds, batch_size=32, shuffle=True, drop_last=True):
        loss = nn.functional.huber_loss(model(batch["x"]), batch["y"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        opt.zero_grad()
    print(epoch, loss.item())
print(sum(p.double().sum().item() for p in model.parameters()))
