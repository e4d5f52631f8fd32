"""Proof that a frozen decoder stayed frozen: its weights before and after, bit for bit."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagnostics import compare, fingerprint
from etrm.files import write_atomically


@dataclass(frozen=True)
class FrozenSpan:
    """One stretch of steps in which the decoder was meant to be frozen.

    Attributes:
        first_step, last_step: optimiser steps done when freezing began and ended.
        matched, total: tensors that are bitwise equal, of all.
        largest: largest absolute difference over all tensors.
    """

    first_step: int
    last_step: int
    matched: int
    total: int
    largest: float


class FrozenCheck:
    """Keeps the decoder as it was when freezing began, on disk so that resuming does not lose it."""

    def __init__(self, module: nn.Module, folder: Path | None) -> None:
        self._module, self._folder = module, folder
        self._reference: dict[str, Tensor] = {}
        self._first_step = 0
        self.spans: list[FrozenSpan] = []

    def begin(self, step: int) -> None:
        """Freezing begins, or a resumed run stands in the middle of it."""
        path = None if self._folder is None else self._folder / "frozen_reference.safetensors"
        if path is not None and path.exists():
            self._reference = load_file(path)
            self._first_step = 0  # freezing is always from the first step on
            return
        self._reference = {k: v.detach().cpu().clone() for k, v in self._module.state_dict().items()}
        self._first_step = step
        if path is not None:
            temporary = path.with_suffix(".tmp")
            save_file(self._reference, temporary)
            temporary.replace(path)

    def end(self, step: int) -> FrozenSpan:
        """Freezing ends: compare, and record in ``frozen.json``."""
        before = copy.deepcopy(self._module)
        before.load_state_dict(self._reference)
        report = compare(fingerprint(before), self._module)
        # Rotary tables are a function of the config and belong to no checkpoint.
        learned = [tensor for tensor in report.tensors if tensor.name in self._reference]
        span = FrozenSpan(
            first_step=self._first_step,
            last_step=step,
            matched=sum(tensor.equal for tensor in learned),
            total=len(self._reference),
            largest=max((tensor.largest or 0.0 for tensor in learned), default=0.0),
        )
        self.spans.append(span)
        if self._folder is not None:
            text = json.dumps([asdict(item) for item in self.spans], indent=1) + "\n"
            write_atomically(self._folder / "frozen.json", text)
        return span
