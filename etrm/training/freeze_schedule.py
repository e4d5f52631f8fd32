"""Staged training: a part that is frozen for the first steps of a run, with proof that it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diagnostics import compare, fingerprint
from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import FROZEN_REFERENCE, explain_refused_writes
from etrm.config import TrainConfig
from etrm.device import to_host
from etrm.errors import CheckpointError
from etrm.model.variant import Variant

Freeze = Callable[[Variant, str, bool], None]
"""Take a part out of training (True) or put it back (False)."""


def find_part(model: Variant, part: str) -> nn.Module:
    """The module of a part: ``decoder`` or ``encoder``."""
    module = model.core if part == "decoder" else model.encoder
    assert module is not None  # the config refuses to freeze an encoder that is not there
    return module


@dataclass(frozen=True)
class FrozenSpan:
    """The first steps of a run, in which a part was meant to be frozen.

    Attributes:
        part: ``decoder`` or ``encoder``.
        last_step: optimiser steps done when freezing ended.
        matched, total: the number of bitwise equal tensors, and of all tensors.
        largest: the largest absolute difference over all tensors.
    """

    part: str
    last_step: int
    matched: int
    total: int
    largest: float


class Stage:
    """Freezes one part of a model for the first steps of a run, then unfreezes it.

    Args:
        model: the model.
        train: the settings of training: the part and its number of steps; the config allows only one part.
        freeze: the function of the recipe that freezes a part.
        folder: the run folder, which keeps the initial weights so that resuming does not lose them, and
            ``frozen.json``; None keeps them in memory.

    Attributes:
        frozen: the part that is frozen now, or None.
        span: the stretch that has ended, with what moved in it.
    """

    def __init__(self, model: Variant, train: TrainConfig, freeze: Freeze, folder: Path | None) -> None:
        self._model, self._freeze, self._folder = model, freeze, folder
        self._part = "decoder" if train.freeze_decoder_steps else "encoder"
        self._until = train.freeze_decoder_steps or train.freeze_encoder_steps
        self._reference: dict[str, Tensor] = {}
        self.frozen: str | None = None
        self.span: FrozenSpan | None = None

    def enter(self, step: int) -> None:
        """Freeze or unfreeze as the 0-based ``step`` requires; a resumed run may begin inside the stage."""
        wanted = self._part if step < self._until else None
        if wanted == self.frozen:
            return
        if wanted is not None:
            self._reference = self._read_or_keep()
        else:
            self.close(step)
        self._freeze(self._model, self._part, wanted is not None)
        self.frozen = wanted

    def close(self, step: int) -> None:
        """End freezing after ``step`` steps, or with the run: compare the weights, and record the result."""
        if self.frozen is None:
            return
        module = find_part(self._model, self._part)
        before = copy.deepcopy(module)
        before.load_state_dict(self._reference)
        report = compare(fingerprint(before), module)
        # Rotary tables are a function of the config and belong to no checkpoint.
        learned = [tensor for tensor in report.tensors if tensor.name in self._reference]
        self.span = FrozenSpan(
            part=self._part,
            last_step=step,
            matched=sum(tensor.equal for tensor in learned),
            total=len(self._reference),
            largest=max((tensor.largest or 0.0 for tensor in learned), default=0.0),
        )
        if self._folder is not None:
            with explain_refused_writes(self._folder):
                write_atomically(self._folder / "frozen.json", json.dumps(asdict(self.span), indent=1) + "\n")

    def _read_or_keep(self) -> dict[str, Tensor]:
        path = None if self._folder is None else self._folder / FROZEN_REFERENCE
        if path is not None and path.exists():
            return _read(path)
        state = find_part(self._model, self._part).state_dict()
        reference = {name: to_host(tensor).clone() for name, tensor in state.items()}
        if path is not None:
            with explain_refused_writes(path):
                write_atomically(path, save(reference))
        return reference


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "run.damaged-frozen-part",
            f"{path} is damaged; it holds the initial weights of the frozen part",
            got=str(error),
            next_step="begin another run",
        ) from error
