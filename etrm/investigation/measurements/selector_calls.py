"""The calls of a selector's encoder and refiners in training steps: which ran with gradients, and where one arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diagnostics import Absent, Monitor
from diagnostics.records import ModuleRecord
from etrm.batch import Demos
from etrm.config import Config, with_settings
from etrm.investigation.records import NotMeasured, Value
from etrm.training.trainer import Trainer

STEPS = 4
"""Steps per seed; which calls have a gradient is the same in all of them."""
ENCODER = ("encoder.selector.encoder",)
REFINERS = ("encoder.selector.refine_z", "encoder.selector.refine_y")


@dataclass(frozen=True)
class PartCalls:
    """The calls of one part of the selector over some steps.

    Attributes:
        coverage: lowest share of a batch whose loss has a gradient through the part.
        calls: calls per step.
        enabled: calls per step that ran with gradients enabled.
        reached: calls per step at which a gradient arrived, in the step with the fewest.
    """

    coverage: Value
    calls: float
    enabled: float
    reached: float


@dataclass(frozen=True)
class SelectorCalls:
    """The calls of both parts.

    Attributes:
        encoder: the calls of the encoder of demonstrations.
        refiners: the calls of the two networks that refine its encoding in cycles.
    """

    encoder: PartCalls
    refiners: PartCalls


def watch_selector(config: Config) -> SelectorCalls:
    """Train a config for a few steps and record the calls of its selector.

    Raises:
        EtrmError: the model cannot be built, or nothing in it takes a gradient.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}, train={"accumulate": 1}))
    encoder = trainer.model.encoder
    assert encoder is not None
    given: list[Demos] = []
    handle = encoder.register_forward_pre_hook(_keep_demos(given), with_kwargs=True)
    rows = {ENCODER[0]: lambda args, kwargs, output: _sample_of_each_pair(given[-1])}
    monitor = Monitor(
        trainer.model, trainer.optimizers, watch=[*ENCODER, *REFINERS], rows=rows, operations=False
    )
    steps: list[dict[str, ModuleRecord]] = []
    with monitor:
        for _ in range(STEPS):
            with monitor.step(samples=trainer.config.train.batch_size):
                trainer.train_step()
            steps.append(dict(monitor.last.modules))
    handle.remove()
    return SelectorCalls(_sum_up(steps, ENCODER), _sum_up(steps, REFINERS))


def _keep_demos(given: list[Demos]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(args[0] if args else kwargs["demos"])

    return keep


def _sample_of_each_pair(demos: Demos) -> Tensor:
    return demos.slots[demos.owner]


def _sum_up(steps: Sequence[dict[str, ModuleRecord]], names: Sequence[str]) -> PartCalls:
    records = [[step[name] for name in names] for step in steps]
    coverage = [record.coverage for step in records for record in step]
    known = [value for value in coverage if not isinstance(value, Absent)]
    unknown = next((value.reason for value in coverage if isinstance(value, Absent)), "no step")
    return PartCalls(
        coverage=NotMeasured(absent=unknown) if len(known) < len(coverage) else min(known),
        calls=max(sum(record.calls_total for record in step) for step in records),
        enabled=max(sum(record.calls_grad_enabled for record in step) for step in records),
        reached=min(sum(record.calls_with_gradient for record in step) for step in records),
    )
