"""A checkpoint against the state of the run that it was made of, and the run that is restored from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from etrm.checkpoints.format import Checkpoint
from etrm.device import to_host
from etrm.model.variant import Variant
from etrm.reference.departure import Departure
from etrm.reference.evaluation.evaluated_weights import compare_weights
from etrm.reference.recorded import Snapshot
from etrm.reference.training.kept_state import compare_states
from etrm.training.monitoring.recorded_step import take_snapshot
from etrm.training.train_state import TrainState


def draws_noise(model: Variant) -> bool:
    """Whether training draws noise for the model from torch's global generator, whose state this does not change."""
    with torch.random.fork_rng(devices=()):
        return model.draw_noise(1, 1) is not None


class CheckpointCheck:
    """Checkpoints of a run in memory, made and compared while it trains.

    Args:
        state: the state of the run.
        noise: whether the model draws from the global generator.
    """

    def __init__(self, state: TrainState, noise: bool) -> None:
        self._state, self._noise = state, noise
        self._last: tuple[Snapshot, Checkpoint] | None = None

    def capture(self) -> list[Departure]:
        """Make a checkpoint, and compare its raw and averaged weights with those of the run.

        A run makes several, and one that holds an earlier state is equal to it at the first.
        """
        before = take_snapshot(self._state)
        held = _copy(self._state.capture())
        self._last = before, held
        found = []
        for kind, saved in (("raw", held.model), ("ema", held.ema)):
            found += compare_weights(
                saved,
                _on_host(before.weights),
                _on_host(before.averages),
                updates=before.average_updates,
                decay=self._state.ema.decay,
                averaged=kind == "ema",
            )
        return [replace(one, where=f"checkpoint of step {before.step}") for one in found]

    def restore(self) -> list[Departure]:
        """Restore the last checkpoint, and compare the run with what it was."""
        assert self._last is not None
        before, held = self._last
        self._state.restore(held)
        return compare_states(before, take_snapshot(self._state), "after resuming", noise=self._noise)


def _copy(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint that shares no memory with the run, as one that is read from a file."""
    model, ema, tensors = map(_on_host, (checkpoint.model, checkpoint.ema, checkpoint.tensors))
    state = json.loads(json.dumps(checkpoint.state))
    return replace(checkpoint, model=model, ema=ema, tensors=tensors, state=state)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: to_host(value).detach().clone() for name, value in tensors.items()}
