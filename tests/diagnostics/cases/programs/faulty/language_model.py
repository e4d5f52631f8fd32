"""A small GPT: dataclass config, decay groups, warm-up and cosine by hand, accumulation, clipping, tied head."""

import math
import os
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F

FAULT = int(os.environ.get("FAULT", 0))


@dataclass
class Config:
    block: int = 16
    vocab: int = 27
    layer: int = 2
    head: int = 2
    width: int = 32


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_attn, self.c_proj, self.n = (
            nn.Linear(c.width, 3 * c.width),
            nn.Linear(c.width, c.width),
            c.head,
        )

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n, C // self.n).transpose(1, 2) for t in self.c_attn(x).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=FAULT != 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(c.width), SelfAttention(c), nn.LayerNorm(c.width)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(c.width, 4 * c.width),
                "c_proj": nn.Linear(4 * c.width, c.width),
                "act": nn.GELU(),
            }
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        m = self.mlp
        return x + m.c_proj(m.act(m.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(c.vocab, c.width),
                "wpe": nn.Embedding(c.block, c.width),
                "h": nn.ModuleList([Block(c) for _ in range(c.layer)]),
                "ln_f": nn.LayerNorm(c.width),
            }
        )
        self.lm_head = nn.Linear(c.width, c.vocab, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        self.apply(self._init)

    def _init(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, 0.0, 0.02)
            if getattr(m, "bias", None) is not None:
                nn.init.zeros_(m.bias)

    def forward(self, idx, targets=None):
        t = self.transformer
        x = t.wte(idx) + t.wpe(torch.arange(idx.shape[1]))
        for b in t.h:
            x = b(x)
        logits = self.lm_head(t.ln_f(x))
        loss = (
            None if targets is None else F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        )
        return logits, loss

    def configure_optimizers(self, wd, lr):
        decay = [p for n, p in self.named_parameters() if p.dim() >= 2]
        if FAULT == 2:
            rest = [
                p for n, p in self.named_parameters() if n.endswith("bias") and p.dim() < 2
            ]  # the gains of norms fall through
        else:
            rest = [p for n, p in self.named_parameters() if p.dim() < 2]
        return torch.optim.AdamW(
            [{"params": decay, "weight_decay": wd}, {"params": rest, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.95),
        )


def get_lr(it, lr=3e-3, warmup=10, total=60):
    if it < warmup:
        return lr * (it + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (it - warmup) / (total - warmup)))


def main():
    torch.manual_seed(1337)
    c = Config()
    torch.randint(0, c.vocab, (3,)).repeat(1)
    seq = [1, 5]
    g = torch.Generator().manual_seed(0)
    for _i in range(4000):
        seq.append((seq[-1] * 3 + seq[-2] + int(torch.randint(0, 2, (1,), generator=g))) % c.vocab)
    data = torch.tensor(seq)

    def get_batch(split):
        part = data[:3600] if split == "train" else data[3600:]
        ix = torch.randint(len(part) - c.block, (12,))
        return torch.stack([part[i : i + c.block] for i in ix]), torch.stack(
            [part[i + 1 : i + 1 + c.block] for i in ix]
        )

    model = GPT(c)
    opt = model.configure_optimizers(0.1, 3e-3)
    accumulation = 2

    @torch.no_grad()
    def estimate_loss():
        model.eval()
        out = {s: sum(model(*get_batch(s))[1].item() for _ in range(3)) / 3 for s in ("train", "val")}
        model.train()
        return out

    X, Y = get_batch("train")
    for it in range(60):
        for group in opt.param_groups:
            group["lr"] = get_lr(it)
        if it % 10 == 0:
            print(it, estimate_loss())
        for _micro in range(accumulation):
            _, loss = model(X, Y)
            (loss / accumulation).backward()
            X, Y = get_batch("train")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
    print(sum(p.double().sum().item() for p in model.parameters()))


main()
