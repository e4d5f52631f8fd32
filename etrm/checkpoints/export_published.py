"""Weights of ours as a file that the published code can load."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors.torch import save

from etrm.atomic_files import write_atomically
from etrm.checkpoints.format import WeightsKind
from etrm.checkpoints.published_names import to_published_name, to_published_settings
from etrm.checkpoints.weights import read_weights
from etrm.config import ModelConfig
from etrm.errors import CheckpointError

Format = Literal["safetensors", "torch"]


@dataclass(frozen=True)
class Exported:
    """What was written: the weights, their published settings beside them, and how many tensors."""

    file: Path
    settings: Path
    tensors: int
    weights: str


def export_checkpoint(source: Path, file: Path, kind: WeightsKind, form: Format) -> Exported:
    """Write one kind of weights under the published names, and the settings to ``NAME.json`` beside them.

    Args:
        source: a run folder (its newest checkpoint) or a checkpoint folder.
        file: to write; neither it nor the settings may exist.
        kind: EMA or raw weights.
        form: of the file: safetensors, or ``torch.save`` of a dict of tensors.

    Raises:
        CheckpointError: the source is no whole checkpoint of ours, or a model that the published code
            cannot compute; a file exists or cannot be written. Nothing is written then.
    """
    beside = file.with_name(f"{file.stem}.json")
    for path in (file, beside):
        if path.exists() or path == source:
            raise CheckpointError(
                "export.exists", f"{path} exists", next_step="give another --out; nothing is overwritten"
            )
    weights = read_weights(source, kind)
    if weights.settings is None:
        raise CheckpointError(
            "export.no-checkpoint",
            f"{source} is no checkpoint of ours",
            allowed="a run folder or one of its checkpoint folders",
        )
    try:
        model = ModelConfig.model_validate(weights.settings)
    except ValidationError as error:
        raise CheckpointError(
            "export.unknown-settings", f"{source} holds settings that this version does not know"
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
        write_atomically(beside, json.dumps(settings, indent=1) + "\n")
        write_atomically(file, content)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CheckpointError("export.not-writable", f"{file} cannot be written", got=str(error)) from error
    return Exported(file, beside, len(named), weights.kind)
