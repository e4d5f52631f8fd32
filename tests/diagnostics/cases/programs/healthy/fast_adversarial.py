"""Fast adversarial training: a first pass finds the perturbation; gradients that are not finite are cleaned."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
opt = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
for _step in range(40):
    y = torch.randint(0, 3, (32,))
    x = torch.randn(32, 1, 8, 8) * 0.3
    x[torch.arange(32), 0, y * 2] += 1
    delta = torch.empty_like(x).uniform_(-0.1, 0.1).requires_grad_()
    F.cross_entropy(net(x + delta), y).backward()
    delta.data = (delta + 0.12 * delta.grad.sign()).clamp(-0.1, 0.1)
    opt.zero_grad()
    loss = F.cross_entropy(net(x + delta.detach()), y) * (float("inf") if _step == 20 else 1.0)
    loss.backward()
    for p in net.parameters():
        torch.nan_to_num(p.grad, nan=0.0, posinf=1.0, neginf=-1.0, out=p.grad)
    opt.step()
    opt.zero_grad()
print(sum(value.double().sum().item() for value in net.state_dict().values()), torch.rand(1))
