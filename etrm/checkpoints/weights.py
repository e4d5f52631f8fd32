"""Named tensors of a trained model, wherever they stand: a run folder, a checkpoint of ours, or one file.

A file is recognised by its content, not by its name: published checkpoints have no suffix. A file of
``torch.save`` is read with ``weights_only=True``, which executes nothing.
"""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import WEIGHTS, Checkpoint, WeightsKind
from etrm.errors import CheckpointError

DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8}
    | {torch.int16, torch.int32, torch.int64}
)
"""Types that a tensor of a checkpoint may have."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file and what is known of them.

    Attributes:
        path: the file that was read.
        kind: ``ema`` or ``raw``; ``unknown`` where the file does not say.
        tensors: by the names of the file.
        verified: the file and its state are what was written, by their digests.
        step: optimiser steps done, or None where nothing says it.
        settings: the model section it was trained with, or None where nothing says it.
        data_hash: of the tasks it was trained on, or None where nothing says it.
    """

    path: Path
    kind: Literal["ema", "raw", "unknown"]
    tensors: dict[str, Tensor]
    verified: bool = False
    step: int | None = None
    settings: dict[str, Any] | None = None
    data_hash: str | None = None


def read_weights(path: Path, kind: WeightsKind) -> Weights:
    """Read a run folder (its newest checkpoint), a checkpoint folder, or a file.

    Args:
        path: of the folder or file.
        kind: which weights of a checkpoint of ours, which holds both.

    Raises:
        CheckpointError: nothing there can be read as a checkpoint, or a checkpoint of ours was altered.
    """
    folder = _checkpoint_folder(path)
    if folder is None:
        return Weights(path, "unknown", _read_file(path))
    tensors, state = checkpoints.read_weights(folder, kind)
    if not isinstance(state.get("model_settings"), dict):
        raise CheckpointError(
            "checkpoint.no-settings",
            f"{folder} does not say how its model was trained",
            allowed="model_settings in state.json, as `etrm train` writes it",
            next_step="use another checkpoint of the same run folder",
        )
    return Weights(
        path=folder / WEIGHTS[kind],
        kind="unknown" if "imported" in state else kind,
        tensors=tensors,
        verified=True,
        step=state["step"],
        settings=state["model_settings"],
        data_hash=_data_hash(folder.parent.parent / "run.json"),
    )


def load_weights(model: nn.Module, checkpoint: Checkpoint, kind: WeightsKind) -> None:
    """Put all tensors of a checkpoint of ours in place.

    Raises:
        CheckpointError: they are not the tensors of this model, or one of them is a puzzle table whose
            ids are not ours.
    """
    where = f"the checkpoint of step {checkpoint.step}"
    if "imported" in checkpoint.state and "puzzle_table.weights" in checkpoint.model:
        raise CheckpointError(
            "checkpoint.other-puzzle-ids",
            f"{where} was imported, and holds a puzzle table with the ids of another data set",
            next_step="use its core: --set train.decoder=FOLDER",
        )
    try:
        model.load_state_dict(checkpoint.ema if kind == "ema" else checkpoint.model)
    except RuntimeError as error:
        raise CheckpointError(
            "checkpoint.does-not-fit-config",
            f"the weights of {where} do not fit the run's config",
            got=str(error).splitlines()[-1].strip(),
        ) from error


def _checkpoint_folder(path: Path) -> Path | None:
    """``path`` where it is a checkpoint folder, or its newest checkpoint where it is a run folder."""
    if not path.is_dir():
        return None
    if (path / checkpoints.STATE).exists():
        return path
    found = checkpoints.list_saved(path / "checkpoints")
    if not found:
        raise CheckpointError(
            "checkpoint.absent",
            f"no checkpoint is in {path}",
            allowed="a run folder with checkpoints/, a checkpoint folder, or a file",
            next_step="train a TRM first: etrm train --set model.variant=trm",
        )
    return found[-1]


def _data_hash(path: Path) -> str | None:
    """Of the run folder that a checkpoint stands in, if it does."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8")).get("data_hash")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            "checkpoint.unreadable", f"{path} cannot be read", got=f"{type(error).__name__}: {error}"
        ) from error
    return None if found is None else str(found)


def _why_not(error: Exception) -> str:
    """One line; torch's own advises to load the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "neither safetensors nor plain tensors of torch.save"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # the length of a JSON header, then the header
        if is_safetensors:
            loaded: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # about odd pickles: they load or they do not
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything: IndexError, KeyError, AssertionError ...
        raise CheckpointError(
            "checkpoint.not-a-checkpoint",
            f"{path} cannot be read as a checkpoint",
            got=_why_not(error),
            allowed="a run folder, a checkpoint folder, a .safetensors file, or a torch.save file of plain tensors",
        ) from error
    named = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {str(name): tensor for name, tensor in named if isinstance(tensor, Tensor)}
    if not tensors:
        raise CheckpointError(
            "checkpoint.no-tensors", f"{path} holds no named tensors", got=type(loaded).__name__
        )
    odd = [name for name, t in tensors.items() if t.dtype not in DTYPES or t.layout != torch.strided]
    if odd:
        raise CheckpointError(
            "checkpoint.bad-tensors",
            f"{path} holds tensors of a kind that no checkpoint has",
            got=", ".join(f"{name}: {tensors[name].dtype}, {tensors[name].layout}" for name in odd[:5]),
            allowed="dense tensors of real numbers",
        )
    return {name: tensor.detach() for name, tensor in tensors.items()}
