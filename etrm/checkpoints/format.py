"""The format of a checkpoint: a folder that is written under a temporary name and renamed when it is complete.

``model.safetensors`` holds the raw weights, ``ema.safetensors`` the averaged ones, ``state.safetensors`` every other
tensor that training needs to continue exactly, and ``state.json`` the rest: step, loader positions, random state, model
settings, and the SHA-256 digests of all four files. Nothing is pickled, so loading cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from etrm.checkpoints.saved_steps import PREFIX, list_saved, name_of
from etrm.device import to_host
from etrm.errors import CheckpointError, CheckpointWriteError

_log = logging.getLogger(__name__)

WeightsKind = Literal["ema", "raw"]
WEIGHTS: dict[WeightsKind, str] = {"raw": "model.safetensors", "ema": "ema.safetensors"}
"""The file name of each kind of weights."""
TENSORS = "state.safetensors"
STATE = "state.json"
FORMAT = 1
"""The version of the layout. It is incremented if an older reader would misread a newer checkpoint."""


class FormatError(CheckpointError):
    """The checkpoint was written by another version of etrm. It is complete, so no older one is used instead."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue.

    Attributes:
        step: the number of optimiser steps done.
        model: the raw weights by name.
        ema: the averaged weights by name; equal to the raw ones before the first step.
        tensors: the optimiser state, EMA accumulators and carries, by name.
        state: everything else, as JSON values.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``folder/step_N`` and remove all but the newest ``keep`` checkpoints.

    Raises:
        CheckpointWriteError: the disk is full or not writable; earlier checkpoints are kept.
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
        raise CheckpointWriteError(
            "checkpoint.not-written",
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}",
            got=str(error),
            next_step="free space or fix the permissions, then continue with --resume",
        ) from error
    _drop_old(final, keep)
    return final


def tidy(newest: Path, keep: int) -> None:
    """Finish the clean-up of a save that was interrupted after its checkpoint was complete.

    Args:
        newest: the checkpoint from which the run resumes.
        keep: the number of checkpoints to keep, ``newest`` included.

    Raises:
        CheckpointError: something cannot be removed.
    """
    try:
        _clear_unfinished(newest.parent)
    except OSError as error:
        raise CheckpointError(
            "checkpoint.leftovers",
            f"files of an interrupted save cannot be removed from {newest.parent}",
            got=str(error),
            next_step="fix the permissions of the folder, then continue with --resume",
        ) from error
    _drop_old(newest, keep)


def _clear_unfinished(folder: Path) -> None:
    for unfinished in folder.glob(
        f".{PREFIX}*.tmp"
    ):  # left by a process that was killed or found the disk full
        shutil.rmtree(unfinished)


def _drop_old(newest: Path, keep: int) -> None:
    # Checkpoints after `newest` were damaged, so the run went back; they do not count among those to keep.
    for old in [path for path in list_saved(newest.parent) if path.name <= newest.name][:-keep]:
        _drop(old)


def read(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, truncated or changed, or another version of etrm wrote it.
    """
    with _whole(path):
        state, digests = _read_state(path)
        step = state.pop("step")
        model, ema, tensors = (
            _read_tensors(path / name, digests) for name in (WEIGHTS["raw"], WEIGHTS["ema"], TENSORS)
        )
    return Checkpoint(step, model, ema, tensors, state)


def read_newest(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Read the newest checkpoint of a folder that is intact; None if there is no checkpoint.

    Raises:
        FormatError: another version of etrm wrote it.
        CheckpointError: there are checkpoints, and none is intact.
    """
    problems = []
    for path in reversed(list_saved(folder)):
        try:
            return path, read(path)
        except FormatError:
            raise
        except CheckpointError as error:  # it was altered; an older one may be whole
            _log.warning("skipped: %s [%s]", error.brief, error.code)
            problems.append(error)
    if problems:
        raise CheckpointError(
            "checkpoint.none-whole",
            f"no checkpoint in {folder} is intact",
            got=problems[0].brief,
            next_step="restore the original files, or begin another run",
        ) from problems[0]
    return None


def read_weights(path: Path, weights: WeightsKind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one kind of weights of a checkpoint folder, and its state, which includes ``step``.

    Raises:
        CheckpointError: one of the two files is missing, truncated or changed.
    """
    with _whole(path):
        state, digests = _read_state(path)
        tensors = _read_tensors(path / WEIGHTS[weights], digests)
    return tensors, state


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn any error while ``path`` is read into a CheckpointError: the checkpoint is not complete."""
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
            f"{path} is not a complete checkpoint",
            got=str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}",
            allowed="model.safetensors, ema.safetensors, state.safetensors and state.json, as `etrm train` writes them",
            next_step="use an earlier checkpoint, or move this one away; then the one before it is the newest",
        ) from error


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the state, and the digests of the files that it holds."""
    state = json.loads((path / STATE).read_text("utf-8"))
    if (version := state.get("format", FORMAT)) != FORMAT:
        raise FormatError(
            "checkpoint.other-format",
            f"{path} has a format that this version of etrm cannot read",
            got=f"format {version}",
            allowed=f"format {FORMAT}",
            next_step="use the version of etrm that wrote it (see run.json in the run folder)",
        )
    digests = state.pop("sha256")
    # The first checkpoints had no digest of their state.
    if STATE in digests and digests[STATE] != _digest_of_state(state):
        raise ValueError(f"{STATE} was changed: its digest does not match")
    state.pop("format", None)
    return state, digests


def _read_tensors(path: Path, digests: dict[str, str]) -> dict[str, Tensor]:
    if _digest(path) != digests[path.name]:
        raise ValueError(f"{path.name} was changed: its digest does not match")
    return load_file(path)


def _drop(path: Path) -> None:
    """Remove a checkpoint. A reader sees it either complete or not at all."""
    try:
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.dropped.tmp")))
    except OSError as error:
        raise CheckpointError(
            "checkpoint.not-removed",
            f"the old checkpoint {path} could not be removed",
            got=str(error),
            next_step="fix the permissions of its folder, then continue with --resume; the new checkpoint was saved",
        ) from error


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: to_host(tensor).contiguous().clone() for name, tensor in tensors.items()}, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_state(state: dict[str, Any]) -> str:
    """Return the digest of the state without its digests; white space in the file does not matter."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
