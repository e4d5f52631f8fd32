"""When the validation gets worse, the best weights and the optimiser's state are loaded, and the rate is halved."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
opt = torch.optim.SGD(net.parameters(), 0.8, momentum=0.9)
x = torch.randn(256, 8)
y = x[:, :4].argmax(1)
best, kept = 1e9, None
for _epoch in range(15):
    net.train()
    for i in range(0, 192, 48):
        loss = F.cross_entropy(net(x[i : i + 48]), y[i : i + 48])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        value = F.cross_entropy(net(x[192:]), y[192:]).item()
    if value < best:
        best, kept = value, (copy.deepcopy(net.state_dict()), copy.deepcopy(opt.state_dict()))
    else:
        net.load_state_dict(kept[0])
        opt.load_state_dict(kept[1])
        for g in opt.param_groups:
            g["lr"] *= 0.5
        kept[1]["param_groups"][0]["lr"] = opt.param_groups[0]["lr"]
print(
    sum(value.double().sum().item() for model in (net,) for value in model.state_dict().values()),
    torch.rand(1),
)
