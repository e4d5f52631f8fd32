"""A residual network with batch norm in plain torch, as in torchvision: in which quarter is the bright square?

`etrm audit docs/examples/resnet.py:make_case`, and the same with the name of any other function in `CASES`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SIDE, SAMPLES = 16, 32

Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Two convolutions with a short cut around them."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to (B, out, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.short(x))


class ResNet(nn.Module):
    """Three stages of two blocks; the first `live` samples of a batch train everything before `layer2`."""

    def __init__(self, live: int = SAMPLES) -> None:
        super().__init__()
        self.live = live
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.layer3 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, SIDE, SIDE) to the logits of four classes."""
        x = self.layer1(self.stem(x))
        if self.live < len(x):
            x = torch.cat([x[: self.live], x[self.live :].detach()])
        return self.fc(self.pool(self.layer3(self.layer2(x))).flatten(1))


def make_case(live: int = SAMPLES) -> dict[str, Any]:
    """Healthy."""
    torch.manual_seed(0)
    model = ResNet(live)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    return {"model": model, "step": loss, "batches": batches(), "optimizer": optimizer}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batches(count: int = 25) -> list[Batch]:
    """Noise (SAMPLES, 3, SIDE, SIDE) with a square in one quarter, and which quarter it is."""
    generator = torch.Generator().manual_seed(1)
    half = SIDE // 2
    made = []
    for _ in range(count):
        images = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=generator)
        labels = torch.randint(4, (SAMPLES,), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            top, left = half * (label // 2) + 2, half * (label % 2) + 2
            image[:, top : top + 4, left : left + 4] += 1.0
        made.append((images, labels))
    return made


def stem_without_grad() -> dict[str, Any]:
    """The stem runs under no_grad, as in a backbone that was frozen and not unfrozen."""
    case = make_case()
    case["model"].stem.forward = torch.no_grad()(case["model"].stem.forward)
    return case


def two_of_32_live() -> dict[str, Any]:
    """Everything before the second stage is trained by two samples of 32."""
    return make_case(live=2)


def dead_relu() -> dict[str, Any]:
    """A norm's bias is so low that no unit of the block's branch ever fires."""
    case = make_case()
    with torch.no_grad():
        case["model"].layer2[0].bn1.bias.fill_(-10.0)
    return case


def left_in_eval() -> dict[str, Any]:
    """eval() was called for a validation, and train() was not called after it."""
    case = make_case()
    case["model"].eval()
    return case


def head_in_no_group() -> dict[str, Any]:
    """A new head was inserted after the optimiser was made."""
    case = make_case()
    case["model"].fc = nn.Linear(128, 4)
    return case


CASES = (make_case, stem_without_grad, two_of_32_live, dead_relu, left_in_eval, head_in_no_group)
