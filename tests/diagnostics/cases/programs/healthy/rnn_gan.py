"""A GAN of time series: the recurrent generator draws noise at each time, and its first state too."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


class Gen(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 16), nn.Linear(16, 1)

    def forward(self, n, t=12):
        h = torch.randn(n, 16)
        ys = []
        for _ in range(t):
            h = self.cell(torch.randn(n, 4), h)
            ys.append(self.out(h))
        return torch.stack(ys, 1)


class Gen2(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, n, t=12):
        state = (torch.randn(1, n, 16), torch.zeros(1, n, 16))
        return self.out(self.rnn(torch.randn(n, t, 4), state)[0])


class Crit(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[1][0])


for G in (Gen(), Gen2()):
    D = Crit()
    og, od = torch.optim.Adam(G.parameters(), 1e-3), torch.optim.Adam(D.parameters(), 1e-3)
    for _step in range(30):
        phase = torch.rand(16, 1) * 6
        real = torch.sin(torch.arange(12.0) * 0.5 + phase)[..., None]
        d = F.softplus(-D(real)).mean() + F.softplus(D(G(16).detach())).mean()
        od.zero_grad()
        d.backward()
        od.step()
        g = F.softplus(-D(G(16))).mean()
        og.zero_grad()
        g.backward()
        og.step()
    print(
        sum(
            value.double().sum().item()
            for model in (
                G,
                D,
            )
            for value in model.state_dict().values()
        ),
        torch.rand(1),
    )
