"""The state of a run as tensors and JSON, and back: what makes resuming exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.weights import load_weights
from etrm.device import to_device
from etrm.errors import CheckpointError
from etrm.model.act import Carry

if TYPE_CHECKING:
    from etrm.training.trainer import Trainer


def capture(trainer: Trainer) -> Checkpoint:
    """Everything that the next step depends on, the same on any number of processes.

    With several, each must call this; what is returned is that of the whole run, on each of them.
    """
    tensors: dict[str, Tensor] = {f"ema.{name}": value for name, value in trainer.ema.sums.items()}
    tensors |= dict(_optimizer_tensors(trainer.optimizers))
    tensors["random.halting"] = trainer.halting.get_state()
    tensors["random.torch"] = torch.get_rng_state()
    for bucket, carry in trainer.carries.items():
        for name, value in carry.tensors().items():
            tensors[f"carry.{bucket}.{name}"] = trainer.world.gather_rows(value)
    raw = dict(trainer.model.state_dict())
    state: dict[str, Any] = {
        "ema_updates": trainer.ema.updates,
        "slots": {
            str(bucket): {"indices": slots.indices, "next_index": slots.next_index}
            for bucket, slots in trainer.slots.items()
        },
        "metrics_bytes": trainer.folder.metrics_bytes if trainer.folder else 0,
        "model_settings": trainer.config.model.model_dump(mode="json"),
        "weights": {"model.safetensors": "raw", "ema.safetensors": "ema"},
    }
    averaged = raw | trainer.ema.average() if trainer.ema.updates else raw
    return Checkpoint(trainer.step, raw, averaged, tensors, state)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put a captured state back; the next step is the one that would have come.

    Raises:
        CheckpointError: it is of another model or another version of etrm.
    """
    try:
        _restore(trainer, checkpoint)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "checkpoint.does-not-fit-run",
            f"the checkpoint of step {checkpoint.step} does not fit this run",
            got=f"{type(error).__name__}: {error}",
            next_step="continue with the version of etrm that run.json names, or begin another run",
        ) from error


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    tensors, state = checkpoint.tensors, checkpoint.state
    trainer.step = checkpoint.step
    load_weights(trainer.model, checkpoint, "raw")
    if "imported" in state:  # weights alone: all else begins
        return
    ema = {name.removeprefix("ema."): value for name, value in tensors.items() if name.startswith("ema.")}
    trainer.ema.load(ema, state["ema_updates"])
    _restore_optimizers(trainer.optimizers, tensors)
    trainer.halting.set_state(tensors["random.halting"])
    torch.set_rng_state(tensors["random.torch"])
    for key, position in state["slots"].items():
        bucket = int(key)
        trainer.slots[bucket].restore(position["indices"], position["next_index"])
        prefix = f"carry.{key}."
        whole = Carry.of({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        mine = whole.rows(slice(trainer.mine.start, trainer.mine.stop))
        trainer.set_carry(
            bucket, Carry.of({k: to_device(v, trainer.device) for k, v in mine.tensors().items()})
        )


@dataclass(frozen=True)
class Moment:
    """What a step uses up before it is known whether it can be applied: random numbers and samples.

    Attributes:
        random_torch, random_halting: states of the two generators.
        slots: samples of the rows, and the next one, by bucket.
    """

    random_torch: Tensor
    random_halting: Tensor
    slots: dict[int, tuple[list[int], int]]


def moment(trainer: Trainer) -> Moment:
    """Where a run stands between two steps, cheap enough for every step."""
    positions = {bucket: (list(slots.indices), slots.next_index) for bucket, slots in trainer.slots.items()}
    return Moment(torch.get_rng_state(), trainer.halting.get_state(), positions)


def rewind(trainer: Trainer, before: Moment) -> None:
    """Undo a step that was given up before its update: the next one is the same again, bit for bit."""
    torch.set_rng_state(before.random_torch)
    trainer.halting.set_state(before.random_halting)
    for bucket, (indices, next_index) in before.slots.items():
        trainer.slots[bucket].restore(indices, next_index)
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)
    trainer.journal.forget()


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
