"""Start a decoder from a trained TRM: every core tensor with its shape, or a clear error."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from etrm.config import ModelConfig, TrainConfig
from etrm.errors import CheckpointError
from etrm.model.core import Core
from etrm.training import checkpoint as checkpoints

SETTINGS = ("H_cycles", "L_cycles", "num_heads")
"""Settings that change the function and leave no trace in the weights."""
_PREFIXES = ("_orig_mod.", "module.", "model.")


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


def read_source(path: Path, weights: Literal["ema", "raw"]) -> DecoderSource:
    """Read a run folder, one of its checkpoints, a safetensors file or a torch.save file.

    A torch.save file is read with ``weights_only=True``: it cannot execute code.

    Raises:
        CheckpointError: nothing there can be read as a checkpoint.
    """
    folder = _checkpoint_folder(path)
    if folder is not None:
        file = folder / ("ema.safetensors" if weights == "ema" else "model.safetensors")
        return _source(file, weights, _read_tensors(file), _read_settings(folder / "state.json"))
    return _source(path, "unknown", _read_tensors(path), {})


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
            f"{len(problems)} of {len(wanted)} decoder tensors cannot be loaded from {source.path}",
            got="; ".join(problems),
            allowed="a TRM checkpoint of the same hidden_size, num_heads, expansion and layers",
            next_step="compare the model section with the checkpoint's config",
        )
    for name, (theirs, ours) in differing_settings(source, model).items():
        if name not in train.allow_decoder_mismatch:
            raise CheckpointError(
                f"the decoder was trained with {name} {theirs}, and this config runs it with {ours}",
                allowed="the same value: weights alone do not make the same function",
                next_step=f"--set model.{name}={theirs}, or allow it by name: "
                f"--set 'train.allow_decoder_mismatch=[\"{name}\"]'",
            )
    core.load_state_dict({name: source.tensors[name] for name in wanted})


def differing_settings(source: DecoderSource, model: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Settings without weights that differ: name to (the checkpoint's, ours)."""
    pairs = {name: (source.settings.get(name), getattr(model, name)) for name in SETTINGS}
    return {name: pair for name, pair in pairs.items() if pair[0] is not None and pair[0] != pair[1]}


def strip_prefixes(name: str) -> str:
    """A tensor's name without the prefixes that compilation, DDP and wrappers put before it."""
    while name.startswith(_PREFIXES):
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
    return name


def _source(
    path: Path, weights: Literal["ema", "raw", "unknown"], named: dict[str, Tensor], settings: dict[str, Any]
) -> DecoderSource:
    stripped = {strip_prefixes(name): tensor for name, tensor in named.items()}
    core: dict[str, Tensor] = {}
    for prefix in ("core.", "inner."):  # ours, and the published name of the same module
        core |= {n.removeprefix(prefix): t for n, t in stripped.items() if n.startswith(prefix)}
    table = stripped.get("puzzle_table.weights", core.pop("puzzle_emb.weights", None))
    return DecoderSource(path, weights, core, table, settings)


def _checkpoint_folder(path: Path) -> Path | None:
    """``path`` where it is a checkpoint folder, or its newest checkpoint where it is a run folder."""
    if not path.is_dir():
        return None
    if (path / "state.json").exists():
        return path
    found = checkpoints.saved(path / "checkpoints")
    if not found:
        raise CheckpointError(
            f"no checkpoint stands in {path}",
            allowed="a run folder with checkpoints/, a checkpoint folder, or a file",
            next_step="train a TRM first: etrm train --set model.variant=trm",
        )
    return found[-1]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text("utf-8"))["model_settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say how the decoder was trained",
            got=f"{type(error).__name__}: {error}",
            allowed="state.json as `etrm train` writes it",
            next_step="use another checkpoint of the same run folder",
        ) from error
    return settings


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about odd pickles: they load or they do not
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything: IndexError, KeyError, AssertionError ...
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            allowed="a run folder, a checkpoint folder, a .safetensors file, or a torch.save file of plain tensors",
        ) from error
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no named tensors", got=type(loaded).__name__)
    return tensors
