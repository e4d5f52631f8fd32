"""One optimiser over everything; odd epochs train the body, even ones the head."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
body, head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU()), nn.Linear(16, 4)
model = nn.Sequential(body, head)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.randn(256, 8)
y = x[:, :4].argmax(1)
for epoch in range(10):
    body.requires_grad_(epoch % 2 == 1)
    head.requires_grad_(epoch % 2 == 0)
    for i in range(0, 256, 64):
        loss = F.cross_entropy(model(x[i : i + 64]), y[i : i + 64])
        opt.zero_grad()
        loss.backward()
        opt.step()
print(
    sum(value.double().sum().item() for model in (model,) for value in model.state_dict().values()),
    torch.rand(1),
)
