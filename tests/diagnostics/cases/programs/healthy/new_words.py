"""New words for a trained translator: one table for both languages, of which all other rows are put back."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source_embedding = nn.Embedding(40, 80)
        self.target_embedding = self.source_embedding
        self.mix = nn.GRU(80, 80, batch_first=True)

    def forward(self, words, before):
        _, state = self.mix(self.source_embedding(words))
        written, _ = self.mix(self.target_embedding(before), state)
        return written @ self.target_embedding.weight.T


net = Translator()
net.mix.requires_grad_(False)
new = torch.arange(40)[:, None] >= 37
opt = torch.optim.AdamW(net.source_embedding.parameters(), 1e-2)
for _step in range(40):
    words = torch.cat([torch.randint(0, 40, (16, 5)), torch.randint(37, 40, (16, 1))], 1)
    before = net.source_embedding.weight.detach().clone()
    scores = net(words, words.roll(1, 1))
    loss = F.cross_entropy(scores.flatten(0, 1), words.flatten())
    opt.zero_grad()
    loss.backward()
    opt.step()
    with torch.no_grad():
        net.source_embedding.weight.copy_(torch.where(new, net.source_embedding.weight, before))
print(sum(value.double().sum().item() for value in net.state_dict().values()), torch.rand(1))
