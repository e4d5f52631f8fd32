"""The reference of the tensors that a decoder starts from, read from a run folder, a checkpoint or a single file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from etrm.reference.departure import Departure, PipelineStage

FILES = {"ema": "ema.safetensors", "raw": "model.safetensors"}
"""The files of our checkpoints by the kind of weights."""
OURS, PUBLISHED = "core.", "inner."
"""What the names of the tensors of a decoder begin with, apart from wrappers, in our files and in published ones."""


@dataclass(frozen=True)
class HeldDecoder:
    """The file that holds a decoder, and all of its tensors under the names in the file."""

    path: Path
    tensors: Mapping[str, Tensor]

    def find(self, name: str) -> Tensor | None:
        """Return the tensor with our name in the core; None if the file has none or several."""
        found = [
            value
            for key, value in self.tensors.items()
            if any(f".{key}".endswith(f".{prefix}{name}") for prefix in (OURS, PUBLISHED))
        ]
        return found[0] if len(found) == 1 else None


def read_decoder(source: Path, kind: str) -> HeldDecoder | None:
    """Read what ``train.decoder`` names; None if nothing is there.

    Args:
        source: a run folder, of which the newest checkpoint counts, a checkpoint folder, or a file.
        kind: the kind of weights of our checkpoints, ``ema`` or ``raw``.
    """
    saved = sorted((source / "checkpoints").glob("step_*"), key=lambda one: int(one.name.partition("_")[2]))
    folder = saved[-1] if saved else source
    path = folder / FILES[kind] if folder.is_dir() else folder
    if not path.is_file():
        return None
    with path.open("rb") as file:
        safe = file.read(9)[8:] == b"{"  # behind the length of the header
    held = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    return HeldDecoder(path, {name: value for name, value in held.items() if isinstance(value, Tensor)})


def compare_decoder(core: Mapping[str, Tensor], held: HeldDecoder) -> list[Departure]:
    """Compare the tensors of a core, on the host, with those of the file, of any precision, that it starts from."""
    wrong = []
    for name, value in core.items():
        wanted = held.find(name)
        if wanted is None or not torch.equal(wanted.to(value.dtype), value):
            wrong.append(name)
    if not wrong:
        return []
    where = f"checkpoint {held.path.parent.name}" if held.path.name in FILES.values() else held.path.name
    return [Departure(PipelineStage.LOADING, f"core.{wrong[0]}", len(wrong) / len(core), 0.0, where)]
