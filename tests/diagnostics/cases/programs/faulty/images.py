"""Image classifier: argparse, Trainer class, mixed precision, OneCycle, evaluation in the loop, checkpoints."""

import argparse
import os
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FAULT = int(os.environ.get("FAULT", 0))


class ConvBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(o)
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class SmallNet(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stem = ConvBlock(3, 8)
        self.stage1 = nn.Sequential(ConvBlock(8, 16), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(ConvBlock(16, 16), nn.AdaptiveAvgPool2d(1))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = self.stage2(self.stage1(self.stem(x)))
        return self.fc(self.drop(x.flatten(1)))


class Trainer:
    def __init__(self, model, args, train, val):
        self.model, self.args, self.train_loader, self.val_loader = model, args, train, val
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=args.lr, total_steps=args.epochs * len(train)
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.best = 0.0

    def training_step(self, x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(x)
            loss = self.criterion(logits, y)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if FAULT == 1:
            self.optimizer.step()  # the scale is never divided out
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.scheduler.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        right = total = 0
        for x, y in self.val_loader:
            right += (self.model(x).argmax(1) == y).sum().item()
            total += len(y)
        return right / total

    def fit(self):
        for epoch in range(self.args.epochs):
            if FAULT != 2:
                self.model.train()
            for x, y in self.train_loader:
                loss = self.training_step(x, y)
            acc = self.evaluate()
            if acc > self.best:
                self.best = acc
                torch.save({"model": self.model.state_dict(), "epoch": epoch}, f"{self.args.out}/best.pt")
            print(f"epoch {epoch} loss {loss:.3f} acc {acc:.3f}")


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--batch-size", type=int, default=32)
    p.add_argument("--out", default=tempfile.mkdtemp())
    return p.parse_args()


def main():
    args = parse()
    torch.manual_seed(0)
    x = torch.randn(320, 3, 8, 8)
    y = (x.mean((2, 3)).argmax(1) + 2 * (x[:, 0, :4].mean((1, 2)) > 0)).clamp(max=4)
    train = DataLoader(TensorDataset(x[:256], y[:256]), args.batch_size, shuffle=True)
    val = DataLoader(TensorDataset(x[256:], y[256:]), 64)
    trainer = Trainer(SmallNet(), args, train, val)
    trainer.fit()
    print(sum(p.double().sum().item() for p in trainer.model.parameters()))


if __name__ == "__main__":
    main()
