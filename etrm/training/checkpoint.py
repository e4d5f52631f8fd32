"""Checkpoints: a folder that is renamed into place when it is complete.

``model.safetensors`` raw weights, ``ema.safetensors`` the averaged ones, ``state.safetensors``
every other tensor that training needs to continue exactly, ``state.json`` the rest (step, loader
positions, random state, model settings, and the digests of the three). Nothing is pickled, so nothing can execute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from etrm.errors import CheckpointError
from etrm.files import sync_folder

PREFIX = "step_"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue.

    Attributes:
        step: optimiser steps done.
        model: raw weights by name.
        ema: averaged weights by name; equal to raw where no step was done.
        tensors: optimiser state, EMA accumulators and carries, by name.
        state: what JSON can hold.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``folder/step_N`` and drop all but the newest ``keep`` checkpoints.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = folder / name_of(checkpoint.step)
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f".{PREFIX}*.tmp"):  # of a process that was killed
            shutil.rmtree(unfinished)
        temporary.mkdir()
        _save_tensors(temporary / "model.safetensors", checkpoint.model)
        _save_tensors(temporary / "ema.safetensors", checkpoint.ema)
        _save_tensors(temporary / "state.safetensors", checkpoint.tensors)
        digests = {path.name: _digest(path) for path in temporary.iterdir()}
        state = {"step": checkpoint.step, "sha256": digests, **checkpoint.state}
        (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), "utf-8")
        for path in temporary.iterdir():
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}",
            got=str(error),
            next_step="free space or give another folder, then continue with --resume",
        ) from error
    # One that stands ahead is an altered one that the run went back behind: it keeps no place.
    for old in [path for path in saved(folder) if path.name <= final.name][:-keep]:
        shutil.rmtree(old)
    return final


def name_of(step: int) -> str:
    """The folder of a step, which sorts by its number."""
    return f"{PREFIX}{step:08d}"


def saved(folder: Path) -> list[Path]:
    """The complete checkpoints below ``folder``, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []


def read(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, truncated or altered.
    """
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        for name, digest in state.pop("sha256").items():
            if _digest(path / name) != digest:
                raise ValueError(f"{name} is not what was written")
        return Checkpoint(
            step=state.pop("step"),
            model=load_file(path / "model.safetensors"),
            ema=load_file(path / "ema.safetensors"),
            tensors=load_file(path / "state.safetensors"),
            state=state,
        )
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint",
            got=f"{type(error).__name__}: {error}",
            allowed="model.safetensors, ema.safetensors, state.safetensors and state.json, as `etrm train` writes them",
            next_step="use an earlier checkpoint of the same run folder",
        ) from error


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
