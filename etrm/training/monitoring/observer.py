"""What the trainer records about itself, through the public interface of ``diagnostics``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diagnostics import Absent, Finding, Monitor, RowsFunction, representation
from diagnostics.errors import ToolkitError
from etrm.batch import Batch
from etrm.data import build_evaluation_samples, collate
from etrm.device import to_device
from etrm.training.execution.compiling import uncompiled
from etrm.training.loss import act_loss
from etrm.training.monitoring.own_rules import EXTENSION_POINT, find_rule
from etrm.training.train_state import TrainState

LAYER = "layer."
"""What the keys of the gradient norms of layers begin with."""


class Observer:
    """Records of one run: gradient coverage per step, and measurements on a fixed probe batch.

    With ``monitor.enabled`` off it does nothing; training is bit-identical either way.
    """

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._settings = state.config.monitor
        self._has_encoder = state.model.encoder is not None
        self._watched = ["encoder", "core"] if self._has_encoder else ["core"]
        self.monitor: Monitor | None = None
        self._probe: Batch | None = None
        self._recorded = False
        self._start: dict[str, Any] = {}
        if not self._settings.enabled:
            return
        with self._refused_rules():
            self.monitor = Monitor(
                state.model,
                state.optimizers,
                watch=self._watched,
                rows=self._row_functions(),
                rules=[find_rule(name) for name in self._settings.rules],
                group=state.world.group,
                operations=False,  # compiled and captured steps run through it
            )
        if self._has_encoder:
            self._probe = to_device(_probe_batch(state), state.device)

    def _row_functions(self) -> dict[str, RowsFunction]:
        """Map the rows of a call to samples of this process, for modules that do not see all of them in order."""
        found: dict[str, RowsFunction] = {}
        if self._has_encoder:
            found["encoder"] = lambda args, kwargs, output: args[0].slots
        if self._state.config.train.accumulate > 1:
            found["core"] = lambda args, kwargs, output: torch.arange(
                self._state.part.start, self._state.part.stop
            )
        return found

    @property
    def due(self) -> bool:
        """Whether the next step is recorded."""
        # Counted by the run's step, so that a resumed run records the same steps.
        return self.monitor is not None and self._state.step % self._settings.every == 0

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """A context around forward, backward and update."""
        self._recorded = self.due
        if self._probe is not None and self._state.step == 0:
            self._start = self._look(self._probe)
        if not self._recorded:
            yield
            return
        assert self.monitor is not None
        with self._refused_rules(), self.monitor.step(samples=samples):
            yield

    @contextmanager
    def _refused_rules(self) -> Iterator[None]:
        """Report a rule from outside that the monitor refuses, for its id or for what its check returns."""
        try:
            yield
        except ToolkitError as error:
            if not error.code.startswith("rules."):
                raise
            raise EXTENSION_POINT.wrong(", ".join(self._settings.rules), str(error)) from error

    def gradients_reduced(self) -> None:
        """Tell the monitor that gradients are summed over the processes and not yet clipped."""
        if self._recorded and self.monitor is not None:
            self.monitor.gradients_reduced()

    def metrics(self) -> dict[str, Any]:
        """Return the last step's records under ``module.quantity``, and those of a due probe under ``probe.``.

        The first step also has the probe before any update, under ``start.``.
        """
        values: dict[str, Any] = {}
        done = self._state.step
        if self._recorded:
            for name in self._watched:
                values |= self._module(name)
            if self._settings.layers:
                values |= self._measure_layers()
        if self._probe is not None and done == 1:
            values |= {f"start.{key}": value for key, value in self._start.items()}
        if self._probe is not None and done % self._settings.probe_every == 0:
            values |= {f"probe.{key}": value for key, value in self._look(self._probe).items()}
        return values

    def findings(self) -> list[Finding]:
        """Return what the toolkit found since this process began to train; empty without a monitor."""
        return [] if self.monitor is None else self.monitor.findings()

    def _module(self, name: str) -> dict[str, Any]:
        assert self.monitor is not None
        record = self.monitor.last
        values: dict[str, Any] = record.modules[name].scalars()
        trainable = [p for p in record.parameters.values() if p.owner == name and p.requires_grad]
        values["params_idle"] = sum(not p.changed or p.reach.kind in ("none", "zero") for p in trainable)
        return {f"{name}.{key}": None if isinstance(v, Absent) else v for key, v in values.items()}

    def _measure_layers(self) -> dict[str, Any]:
        """Return the gradient norm of each layer before clipping under ``layer.NAME``; None without a gradient."""
        assert self.monitor is not None
        squares: dict[str, list[float]] = {}
        for name, parameter in self.monitor.last.parameters.items():
            norm = parameter.reach.norm
            if parameter.requires_grad:
                squares.setdefault(name_layer(name), []).extend([] if isinstance(norm, Absent) else [norm**2])
        return {
            f"{LAYER}{layer}": math.sqrt(sum(found)) if found else None for layer, found in squares.items()
        }

    @torch.no_grad()
    def _look(self, probe: Batch) -> dict[str, Any]:
        """Measure the contexts of the probe, and the decoder's loss with, with shuffled and with mean contexts."""
        model = self._state.model
        assert model.encoder is not None
        model.eval()
        # The compiler would compile all networks again, for this batch alone.
        with uncompiled(self._state.config.train):
            context = model.encoder(probe.demos).context
            losses = {
                "true": _loss(self._state, probe, context),
                "shuffled": _loss(self._state, probe, context.roll(1, dims=0)),
                "mean": _loss(self._state, probe, context.mean(0, keepdim=True).expand_as(context)),
            }
        model.train()
        if self.monitor is not None and self._recorded and self._state.step:  # one probe per recorded step
            self.monitor.probe("encoder", context)
        seen = representation(context)
        values = {
            "share": seen.share,
            "cross_sample_var": seen.cross_sample_var,
            "effective_rank": seen.rank_over_samples,
            "token_rank": seen.rank_over_tokens,
            "rms": float(context.square().mean().sqrt()),
        }
        return values | {f"loss_{name}": value for name, value in losses.items()}


def name_layer(parameter: str) -> str:
    """Return the layer of a parameter: its name up to the first number, or its first two parts."""
    parts = parameter.split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[: (numbered + 1 if numbered is not None else max(1, min(2, len(parts) - 1)))])


def _probe_batch(state: TrainState) -> Batch:
    """Build a batch of one query of each of the first tasks, not augmented, so that only weights change."""
    config = state.config
    samples = build_evaluation_samples(state.episodes.tasks, config.data, 1, config.train.seed)
    first = {sample.task_id: sample for sample in reversed(samples)}
    return collate([first[name] for name in sorted(first)][: config.monitor.probe_tasks])


def _loss(state: TrainState, probe: Batch, context: Tensor) -> float:
    """Compute the mean lm loss of one ACT step from a fresh carry."""
    model = state.model
    _, output = model.step(model.initial_carry(probe.size), probe, context)
    return float(act_loss(output, probe.labels, state.config.train.loss).lm.mean())
