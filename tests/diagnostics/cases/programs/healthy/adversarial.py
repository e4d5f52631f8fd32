"""Adversarial training: PGD in evaluation mode inside the step, gradients by the inputs, TRADES."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * 36, 3)
)
opt = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
for _step in range(40):
    y = torch.randint(0, 3, (32,))
    x = torch.randn(32, 1, 8, 8) * 0.3
    x[torch.arange(32), 0, y * 2] += 1
    net.eval()
    adv = x + 0.01 * torch.randn_like(x)
    with torch.no_grad():
        clean = F.softmax(net(x), 1)
    for _ in range(3):
        adv.requires_grad_()
        (g,) = torch.autograd.grad(F.kl_div(F.log_softmax(net(adv), 1), clean, reduction="sum"), adv)
        adv = (adv.detach() + 0.05 * g.sign()).clamp(x - 0.2, x + 0.2)
    net.train()
    logits = net(x)
    loss = F.cross_entropy(logits, y) + 2 * F.kl_div(
        F.log_softmax(net(adv.detach()), 1), F.softmax(logits, 1), reduction="batchmean"
    )
    opt.zero_grad()
    loss.backward()
    opt.step()
print(
    sum(value.double().sum().item() for model in (net,) for value in model.state_dict().values()),
    torch.rand(1),
)
