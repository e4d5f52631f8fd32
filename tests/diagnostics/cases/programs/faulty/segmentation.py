"""A U-shaped network, two losses, a schedule that waits for a plateau, and early stopping with the best weights."""

import copy
import os

import torch
import torch.nn.functional as F
from torch import nn

FAULT = int(os.environ.get("FAULT", 0))


def double_conv(i, o):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, 3, padding=1),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.down1, self.down2, self.bottom = double_conv(1, 8), double_conv(8, 16), double_conv(16, 16)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up2, self.up1 = double_conv(32, 8), double_conv(16, 8)
        self.out = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        y = self.up2(torch.cat([self.up(c), b], 1))
        y = self.up1(torch.cat([self.up(y), a], 1))
        return self.out(y)


class DiceLoss(nn.Module):
    def forward(self, logits, target):
        p = logits.softmax(dim=0 if FAULT == 1 else 1)
        t = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
        inter = (p * t).sum((2, 3))
        return 1 - ((2 * inter + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)).mean()


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad, self.state = patience, float("inf"), 0, None

    def __call__(self, value, model):
        if value < self.best - 1e-4:
            self.best, self.bad, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


def pictures(n, g):
    x = 0.2 * torch.randn(n, 1, 16, 16, generator=g)
    y = torch.zeros(n, 16, 16, dtype=torch.long)
    for i in range(n):
        r, c = torch.randint(0, 10, (2,), generator=g).tolist()
        k = 1 + int(torch.randint(0, 2, (1,), generator=g))
        x[i, 0, r : r + 5, c : c + 5] += k
        y[i, r : r + 5, c : c + 5] = k
    return torch.utils.data.TensorDataset(x, y)


def run_epoch(model, loader, losses, optimizer=None):
    training = optimizer is not None
    if FAULT != 2:
        model.train(training)
    total = 0.0
    with torch.set_grad_enabled(training):
        for x, y in loader:
            logits = model(x)
            loss = sum(w * f(logits, y) for w, f in losses)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(x)
    return total / len(loader.dataset)


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(5)
    train = torch.utils.data.DataLoader(pictures(64, g), batch_size=16, shuffle=True, drop_last=True)
    val = torch.utils.data.DataLoader(pictures(32, g), batch_size=16)
    model = UNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    losses = [(1.0, nn.CrossEntropyLoss()), (1.0, DiceLoss())]
    stopping = EarlyStopping(4)
    for epoch in range(12):
        t = run_epoch(model, train, losses, optimizer)
        v = run_epoch(model, val, losses)
        scheduler.step(v)
        print(epoch, t, v)
        if stopping(v, model):
            break
    model.load_state_dict(stopping.state)
    print(sum(p.double().sum().item() for p in model.parameters()))


if __name__ == "__main__":
    main()
