"""Sequences grow and batches shrink; the data is an iterable of dictionaries, and the loss a mean over tokens."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

torch.manual_seed(0)


class Growing(IterableDataset):
    def __iter__(self):
        g = torch.Generator().manual_seed(2)
        for step in range(60):
            t, n = 4 + step // 8, 32 - step // 4
            ids = torch.randint(1, 12, (n, t), generator=g)
            yield {"ids": ids, "target": ids.cumsum(1) % 12}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 24)
        self.rnn = nn.LSTM(24, 32, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(32, 12)

    def forward(self, ids, **_):
        return self.head(self.rnn(self.embed(ids))[0])


model = Model()
opt = torch.optim.NAdam(model.parameters(), 3e-3)
for batch in DataLoader(Growing(), batch_size=None):
    logits = model(**batch)
    loss = (
        F.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), reduction="sum")
        / batch["target"].numel()
    )
    opt.zero_grad(set_to_none=False)
    loss.backward()
    opt.step()
print(
    sum(value.double().sum().item() for model in (model,) for value in model.state_dict().values()),
    torch.rand(1),
)
