"""Weights in a dictionary: functional_call, optimiser over the dictionary, the module is a shell on the meta device."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
params = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}
opt = torch.optim.Adam(params.values(), 1e-2)
x = torch.randn(256, 8)
y = x[:, :4].argmax(1)
for _step in range(40):
    i = torch.randint(0, 256, (32,))
    loss = F.cross_entropy(functional_call(net, params, (x[i],)), y[i])
    opt.zero_grad()
    loss.backward()
    opt.step()
with torch.no_grad():
    for k, v in net.named_parameters():
        v.copy_(params[k])
print(
    sum(value.double().sum().item() for model in (net,) for value in model.state_dict().values()),
    torch.rand(1),
)
