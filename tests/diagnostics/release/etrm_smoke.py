"""Our ETRM at the scale of the preset `smoke`, on real ARC tasks, with the trainer's own parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics import Finding, RowsFunction, SampleIndependence
from etrm.config import load
from etrm.data import build_evaluation_samples, collate
from etrm.training.loss import act_loss
from etrm.training.micro_batches import build_micro_batches
from etrm.training.optim import schedule, set_rates
from etrm.training.trainer import Trainer
from tests.diagnostics.release.subject import STEPS, Encoding


class EtrmSubject:
    """The decoder of an ETRM is its whole core; the network that it calls again and again is `core.L_level`."""

    encoder, core, decoder = "encoder", "core.L_level", "core"
    watch: list[str] | None

    def __init__(self, seed: int, cut_calls: bool = False) -> None:
        settings = (f"train.seed={seed}", f"train.steps={STEPS}", "monitor.enabled=false", "train.threads=1")
        self._trainer = trainer = Trainer(load("smoke", overrides=settings))
        self.model = trainer.model
        self.optimizers: list[Optimizer] = trainer.optimizers
        self.samples = trainer.config.train.batch_size
        self.watch = ["encoder", "core", "core.L_level"]
        self.rows: dict[str, RowsFunction] = {"encoder": lambda args, kwargs, output: args[0].slots}
        self.expect_partial: tuple[str, ...] = () if cut_calls else ("core.L_level",)
        self._steps = 0
        tasks = build_evaluation_samples(trainer.tasks, trainer.config.data, 1, seed)
        first = {sample.task_id: sample for sample in reversed(tasks)}
        self._samples = [first[name] for name in sorted(first)][:8]
        self._fixed = collate(self._samples)

    def loss(self) -> Tensor:
        trainer, train = self._trainer, self._trainer.config.train
        set_rates(self.optimizers, schedule(self._steps, train))
        bucket = trainer.episodes.bucket_at(self._steps)
        slots, carry = trainer.slots[bucket], trainer.carries[bucket]
        slots.refill(carry.halted.tolist())
        whole = [slice(0, train.batch_size)]
        (part,) = build_micro_batches(trainer.model, slots, carry, whole, trainer.world, trainer.halting)
        trainer.carries[bucket], output = self.model(part.carry, part.batch, part.minimum)
        self._steps += 1
        loss = act_loss(output, part.batch.labels, train.loss)
        return loss.total(train) / train.batch_size

    def probe(self) -> Tensor:
        assert self.model.encoder is not None
        return self.model.encoder(self._fixed.demos).context

    def independence(self) -> list[Finding]:
        """Of the first act step; what stands for a sample is its place, of which its task is made."""
        probe = SampleIndependence(lambda places: places, self._logits, watch=self.watch)
        return probe.run(self.model, torch.arange(len(self._samples)))

    def _logits(self, model: nn.Module, places: Tensor) -> Tensor:
        batch = collate([self._samples[place] for place in places.tolist()])
        return self.model(self.model.initial_carry(batch.size), batch)[1].logits

    def wrap_encoding(self, wrap: Callable[[Encoding], Encoding]) -> None:
        self.model.context_policy = wrap(self.model.context_policy)

    def map_context(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        return replace(output, context=change(output.context))
