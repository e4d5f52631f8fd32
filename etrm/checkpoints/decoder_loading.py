"""Start a decoder from a trained TRM: every core tensor with its shape, or a clear error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from etrm.checkpoints.format import WeightsKind
from etrm.checkpoints.published_names import to_our_name
from etrm.checkpoints.weights import read_weights
from etrm.config import ModelConfig, TrainConfig
from etrm.errors import CheckpointError
from etrm.model.core import Core

SETTINGS = ("H_cycles", "L_cycles", "num_heads")
"""Settings of the recursion that change the function and leave no trace in the weights."""
_ALL_SETTINGS = (*SETTINGS, "positions", "qk_norm", "mlp_t_norm")


@dataclass(frozen=True)
class DecoderSource:
    """The core of a trained TRM, as a file holds it.

    Attributes:
        path: the file that was read.
        weights: ``ema`` or ``raw``; ``unknown`` where a foreign file does not say.
        tensors: core tensors by our names, without prefix.
        puzzle_table: (puzzles, D), or None where the file has none.
        settings: model settings of the checkpoint, empty where it does not say.
    """

    path: Path
    weights: Literal["ema", "raw", "unknown"]
    tensors: dict[str, Tensor]
    puzzle_table: Tensor | None
    settings: dict[str, Any]


def read_source(path: Path, weights: WeightsKind) -> DecoderSource:
    """Read a run folder, one of its checkpoints, a safetensors file or a torch.save file.

    Raises:
        CheckpointError: nothing there can be read as a checkpoint, or a checkpoint of ours was altered.
    """
    found = read_weights(path, weights)
    named = {to_our_name(name): tensor for name, tensor in found.tensors.items()}
    core = {n.removeprefix("core."): t for n, t in named.items() if n.startswith("core.")}
    return DecoderSource(
        found.path, found.kind, core, named.get("puzzle_table.weights"), found.settings or {}
    )


def load_decoder(core: Core, source: DecoderSource, model: ModelConfig, train: TrainConfig) -> None:
    """Copy the source's core into ``core``.

    Raises:
        CheckpointError: a core tensor is missing or has another shape (all are listed), or a setting
            without weights differs and is not allowed by name.
    """
    problems = []
    wanted = core.state_dict()
    for name, tensor in wanted.items():
        found = source.tensors.get(name)
        if found is None:
            problems.append(f"{name}: missing")
        elif found.shape != tensor.shape:
            problems.append(f"{name}: shape {tuple(found.shape)}, wanted {tuple(tensor.shape)}")
    if problems:
        raise CheckpointError(
            "decoder.does-not-fit",
            f"{len(problems)} of {len(wanted)} decoder tensors cannot be loaded from {source.path}",
            got="; ".join(problems),
            allowed="a TRM checkpoint of the same hidden_size, num_heads, expansion and layers",
            next_step="compare the model section with the checkpoint's config",
        )
    for name, (theirs, ours) in find_differing_settings(source, model).items():
        if name not in train.allow_decoder_mismatch:
            raise CheckpointError(
                "decoder.other-function",
                f"the decoder was trained with {name} {theirs}, and this config runs it with {ours}",
                allowed="the same value: weights alone do not make the same function",
                next_step=f"--set model.{name}={theirs}, or allow it by name: "
                f"--set 'train.allow_decoder_mismatch=[\"{name}\"]'",
            )
    core.load_state_dict({name: source.tensors[name] for name in wanted})


def find_differing_settings(source: DecoderSource, model: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Settings without weights that differ: name to (the checkpoint's, ours)."""
    pairs = {name: (source.settings.get(name), getattr(model, name)) for name in _ALL_SETTINGS}
    return {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[0] != pair[1]}
