"""The state of a run between two steps, and the same as tensors and JSON: what makes resuming exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.run_folder import RunFolder
from etrm.checkpoints.weights import load_weights
from etrm.config import Config
from etrm.data import Episodes
from etrm.device import to_device
from etrm.errors import CheckpointError
from etrm.model.act import Carry
from etrm.model.variant import Variant
from etrm.training.ema import Ema
from etrm.training.execution.distributed import World
from etrm.training.metric_log import Journal, Landing
from etrm.training.slots import Slots


@dataclass(frozen=True)
class Moment:
    """What a step consumes before it is known whether it can be applied: random numbers and samples.

    Attributes:
        random_torch, random_halting: states of the two generators.
        slots: the indices of the rows' samples, and the next index, by bucket.
    """

    random_torch: Tensor
    random_halting: Tensor
    slots: dict[int, tuple[list[int], int]]


@dataclass
class TrainState:
    """The state of a run between two steps; the trainer, its observer and the handling of non-finite steps share one.

    Attributes:
        config: the settings that the run really uses.
        device: the device that the model is on.
        world: the processes of the run.
        folder: the run folder, None for a run that leaves no trace.
        episodes: the training episodes.
        model, optimizers, ema: the weights, their optimisers and their averages.
        halting: the random generator of the halting exploration.
        slots: the samples that the rows work on, by bucket.
        carries: the latent states of this process's rows, by bucket.
        halted: flags of the rows that halted, on their way to the host, by bucket.
        step: optimiser steps done.
        part: the rows of this process that are being computed.
        journal: the numbers of steps that were not read yet.
    """

    config: Config
    device: torch.device
    world: World
    folder: RunFolder | None
    episodes: Episodes
    model: Variant
    optimizers: list[Optimizer]
    ema: Ema
    halting: torch.Generator
    slots: dict[int, Slots]
    carries: dict[int, Carry] = field(default_factory=dict)
    halted: dict[int, list[Landing]] = field(default_factory=dict)
    step: int = 0
    part: slice = field(default_factory=lambda: slice(None))
    journal: Journal = field(default_factory=Journal)

    @property
    def bucket(self) -> int:
        """The bucket of the next step."""
        return self.episodes.bucket_at(self.step, self.model.steps_per_turn)

    @property
    def stage(self) -> dict[str, int]:
        """The logged values of the curriculum's stage at the next step; empty without a curriculum."""
        curriculum = self.config.data.curriculum
        if not curriculum:
            return {}
        stage = self.episodes.stage_at(self.step, self.model.steps_per_turn)
        replayed = self.episodes.stage_of(self.bucket) < stage
        return {"stage_side": curriculum[stage].max_side, "replayed": int(replayed)}

    @property
    def rows(self) -> range:
        """The rows of the global batch that this process computes."""
        return self.world.share(self.config.train.batch_size)

    def set_carry(self, bucket: int, carry: Carry) -> None:
        """Set the state of this process's rows of a bucket."""
        self.carries[bucket], self.halted[bucket] = carry, [Landing(carry.halted)]

    def capture(self) -> Checkpoint:
        """Capture everything that the next step depends on, the same on any number of processes.

        All processes must call this; each of them gets the state of the whole run.
        """
        tensors: dict[str, Tensor] = {f"ema.{name}": value for name, value in self.ema.sums.items()}
        tensors |= dict(_optimizer_tensors(self.optimizers))
        tensors["random.halting"] = self.halting.get_state()
        tensors["random.torch"] = torch.get_rng_state()
        for bucket, carry in self.carries.items():
            for name, value in carry.tensors().items():
                tensors[f"carry.{bucket}.{name}"] = self.world.gather_rows(value)
        raw = dict(self.model.state_dict())
        state: dict[str, Any] = {
            "ema_updates": self.ema.updates,
            "slots": {
                str(bucket): {"indices": slots.indices, "next_index": slots.next_index}
                for bucket, slots in self.slots.items()
            },
            "metrics_bytes": self.folder.metrics_bytes if self.folder else 0,
            "model_settings": self.config.model.model_dump(mode="json"),
            "weights": {"model.safetensors": "raw", "ema.safetensors": "ema"},
        }
        averaged = raw | self.ema.average() if self.ema.updates else raw
        return Checkpoint(self.step, raw, averaged, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a captured state; the next step is the one that would have followed.

        Raises:
            CheckpointError: it belongs to another model or another version of etrm.
        """
        try:
            self._restore(checkpoint)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                "checkpoint.does-not-fit-run",
                f"the checkpoint of step {checkpoint.step} does not fit this run",
                got=f"{type(error).__name__}: {error}",
                next_step="continue with the version of etrm that run.json names, or begin another run",
            ) from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        tensors, state = checkpoint.tensors, checkpoint.state
        self.step = checkpoint.step
        load_weights(self.model, checkpoint, "raw")
        if "imported" in state:  # it has only weights: everything else starts anew
            return
        ema = {name.removeprefix("ema."): value for name, value in tensors.items() if name.startswith("ema.")}
        self.ema.load(ema, state["ema_updates"])
        _restore_optimizers(self.optimizers, tensors)
        self.halting.set_state(tensors["random.halting"])
        torch.set_rng_state(tensors["random.torch"])
        for key, position in state["slots"].items():
            bucket = int(key)
            self.slots[bucket].restore(position["indices"], position["next_index"])
            prefix = f"carry.{key}."
            whole = Carry.of({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            mine = whole.rows(slice(self.rows.start, self.rows.stop))
            self.set_carry(
                bucket, Carry.of({k: to_device(v, self.device) for k, v in mine.tensors().items()})
            )

    def moment(self) -> Moment:
        """Record what the next step will consume; cheap enough for every step."""
        positions = {bucket: (list(slots.indices), slots.next_index) for bucket, slots in self.slots.items()}
        return Moment(torch.get_rng_state(), self.halting.get_state(), positions)

    def rewind(self, before: Moment) -> None:
        """Undo a step that failed before its update: the next step is the same again, bit for bit."""
        torch.set_rng_state(before.random_torch)
        self.halting.set_state(before.random_halting)
        for bucket, (indices, next_index) in before.slots.items():
            self.slots[bucket].restore(indices, next_index)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.journal.forget()


def _optimizer_tensors(optimizers: list[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                yield f"optimizer.{number}.{index}.{name}", value


def _restore_optimizers(optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{number}."
        for name, value in tensors.items():
            if name.startswith(prefix):
                index, _, field = name.removeprefix(prefix).partition(".")
                states.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
