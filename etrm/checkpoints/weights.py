"""Read the weights of a trained model from a run folder, a checkpoint folder, or a single file.

The type of a file is recognised by its content, because published checkpoints have no suffix. A file of ``torch.save``
is read with ``weights_only=True``, which cannot execute code.
"""

from __future__ import annotations

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
from etrm.checkpoints.run_folder import read_record
from etrm.checkpoints.saved_steps import list_saved
from etrm.errors import CheckpointError

DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8}
    | {torch.int16, torch.int32, torch.int64}
)
"""The types that a tensor of a checkpoint may have."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file and their metadata. A value is None if the file does not contain it.

    Attributes:
        path: the file that was read.
        kind: the kind of weights, ``ema`` or ``raw``; ``unknown`` if the file does not say.
        tensors: the tensors by their names in the file.
        verified: whether digests show that the file and its state are unchanged.
        step: the number of optimiser steps done, or None.
        settings: the model section of the training config, or None.
        data_hash: the hash of the training tasks, or None.
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
        path: the path of the folder or file.
        kind: the kind of weights to read from one of our checkpoints, which hold both.

    Raises:
        CheckpointError: the path is not a readable checkpoint, or one of our checkpoints was changed.
        RunFolderError: ``run.json`` of the run folder is damaged.
    """
    folder = _checkpoint_folder(path)
    if folder is None:
        return Weights(path, "unknown", _read_file(path))
    tensors, state = checkpoints.read_weights(folder, kind)
    if not isinstance(state.get("model_settings"), dict):
        raise CheckpointError(
            "checkpoint.no-settings",
            f"{folder} does not contain the settings of its model",
            allowed="state.json with model_settings, as `etrm train` writes it",
            next_step="use another checkpoint of the same run folder",
        )
    return Weights(
        path=folder / WEIGHTS[kind],
        kind="unknown" if "imported" in state else kind,
        tensors=tensors,
        verified=True,
        step=state["step"],
        settings=state["model_settings"],
        data_hash=read_record(folder.parent.parent).get("data_hash"),
    )


def load_weights(model: nn.Module, checkpoint: Checkpoint, kind: WeightsKind) -> None:
    """Load all tensors of one of our checkpoints into a model.

    Raises:
        CheckpointError: the tensors do not fit the model, or include a puzzle table for another data set.
    """
    where = f"the checkpoint of step {checkpoint.step}"
    if "imported" in checkpoint.state and "puzzle_table.weights" in checkpoint.model:
        raise CheckpointError(
            "checkpoint.other-puzzle-ids",
            f"{where} was imported, and its puzzle table has the task ids of another data set",
            next_step="use only its core: --set train.decoder=FOLDER",
        )
    try:
        model.load_state_dict(checkpoint.ema if kind == "ema" else checkpoint.model)
    except RuntimeError as error:
        raise CheckpointError(
            "checkpoint.does-not-fit-config",
            f"the weights of {where} do not fit the run's config",
            got=str(error).splitlines()[-1].strip(),
            next_step="restore the config.json that the run was trained with",
        ) from error


def _checkpoint_folder(path: Path) -> Path | None:
    """Return ``path`` if it is a checkpoint folder, or the newest checkpoint if it is a run folder."""
    if not path.is_dir():
        return None
    if (path / checkpoints.STATE).exists():
        return path
    found = list_saved(path / "checkpoints")
    if not found:
        raise CheckpointError(
            "checkpoint.absent",
            f"{path} contains no checkpoint",
            allowed="a run folder with checkpoints/, a checkpoint folder, or a file",
            next_step="train a TRM first: etrm train --set model.variant=trm",
        )
    return found[-1]


def _why_not(error: Exception) -> str:
    """Return the reason in one line. Torch's own message recommends loading the file unsafely, so it is not used."""
    if isinstance(error, pickle.UnpicklingError):
        return "neither a safetensors file nor a torch.save file of plain tensors"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    reason = str(error).partition("\n")[0]
    return f"neither a safetensors file nor a torch.save file that can be read ({type(error).__name__}: {reason})"


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            is_safetensors = (
                file.read(9)[8:] == b"{"
            )  # 8 bytes with the length of the JSON header, then the header
        if is_safetensors:
            loaded: Any = load_file(path)
        else:
            with warnings.catch_warnings(
                action="ignore"
            ):  # warnings about unusual pickles; loading succeeds or raises
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a broken pickle can raise almost anything: IndexError, KeyError, AssertionError ...
        raise CheckpointError(
            "checkpoint.not-a-checkpoint",
            f"{path} cannot be read as a checkpoint",
            got=_why_not(error),
            allowed="a run folder, a checkpoint folder, a .safetensors file, or a torch.save file of plain tensors",
            next_step="etrm runs lists the runs in the folder runs",
        ) from error
    named = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {str(name): tensor for name, tensor in named if isinstance(tensor, Tensor)}
    if not tensors:
        raise CheckpointError(
            "checkpoint.no-tensors",
            f"{path} holds no named tensors",
            got=type(loaded).__name__,
            next_step="save model.state_dict() with torch.save, or name a run folder",
        )
    odd = [name for name, t in tensors.items() if t.dtype not in DTYPES or t.layout != torch.strided]
    if odd:
        raise CheckpointError(
            "checkpoint.bad-tensors",
            f"{path} holds tensors that a checkpoint cannot have",
            got=", ".join(f"{name}: {tensors[name].dtype}, {tensors[name].layout}" for name in odd[:5]),
            allowed="dense tensors of real numbers",
            next_step="save the tensors as dense ones of real numbers",
        )
    return {name: tensor.detach() for name, tensor in tensors.items()}
