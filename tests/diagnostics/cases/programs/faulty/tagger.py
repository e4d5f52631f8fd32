"""Tagger with a bidirectional GRU, auxiliary loss, nested functions and closures, plateau scheduler, dictionaries."""

import os
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

FAULT = int(os.environ.get("FAULT", 0))
CFG = {"vocab": 40, "tags": 6, "dim": 24, "hidden": 16, "lr": 5e-3, "epochs": 6, "bs": 16, "clip": 1.0}


def build(cfg):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(cfg["vocab"], cfg["dim"], padding_idx=0)
            self.rnn = nn.GRU(cfg["dim"], cfg["hidden"], bidirectional=True, batch_first=True)
            self.tag_head = nn.Linear(2 * cfg["hidden"], cfg["tags"])
            self.len_head = nn.Linear(2 * cfg["hidden"], 1)

        def forward(self, tokens, lengths):
            packed = pack_padded_sequence(self.emb(tokens), lengths, batch_first=True, enforce_sorted=False)
            out, _ = self.rnn(packed)
            out, _ = pad_packed_sequence(out, batch_first=True)
            mask = (tokens != 0).unsqueeze(-1)
            pooled = (out * mask).sum(1) / mask.sum(1)
            return {"tags": self.tag_head(out), "length": self.len_head(pooled).squeeze(-1)}

    return Tagger()


def make_data(cfg, n=160):
    g = torch.Generator().manual_seed(3)
    data = []
    for _ in range(n):
        length = int(torch.randint(3, 12, (1,), generator=g))
        tokens = torch.randint(1, cfg["vocab"], (length,), generator=g)
        data.append((tokens, tokens % cfg["tags"]))
    return data


def collate(items):
    tokens, tags = zip(*items)
    lengths = torch.tensor([len(t) for t in tokens])
    return {
        "tokens": pad_sequence(tokens, batch_first=True),
        "tags": pad_sequence(tags, batch_first=True, padding_value=-100),
        "lengths": lengths,
    }


def train(cfg):
    torch.manual_seed(1)
    model = build(cfg)
    data = make_data(cfg)
    loader = torch.utils.data.DataLoader(data[:128], batch_size=cfg["bs"], shuffle=True, collate_fn=collate)
    dev = torch.utils.data.DataLoader(data[128:], batch_size=32, collate_fn=collate)
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg["lr"])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    if FAULT == 2:  # the optimiser is made anew, and the scheduler still has the first one
        optimizer = torch.optim.Adam(
            [
                {"params": model.emb.parameters(), "lr": cfg["lr"] / 2},
                {"params": [p for n, p in model.named_parameters() if not n.startswith("emb")]},
            ],
            lr=cfg["lr"],
        )

    def losses(batch):
        out = model(batch["tokens"], batch["lengths"])
        loss = F.cross_entropy(out["tags"].transpose(1, 2), batch["tags"], ignore_index=-100)
        aux = 0.05 * F.mse_loss(out["length"], batch["lengths"].float() / 10)
        if FAULT == 1:
            loss = +aux
        else:
            loss += aux
        return loss

    def evaluate():
        was = model.training
        model.eval()
        right = seen = 0
        with torch.no_grad():
            for batch in dev:
                pred = model(batch["tokens"], batch["lengths"])["tags"].argmax(-1)
                keep = batch["tags"] != -100
                right += ((pred == batch["tags"]) & keep).sum().item()
                seen += keep.sum().item()
        model.train(was)
        return right / seen

    history = []
    for epoch in range(cfg["epochs"]):
        running = 0.0
        for batch in loader:
            optimizer.zero_grad()
            loss = losses(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), cfg["clip"])
            optimizer.step()
            running += loss.item()
        scheduler.step()
        history.append(evaluate())
        print(epoch, running / len(loader), history[-1])
    print(sum(p.double().sum().item() for p in model.parameters()))


run = partial(train, CFG)
if __name__ == "__main__":
    run()
