"""Translation with scheduled sampling: with a chance that grows, the decoder reads the word that it chose itself."""

import random

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

random.seed(0)
torch.manual_seed(0)
PAD, BOS, EOS, V = 0, 1, 2, 15


class Pairs(Dataset):
    def __init__(self, n=320):
        self.rows = []
        for _ in range(n):
            s = [random.randint(3, V - 1) for _ in range(random.randint(3, 8))]
            self.rows.append((torch.tensor(s), torch.tensor([BOS, *s[::-1], EOS])))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def collate(rows):
    src, tgt = zip(*rows)
    return (
        pad_sequence(src, batch_first=True, padding_value=PAD),
        torch.tensor([len(s) for s in src]),
        pad_sequence(tgt, batch_first=True, padding_value=PAD),
    )


class Seq2Seq(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.src, self.tgt = nn.Embedding(V, d, padding_idx=PAD), nn.Embedding(V, d, padding_idx=PAD)
        self.enc = nn.GRU(d, d, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * d, d)
        self.cell = nn.GRUCell(2 * d, d)
        self.att = nn.Linear(d, 2 * d, bias=False)
        self.mix = nn.Linear(2 * d, d)
        self.out = nn.Linear(2 * d, V)

    def forward(self, src, lens, tgt, p_own=0.0):
        packed = pack_padded_sequence(self.src(src), lens, batch_first=True, enforce_sorted=False)
        mem, h = self.enc(packed)
        mem, _ = nn.utils.rnn.pad_packed_sequence(mem, batch_first=True)
        mask = torch.arange(mem.size(1))[None] >= lens[:, None]
        h = torch.tanh(self.bridge(torch.cat([h[0], h[1]], 1)))
        word, ctx, logits = tgt[:, 0], torch.zeros_like(h), []
        for t in range(1, tgt.size(1)):
            h = self.cell(torch.cat([self.tgt(word), ctx], 1), h)
            score = torch.bmm(mem, self.att(h)[:, :, None])[:, :, 0].masked_fill(mask, float("-inf"))
            ctx = self.mix(torch.bmm(score.softmax(1)[:, None], mem)[:, 0])
            step = self.out(torch.cat([h, ctx], 1))
            logits.append(step)
            own = random.random() < p_own
            word = step.argmax(1).detach() if own else tgt[:, t]
        return torch.stack(logits, 1)


net = Seq2Seq()
loader = DataLoader(Pairs(), batch_size=32, shuffle=True, collate_fn=collate)
opt = torch.optim.Adam(net.parameters(), lr=4e-3)
crit = nn.CrossEntropyLoss(ignore_index=PAD)
for epoch in range(8):
    total = 0.0
    for src, lens, tgt in loader:
        logits = net(src, lens, tgt, p_own=0.06 * epoch)
        loss = crit(logits.reshape(-1, V), tgt[:, 1:].reshape(-1))
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        total += loss.item()
    print(epoch, total / len(loader))
print(sum(p.double().sum().item() for p in net.parameters()))
