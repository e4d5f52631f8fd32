"""What the trainer watches about itself, through the public surface of ``diagnostics``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diagnostics import Absent, Monitor, representation
from etrm.batch import Batch, to_device
from etrm.data import collate, evaluation_samples
from etrm.training.loss import act_loss

if TYPE_CHECKING:
    from etrm.training.trainer import Trainer


class Observer:
    """Records of one trainer: gradient coverage per step, and a look at a fixed probe batch.

    With ``monitor.enabled`` off it does nothing; training is bit-identical either way.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._settings = trainer.config.monitor
        self._has_encoder = trainer.model.encoder is not None
        self._watched = ["encoder", "core"] if self._has_encoder else ["core"]
        self.monitor: Monitor | None = None
        self._probe: Batch | None = None
        if not self._settings.enabled:
            return
        self.monitor = Monitor(
            trainer.model,
            trainer.optimizers,
            watch=self._watched,
            rows={"encoder": lambda args, kwargs, output: args[0].slots} if self._has_encoder else None,
            every=self._settings.every,
        )
        if self._has_encoder:
            self._probe = to_device(_probe_batch(trainer), trainer.device)

    def resume(self) -> None:
        """The trainer's step was restored: count from there."""
        if self.monitor is not None:
            self.monitor.steps = self._trainer.step

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """Around forward, backward and update."""
        if self.monitor is None:
            yield
            return
        with self.monitor.step(samples=samples):
            yield

    def metrics(self) -> dict[str, Any]:
        """The last step's records under ``module.quantity``, and the probe's when it is due."""
        values: dict[str, Any] = {}
        done = self._trainer.step
        if self.monitor is not None and (done - 1) % self._settings.every == 0:
            for name in self._watched:
                values |= self._module(name)
        if self._probe is not None and (done == 1 or done % self._settings.probe_every == 0):
            values |= self._look(self._probe)
        return values

    def _module(self, name: str) -> dict[str, Any]:
        assert self.monitor is not None
        assert self.monitor.last is not None
        record = self.monitor.last.modules[name]
        values = {
            "coverage": record.coverage,
            "waste": record.waste,
            "evenness": record.evenness,
            "calls": len(record.calls),
            "calls_grad_enabled": sum(call.grad_enabled for call in record.calls),
            "calls_with_grad": sum(call.gradient_arrived for call in record.calls),
            "grad_norm_pre_clip": record.grad_norm_pre_clip,
            "grad_norm_post_clip": record.grad_norm_post_clip,
            "moved": record.moved,
            "params_without_grad": record.params_none,
            "params_zero_grad": record.params_zero,
        }
        return {f"{name}.{key}": None if isinstance(v, Absent) else v for key, v in values.items()}

    @torch.no_grad()
    def _look(self, probe: Batch) -> dict[str, Any]:
        """Representation of the probe's contexts, and what the decoder loses without them."""
        model = self._trainer.model
        assert model.encoder is not None
        model.eval()
        context = model.encoder(probe.demos)
        seen = representation(context)
        losses = {
            "true": _loss(self._trainer, probe, context),
            "shuffled": _loss(self._trainer, probe, context.roll(1, dims=0)),
            "mean": _loss(self._trainer, probe, context.mean(0, keepdim=True).expand_as(context)),
        }
        model.train()
        values = {
            "share": seen.share,
            "cross_sample_var": seen.cross_sample_var,
            "effective_rank": seen.effective_rank_samples,
            "token_rank": seen.effective_rank_tokens,
            "rms": float(context.square().mean().sqrt()),
        }
        values |= {f"loss_{name}": value for name, value in losses.items()}
        return {f"probe.{key}": value for key, value in values.items()}


def _probe_batch(trainer: Trainer) -> Batch:
    """One query of each of the first tasks, not augmented: fixed, so that only weights move."""
    config = trainer.config
    samples = evaluation_samples(trainer.tasks, config.data, 1, config.train.seed)
    first = {sample.task_id: sample for sample in reversed(samples)}
    return collate([first[name] for name in sorted(first)][: config.monitor.probe_tasks])


def _loss(trainer: Trainer, probe: Batch, context: Tensor) -> float:
    """Mean lm loss of one ACT step from a fresh carry."""
    model = trainer.model
    _, output = model.step(model.initial_carry(probe.size), probe, context)
    return float(act_loss(output, probe.labels).lm.mean())
