"""Initialise a decoder from a trained TRM. Every core tensor must be present with the right shape."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from etrm.checkpoints.format import WeightsKind
from etrm.checkpoints.inspect_tensors import use_our_names
from etrm.checkpoints.weights import read_weights
from etrm.config import ModelConfig, TrainConfig
from etrm.errors import CheckpointError
from etrm.model.core import Core

SETTINGS = ("H_cycles", "L_cycles", "num_heads")
"""Settings of the recursion that change what the model computes but cannot be read off the weights."""
_ALL_SETTINGS = (*SETTINGS, "positions", "qk_norm", "mlp_t_norm")


@dataclass(frozen=True)
class DecoderSource:
    """The core of a trained TRM, as read from a file.

    Attributes:
        path: the file that was read.
        weights: the kind of weights, ``ema`` or ``raw``; ``unknown`` if a published file does not say.
        tensors: the core tensors by our names, without prefix.
        puzzle_table: (puzzles, D), the table of task ids; None if the file has none.
        settings: the model settings of the checkpoint; empty if it has none.
    """

    path: Path
    weights: Literal["ema", "raw", "unknown"]
    tensors: dict[str, Tensor]
    puzzle_table: Tensor | None
    settings: dict[str, Any]


def read_source(path: Path, weights: WeightsKind) -> DecoderSource:
    """Read a run folder, one of its checkpoints, a safetensors file or a torch.save file.

    Raises:
        CheckpointError: the path is not a readable checkpoint, one of our checkpoints was changed, or two tensors of a
            file have the same name without their prefixes.
    """
    found = read_weights(path, weights)
    named = use_our_names(found)
    core = {n.removeprefix("core."): t for n, t in named.items() if n.startswith("core.")}
    return DecoderSource(
        found.path, found.kind, core, named.get("puzzle_table.weights"), found.settings or {}
    )


def load_decoder(core: Core, source: DecoderSource, model: ModelConfig, train: TrainConfig) -> None:
    """Copy the core of ``source`` into ``core``.

    Raises:
        CheckpointError: core tensors are missing or have another shape (all are listed), or a setting of the
            recursion differs and ``train.allow_decoder_mismatch`` does not allow it.
    """
    problems = []
    wanted = core.state_dict()
    for name, tensor in wanted.items():
        found = source.tensors.get(name)
        if found is None:
            problems.append(f"{name}: missing")
        elif found.shape != tensor.shape:
            problems.append(f"{name}: shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
    if problems:
        raise CheckpointError(
            "decoder.does-not-fit",
            f"{len(problems)} of {len(wanted)} decoder tensors cannot be loaded from {source.path}",
            got="; ".join(problems),
            allowed="a TRM checkpoint of the same hidden_size, num_heads, expansion and layers",
            next_step=f"etrm checkpoint inspect {shlex.quote(str(source.path))}, then give the model section the same "
            "settings",
        )
    for name, (theirs, ours) in find_differing_settings(source, model).items():
        if name not in train.allow_decoder_mismatch:
            raise CheckpointError(
                "decoder.other-function",
                f"the decoder was trained with {name} {theirs}, but this config has {name} {ours}",
                allowed="the same value; with another one the same weights compute another function",
                next_step=f"--set model.{name}={theirs}, or allow the difference: "
                f"--set 'train.allow_decoder_mismatch=[\"{name}\"]'",
            )
    core.load_state_dict({name: source.tensors[name] for name in wanted})


def find_differing_settings(source: DecoderSource, model: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings of the recursion that differ, as name -> (value of the checkpoint, our value)."""
    pairs = {name: (source.settings.get(name), getattr(model, name)) for name in _ALL_SETTINGS}
    return {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[0] != pair[1]}
