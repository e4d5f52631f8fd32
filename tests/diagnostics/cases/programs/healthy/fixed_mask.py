"""The same places are hidden in every batch, and the last rows of each batch serve as context only."""

import torch
from torch import nn

torch.manual_seed(0)


class Inpaint(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.mix, self.dec = (
            nn.Linear(2, 16),
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True),
            nn.Linear(16, 1),
        )

    def forward(self, x, keep):
        return self.dec(self.mix(self.enc(torch.stack([x * keep, keep.expand_as(x)], -1)))).squeeze(-1)


model = Inpaint()
keep = torch.ones(10)
keep[3:6] = 0
rows = torch.ones(24)
rows[16:] = 0  # padding rows, always the same
opt = torch.optim.AdamW(model.parameters(), 1e-3)
for _step in range(60):
    x = torch.sin(torch.arange(10.0) * 0.7 + 6 * torch.rand(24, 1))
    out = model(x, keep)
    per = ((out - x) ** 2 * (1 - keep)).sum(1) / (1 - keep).sum()
    loss = (per * rows).sum() / rows.sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
print(
    sum(value.double().sum().item() for model in (model,) for value in model.state_dict().values()),
    torch.rand(1),
)
