"""Checkpoints: a folder that is renamed into place when it is complete.

``model.safetensors`` raw weights, ``ema.safetensors`` the averaged ones, ``state.safetensors``
every other tensor that training needs to continue exactly, ``state.json`` the rest (step, loader
positions, random state, model settings, and the SHA-256 digests of the three and of itself). Nothing
is pickled, so nothing can execute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from etrm.atomic_files import sync_folder
from etrm.device import to_host
from etrm.errors import CheckpointError

PREFIX = "step_"
WeightsKind = Literal["ema", "raw"]
WEIGHTS: dict[WeightsKind, str] = {"raw": "model.safetensors", "ema": "ema.safetensors"}
"""The file of each kind of weights."""
TENSORS = "state.safetensors"
STATE = "state.json"
FORMAT = 1
"""Version of the layout; raised when an older reader would misread a newer checkpoint."""


class FormatError(CheckpointError):
    """A checkpoint of another version of etrm: whole, and not to be passed over for an older one."""


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
        _clear_unfinished(folder)
        temporary.mkdir()
        _save_tensors(temporary / WEIGHTS["raw"], checkpoint.model)
        _save_tensors(temporary / WEIGHTS["ema"], checkpoint.ema)
        _save_tensors(temporary / TENSORS, checkpoint.tensors)
        digests = {path.name: _digest(path) for path in temporary.iterdir()}
        state = json.loads(json.dumps({"format": FORMAT, "step": checkpoint.step, **checkpoint.state}))
        digests[STATE] = _digest_of_state(state)
        text = json.dumps(state | {"sha256": digests}, indent=1, sort_keys=True)
        (temporary / STATE).write_text(text, "utf-8")
        for path in temporary.iterdir():
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            "checkpoint.not-written",
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}",
            got=str(error),
            next_step="free space or give another folder, then continue with --resume",
        ) from error
    _drop_old(final, keep)
    return final


def tidy(newest: Path, keep: int) -> None:
    """Do what a save that was interrupted after its checkpoint stood has left undone.

    Args:
        newest: the checkpoint that a run goes on from.
        keep: how many to keep, it among them.

    Raises:
        CheckpointError: something cannot be removed.
    """
    try:
        _clear_unfinished(newest.parent)
    except OSError as error:
        raise CheckpointError(
            "checkpoint.leftovers",
            f"what an interrupted save left cannot be removed from {newest.parent}",
            got=str(error),
        ) from error
    _drop_old(newest, keep)


def _clear_unfinished(folder: Path) -> None:
    for unfinished in folder.glob(f".{PREFIX}*.tmp"):  # of a process that was killed, or met a full disk
        shutil.rmtree(unfinished)


def _drop_old(newest: Path, keep: int) -> None:
    # One that stands ahead is an altered one that the run went back behind: it keeps no place.
    for old in [path for path in list_saved(newest.parent) if path.name <= newest.name][:-keep]:
        _drop(old)


def name_of(step: int) -> str:
    """The folder of a step, which sorts by its number."""
    return f"{PREFIX}{step:08d}"


def list_saved(folder: Path) -> list[Path]:
    """The complete checkpoints below ``folder``, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []


def read(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or a newer version of etrm wrote it.
    """
    with _whole(path):
        state, digests = _read_state(path)
        step = state.pop("step")
        model, ema, tensors = (
            _read_tensors(path / name, digests) for name in (WEIGHTS["raw"], WEIGHTS["ema"], TENSORS)
        )
    return Checkpoint(step, model, ema, tensors, state)


def read_weights(path: Path, weights: WeightsKind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One kind of weights of a checkpoint folder, and its state, ``step`` among it.

    Raises:
        CheckpointError: one of the two files is missing, truncated or altered.
    """
    with _whole(path):
        state, digests = _read_state(path)
        tensors = _read_tensors(path / WEIGHTS[weights], digests)
    return tensors, state


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever reading meets in ``path`` means that it is not whole."""
    try:
        yield
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            "checkpoint.damaged",
            f"{path} is not a whole checkpoint",
            got=f"{type(error).__name__}: {error}",
            allowed="model.safetensors, ema.safetensors, state.safetensors and state.json, as `etrm train` writes them",
            next_step="give an earlier one, or move this one away: then the run folder has the one before it",
        ) from error


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state, and the digests that it holds."""
    state = json.loads((path / STATE).read_text("utf-8"))
    if (version := state.get("format", FORMAT)) != FORMAT:
        raise FormatError(
            "checkpoint.other-format",
            f"{path} has another format than this version of etrm knows",
            got=f"format {version}",
            allowed=f"format {FORMAT}",
            next_step="use the version that wrote it, see run.json",
        )
    digests = state.pop("sha256")
    # The first checkpoints had no digest of their state.
    if STATE in digests and digests[STATE] != _digest_of_state(state):
        raise ValueError(f"{STATE} is not what was written")
    state.pop("format", None)
    return state, digests


def _read_tensors(path: Path, digests: dict[str, str]) -> dict[str, Tensor]:
    if _digest(path) != digests[path.name]:
        raise ValueError(f"{path.name} is not what was written")
    return load_file(path)


def _drop(path: Path) -> None:
    """Remove a checkpoint; whoever looks meanwhile sees it whole or not at all."""
    try:
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.dropped.tmp")))
    except OSError as error:
        raise CheckpointError(
            "checkpoint.not-removed",
            f"the old checkpoint {path} could not be removed",
            got=str(error),
            next_step="fix the permissions of its folder, then continue with --resume: the new checkpoint is there",
        ) from error


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: to_host(tensor).contiguous().clone() for name, tensor in tensors.items()}, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_state(state: dict[str, Any]) -> str:
    """Of what the state says, without its digests: spaces between its words are free."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
