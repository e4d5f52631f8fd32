"""A class-conditional diffusion model of `diffusers` draws stripes: an adapter, and faults for it.

`etrm investigate examples/own-models/generator.py:make_model`, and the same with a name in `FAULTS`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from etrm.investigation.own_model import ModelUnderTest

SIDE, CLASSES, ROWS, TIMES = 8, 4, 16, 50
SCHEDULER = DDPMScheduler(num_train_timesteps=TIMES)


def batch(index: int, first: int = 0) -> dict[str, Any]:
    """Stripes whose direction and phase are the class, with a little noise of their own."""
    ids = first + ROWS * index + torch.arange(ROWS)
    kinds, place = ids % CLASSES, torch.arange(SIDE).float()
    waves = torch.stack([torch.sin(place * torch.pi / 2 + phase) for phase in (0.0, torch.pi / 2)])
    images = waves[kinds % 2][:, :, None].expand(-1, -1, SIDE).clone()
    images[kinds >= 2] = images[kinds >= 2].transpose(1, 2)
    noise = [torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(int(id))) for id in ids]
    return {"id": ids, "image": (images + 0.1 * torch.stack(noise))[:, None], "class": kinds}


def sample_losses(model: Any, batch: dict[str, Any]) -> Tensor:
    """Error of the predicted noise at a random time, of each image."""
    noise, times = torch.randn_like(batch["image"]), torch.randint(TIMES, (len(batch["image"]),))
    noisy = SCHEDULER.add_noise(batch["image"], noise, times)
    return (model(noisy, times, class_labels=batch["class"]).sample - noise).square().flatten(1).mean(1)


def make_unet() -> nn.Module:
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=CLASSES,
    )


def make_model(seed: int) -> ModelUnderTest:
    return ModelUnderTest(
        model=make_unet(),
        step=lambda model, batch: sample_losses(model, batch).mean(),
        batch=batch,
        held_out=lambda index: batch(index, 10**6),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3),
        context_module="class_embedding",
        demonstrations=("class",),
        labels="image",
        ids="id",
        sample_losses=sample_losses,
        steps=20,
    )


def class_frozen(seed: int) -> ModelUnderTest:
    """The class embedding is left out where parameters are grouped."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        named = [p for name, p in model.named_parameters() if "class" not in name]
        return torch.optim.AdamW(named, 3e-3)

    return replace(make_model(seed), optimizer=optimizer)


def class_dropped(seed: int) -> ModelUnderTest:
    """Classifier-free guidance drops the class of every row, not of one in ten."""

    def losses(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return sample_losses(model, batch | {"class": torch.zeros_like(batch["class"])})

    return replace(make_model(seed), step=lambda m, b: losses(m, b).mean(), sample_losses=losses)


def wrong_class(seed: int) -> ModelUnderTest:
    """The embedding of each row is that of its neighbour."""
    made = make_model(seed)
    made.model.class_embedding.register_forward_hook(lambda module, given, output: output.roll(1, 0))
    return made


def trained_on_test(seed: int) -> ModelUnderTest:
    return replace(make_model(seed), batch=lambda index: batch(index, 10**6))


def rate_too_low(seed: int) -> ModelUnderTest:
    return replace(make_model(seed), optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1e-6))


FAULTS = {
    "class_frozen": "H2",
    "class_dropped": "H3",
    "wrong_class": "H3",
    "trained_on_test": "H5",
    "rate_too_low": "H4",
}
"""The hypothesis that each fault must validate first."""
