"""Export our weights to a file that the published code can load."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors.torch import save

from etrm.atomic_files import check_target, write_atomically
from etrm.checkpoints.format import WeightsKind
from etrm.checkpoints.published_names import to_published_name, to_published_settings
from etrm.checkpoints.weights import read_weights
from etrm.config import ModelConfig
from etrm.errors import CheckpointError

Format = Literal["safetensors", "torch"]


@dataclass(frozen=True)
class Exported:
    """The files that were written: the weights and their settings, with the numbers of tensors."""

    file: Path
    settings: Path
    tensors: int
    weights: str


def export_checkpoint(source: Path, file: Path, kind: WeightsKind, form: Format) -> Exported:
    """Write one kind of weights under the published names, and the settings to ``NAME.json`` in the same folder.

    Args:
        source: a run folder, whose newest checkpoint is used, or a checkpoint folder.
        file: the file to write. Neither it nor the settings file may exist.
        kind: the kind of weights, EMA or raw.
        form: the format of the file: safetensors, or ``torch.save`` of a dict of tensors.

    Raises:
        CheckpointError: the source is not one of our complete checkpoints, the published code cannot compute
            its model, or a file exists or cannot be written. Nothing is written in these cases.
        WriteError: the file can be seen not to be writable before any work.
    """
    check_target(file)
    settings_file = file.with_name(f"{file.stem}.json")
    if file.suffix.lower() == ".json":
        raise CheckpointError(
            "export.name-of-settings",
            "weights and settings would have the same name",
            got=file.name,
            allowed="a name that does not end with .json",
            next_step=f"--out {shlex.quote(str(file.with_suffix('.safetensors')))}",
        )
    for path in (file, settings_file):
        if path.exists() or path == source:
            raise CheckpointError(
                "export.exists",
                f"{path} exists",
                next_step="choose another --out; existing files are never overwritten",
            )
    weights = read_weights(source, kind)
    if weights.settings is None:
        raise CheckpointError(
            "export.no-checkpoint",
            f"{source} is not a checkpoint of etrm",
            allowed="a run folder or one of its checkpoint folders",
            next_step="etrm runs lists the runs",
        )
    try:
        model = ModelConfig.model_validate(weights.settings)
    except ValidationError as error:
        raise CheckpointError(
            "export.unknown-settings",
            f"{source} holds settings that this version of etrm does not know",
            next_step="use the version of etrm that wrote it (see run.json in the run folder)",
        ) from error
    settings = to_published_settings(model)
    named = {to_published_name(name, model.encoder.kind): t.clone() for name, t in weights.tensors.items()}
    if form == "safetensors":
        content = save(named)
    else:
        buffer = io.BytesIO()
        torch.save(named, buffer)
        content = buffer.getvalue()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(settings_file, json.dumps(settings, indent=1) + "\n")
        write_atomically(file, content)
    except OSError as error:
        settings_file.unlink(missing_ok=True)
        raise CheckpointError(
            "export.not-writable",
            f"{file} cannot be written",
            got=str(error),
            next_step="name a file in a folder that you may write to",
        ) from error
    return Exported(file, settings_file, len(named), weights.kind)
