"""The training runs that are measured, and the tiny ones with which a processor only tests the code of the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import torch

from etrm.config import Changes, Config, load, with_settings

READ_EVERY = 10**6
"""Longer than any measurement: no step in it is read."""

SMALL: Changes = {"data": {"queries": "all"}, "train": {"batch_size": 512}}
"""Changes to preset ``small`` (D 64): rows enough that a faster program shows."""
PAPER: Changes = {
    "data": {"max_side": 30, "buckets": 8, "augmentations": "fresh", "exclude": ("40853293",)},
    "model": {
        "hidden_size": 512,
        "num_heads": 8,
        "layers": 2,
        "H_cycles": 3,
        "L_cycles": 6,
        "context_tokens": 16,
        "halt": {"max_steps": 16},
    },
    "train": {"batch_size": 128, "precision": "bfloat16", "optimizer": "adam_atan2", "clip_norm": None},
}
"""Changes to preset ``small``: the size of the published TRM, two encoder layers, all training tasks of ARC-AGI-1."""
TINY: Changes = {
    "data": {"max_side": 5, "max_tasks": 12, "buckets": 2},
    "model": {"hidden_size": 16, "num_heads": 2, "H_cycles": 1, "L_cycles": 1, "context_tokens": 2},
    "train": {"batch_size": 4, "threads": 1, "precision": "float32"},
}
UNWATCHED: Changes = {"monitor": {"enabled": False}}
FEW_ROWS: Mapping[str, Changes] = {
    "small": {**UNWATCHED, "train": {"batch_size": 16}},
    "paper": {**UNWATCHED, "data": {"buckets": 2}, "train": {"batch_size": 1, "precision": "float32"}},
}
"""Changes to the two sizes with which a processor does a round in seconds. The probes of the first step take longer."""


def make_run(
    size: Changes, device: torch.device, *, tiny: bool | None = None, **changes: Unpack[Changes]
) -> Config:
    """Build a config of preset ``small`` with a size and more settings, without CUDA graphs on a processor.

    Unless the changes say otherwise, no step is read and the monitor records none but the first.

    Args:
        size: the settings of the size.
        device: the device of the run.
        tiny: whether the size shrinks to :data:`TINY`; by default on a processor.
        changes: more settings by section.
    """
    config = with_settings(load("small"), **size)
    if device.type == "cpu" if tiny is None else tiny:
        config = with_settings(config, **TINY)
    config = with_settings(
        config,
        train={"device": device.type, "log_every": READ_EVERY, "steps": READ_EVERY, "warmup_steps": 0},
        monitor={"every": READ_EVERY, "probe_every": READ_EVERY},
    )
    config = with_settings(config, **changes)
    return with_settings(config, train={"cuda_graphs": False}) if device.type == "cpu" else config
