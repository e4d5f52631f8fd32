"""The first contexts of searches at test time, from the weights of a model alone.

Shapes: R searches, P context tokens, D hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etrm.config import Config
from etrm.data.sources import TaskSet
from etrm.device import to_device
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.evaluation.answers import encode_row
from etrm.reference.evaluation.evaluation_stages import EvaluationRequest, list_evaluated
from etrm.reference.model.context import start_state
from etrm.reference.model.network import Weights, part

TYPICAL = 64
"""Training tasks whose contexts give the mean and the size of noise, as the package chose."""


@dataclass(frozen=True)
class SearchedRow:
    """A row whose demonstrations a context is searched for: its augmented name, and what it shows."""

    name: str
    row: LoadedRow


@torch.no_grad()
def start_contexts(
    weights: Weights, config: Config, trained: TaskSet, searched: Sequence[SearchedRow]
) -> Tensor:
    """Return the first context (R, P, D) of each search, those of a row in a row.

    Noise is normal, as large as the contexts of training tasks differ, and has a generator of its own for each seed,
    number of the search and name. The first search of a row has none unless it starts from noise.

    Args:
        weights: the tensors of a model, in float32.
        config: the settings; ``evaluate.search`` says how a search starts.
        trained: the tasks that the model was trained on.
        searched: the rows, each of which has ``restarts`` searches.
    """
    settings = config.evaluate.search
    typical = _encode_typical(weights, config, trained)
    mean, size = typical.mean(0), typical.std()
    found = []
    for one in searched:
        for restart in range(settings.restarts):
            start = torch.zeros_like(mean)
            if settings.start == "mean":
                start = mean
            elif settings.start == "encoder":
                start = _encode(weights, config, _leave_out(one.row, restart, settings.hold_out))
            if settings.start == "noise" or restart:
                words = f"{config.train.seed} {restart} {one.name}".encode()
                seed = int.from_bytes(hashlib.sha256(words).digest()[:7], "big")
                noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
                start = start + settings.noise * size * to_device(noise, mean.device)
            found.append(start)
    return torch.stack(found)


def _leave_out(row: LoadedRow, restart: int, hold_out: bool) -> LoadedRow:
    """The row without the demonstration that a search only watches, each in turn."""
    if not hold_out or len(row.demos) < 2:
        return row
    left = restart % len(row.demos)
    return replace(row, demos=[demo for place, demo in enumerate(row.demos) if place != left])


def _encode_typical(weights: Weights, config: Config, trained: TaskSet) -> Tensor:
    """The contexts (n, P, D) of the test queries of some training tasks, evenly spread; a table has a row for each."""
    chosen = list(trained)[:: max(1, len(trained) // TYPICAL)][:TYPICAL]
    table = None if config.model.has_encoder else trained
    request = EvaluationRequest(
        replace(trained, tasks=tuple(chosen)), config.data, 1, config.train.seed, table
    )
    rows = [
        LoadedRow(row.tokens, row.positions, row.labels, row.demos, row.drawing.puzzle_id, row.drawing.serial)
        for row in list_evaluated(request)
    ]
    return torch.stack([_encode(weights, config, row) for row in rows])


def _encode(weights: Weights, config: Config, row: LoadedRow) -> Tensor:
    state = start_state(part(weights, "encoder"), config.model, 1)
    return encode_row(weights, config.model, row, state).context[0]
