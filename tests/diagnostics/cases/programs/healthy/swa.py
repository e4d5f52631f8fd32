"""Stochastic weight averaging, cyclic rate, batch norm renewed for the average before each evaluation."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
swa = AveragedModel(net)
opt = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)
swa_sched = SWALR(opt, 0.05, anneal_epochs=2)
x = torch.randn(256, 8)
y = x[:, :4].argmax(1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64, shuffle=True)
for epoch in range(10):
    net.train()
    for a, b in loader:
        opt.zero_grad()
        F.cross_entropy(net(a), b).backward()
        opt.step()
    if epoch >= 2:
        swa.update_parameters(net)
        swa_sched.step()
        update_bn(loader, swa)
        swa.eval()
        with torch.no_grad():
            acc = (swa(x).argmax(1) == y).float().mean()
    else:
        sched.step()
print(
    sum(
        value.double().sum().item()
        for model in (
            net,
            swa,
        )
        for value in model.state_dict().values()
    ),
    torch.rand(1),
)
