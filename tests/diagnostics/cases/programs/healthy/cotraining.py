"""Two networks, each learns the rows of small loss that the other chose (co-teaching), then pseudo-labels."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


def make():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))


a, b = make(), make()
oa, ob = torch.optim.Adam(a.parameters(), 3e-3), torch.optim.Adam(b.parameters(), 3e-3)
x = torch.randn(512, 8)
y = x[:, :4].argmax(1)
noisy = torch.where(torch.rand(512) < 0.2, torch.randint(0, 4, (512,)), y)
for step in range(40):
    i = torch.randint(0, 512, (64,))
    la, lb = (
        F.cross_entropy(a(x[i]), noisy[i], reduction="none"),
        F.cross_entropy(b(x[i]), noisy[i], reduction="none"),
    )
    ka, kb = la.detach().argsort()[:48], lb.detach().argsort()[:48]
    oa.zero_grad()
    la[kb].mean().backward()
    oa.step()
    ob.zero_grad()
    lb[ka].mean().backward()
    ob.step()
    if step % 5 == 4:
        u = torch.randn(64, 8)
        with torch.no_grad():
            p = (a(u).softmax(1) + b(u).softmax(1)) / 2
        sure = p.max(1).values > 0.6
        if sure.any():
            oa.zero_grad()
            F.cross_entropy(a(u[sure]), p[sure].argmax(1)).backward()
            oa.step()
            ob.zero_grad()
            F.cross_entropy(b(u[sure]), p[sure].argmax(1)).backward()
            ob.step()
print(
    sum(
        value.double().sum().item()
        for model in (
            a,
            b,
        )
        for value in model.state_dict().values()
    ),
    torch.rand(1),
)
