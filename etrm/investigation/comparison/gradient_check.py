"""Whether the gradient of the encoder is the slope of the loss.

A gradient that is scaled, negated or incomplete still arrives and still moves something. Differences of the loss
along it need no backward pass: the slope in the direction of a gradient is its own norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from etrm.config import Config, with_settings
from etrm.config.tree import Changes
from etrm.errors import NonFiniteError
from etrm.investigation.comparison.interventions import with_interventions
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.training import recipe
from etrm.training.trainer import Trainer

LIKE = (0.2, 5.0)
"""Ratios of the two slopes that count as equal. Healthy encoders gave .48 to 1.85 on the preset `smoke`: a
recursive encoder (trm_style) cuts its gradient by design, and the loss is not linear."""
STRIDES = (2e-5, 2e-4, 2e-3)
"""Lengths of the step to either side, as shares of the norm of the encoder's weights; tried in turn."""
RESOLUTION = 1e-5
"""Smallest change of the loss, as a share of it, that is not taken for rounding: some hundred roundings of float32."""
FIRST_STRIDE = 1e-2
"""Length of the step where all of these weights are zero: a hundredth of a logit, over which a softmax is straight."""


class SlopeReason(StrEnum):
    """How the gradient of the first step compares with the slope of the loss."""

    FROZEN_TENSORS = "h2.frozen-tensors"
    NOT_THE_SLOPE = "h2.gradient-is-not-the-slope"
    IS_THE_SLOPE = "h2.gradient-is-the-slope"
    IN_NO_OPTIMIZER = "h2.weights-in-no-optimizer"


@dataclass(frozen=True)
class SlopeCheck(InspectionFacts):
    """The slope of the loss of a step along the gradient of the encoder.

    Attributes:
        claimed: slope by the backward pass, the norm of the gradient before clipping.
        measured: slope by the loss on either side, in the unit of the loss per unit of weight; None where neither the
            gradient nor the loss shows a change above rounding.
        frozen: number of encoder tensors that take no gradient; 0 of an encoder from outside, which may freeze some
            itself, and use others in other steps.
        tensors: number of encoder tensors.
        outside: number of tensors that the loss has a gradient for and no optimiser updates, in any part of the model
            or outside of it.
        meant: number of tensors that an encoder from outside freezes itself, which may be meant.
    """

    claimed: float
    measured: float | None
    frozen: int
    tensors: int
    outside: int = 0
    meant: int = 0

    @property
    def ratio(self) -> float | None:
        """Claimed over measured; infinite where the loss does not move, 0 without a gradient, None if not measured."""
        if not self.claimed:
            return 0.0
        if self.measured is None:
            return None
        return self.claimed / self.measured if self.measured else float("inf")

    @property
    def agrees(self) -> bool:
        """Whether the two slopes count as equal; also where the slope is not measured."""
        return self.ratio is None or LIKE[0] <= self.ratio <= LIKE[1]

    @property
    def holds(self) -> bool:
        """Whether the gradient of the encoder is something else than the slope of the loss, or updates nothing."""
        return self.frozen > 0 or self.outside > 0 or not self.agrees

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with the gradient, or that nothing is."""
        found = []
        if self.frozen:
            words = f"{self.frozen} of {self.tensors} encoder tensors take no gradient"
            found.append(VerdictReason(SlopeReason.FROZEN_TENSORS, words))
        if self.outside:
            words = f"the loss has a gradient for {self.outside} tensors that no optimiser updates"
            found.append(VerdictReason(SlopeReason.IN_NO_OPTIMIZER, words))
        if not self.agrees:
            words = f"the encoder's gradient is {self.ratio:.3g} times the slope of the loss along it"
            found.append(VerdictReason(SlopeReason.NOT_THE_SLOPE, words))
        words = (
            "the encoder's gradient is too small to compare with the slope of the loss"
            if self.ratio is None
            else f"the encoder's gradient is {self.ratio:.3f} times the slope of the loss"
        )
        return found or [VerdictReason(SlopeReason.IS_THE_SLOPE, words)]


def check_slope(config: Config) -> SlopeCheck | None:
    """Build a model as a run would, and compare the gradient of its first step with differences of its loss.

    Returns:
        None where the first step has no finite loss.

    Raises:
        EtrmError: the model cannot be built, or nothing in it takes a gradient.
    """
    config = with_settings(
        config, monitor={"enabled": False}, train={"freeze_encoder_steps": 0, "decoder": None}
    )
    config = with_interventions(config, _choose_settings(config))
    try:
        first = _take_first_step(config, {})
        weights, gradient = first.weights, first.gradient
        length = _compute_norm(gradient)
        own = config.model.own_encoder
        counts = {
            "frozen": 0 if own else len(weights) - len(gradient),
            "tensors": len(weights),
            "outside": first.outside,
            "meant": first.fixed if own else 0,
        }
        if not length:
            return SlopeCheck(0.0, 0.0, **counts)
        for share in STRIDES:
            stride = (share * _compute_norm(weights) or FIRST_STRIDE) / length
            change = _measure_change(config, first, stride)
            if max(abs(change), 2 * stride * length**2) >= RESOLUTION * abs(first.loss):
                slope = change / (2 * stride * length)
                return SlopeCheck(length, slope, **counts)
        return SlopeCheck(length, None, **counts)
    except NonFiniteError:
        return None


def _measure_change(config: Config, first: _FirstStep, stride: float) -> float:
    """The loss after a step along the gradient minus the loss after one against it.

    In bfloat16 rounding alone would change the loss more, so it is computed in float32.
    """
    exact = with_interventions(config, {"train": {"precision": "float32"}})
    there, back = (
        _take_first_step(
            exact, {name: first.weights[name] + sign * stride * g for name, g in first.gradient.items()}
        ).loss
        for sign in (1, -1)
    )
    return there - back


def _choose_settings(config: Config) -> Changes:
    """Settings under which the two are equal.

    By design, all cycles of the core but the last have no gradient, and neither has what inner steps add to a context.
    A sampled template has the gradient of the mixture.
    """
    settings: Changes = {"train": {"clip_norm": None, "inner_steps": 0}}
    if config.model.recursive:
        return {**settings, "model": {"H_cycles": 1}}
    if config.model.symbolic.selection == "straight_through":
        return {**settings, "model": {"symbolic": {"selection": "soft"}}}
    return settings


@dataclass(frozen=True)
class _FirstStep:
    """The encoder's weights and gradients, as the optimiser gets them, and the loss, of a step that updates nothing.

    ``outside`` counts tensors that no optimiser updates, ``fixed`` those of the encoder that take no gradient.
    """

    weights: dict[str, Tensor]
    gradient: dict[str, Tensor]
    loss: float
    outside: int
    fixed: int = 0


def _take_first_step(config: Config, changed: dict[str, Tensor]) -> _FirstStep:
    """Take the first step of a run; the gradients are those that the run trains on.

    The loss of a changed encoder is the intended one, without faults.
    """
    trainer = Trainer(config)
    encoder = trainer.model.encoder
    assert encoder is not None
    gradient: dict[str, Tensor] = {}
    outside: list[Tensor] = []

    def weigh(loss: Tensor, step: int) -> Tensor:
        weighed = (recipe.weigh if changed else faulty.weigh)(loss, step)
        outside.extend(_find_untrained(weighed, trainer))
        return weighed

    def keep() -> None:
        found = {name: p.grad for name, p in encoder.named_parameters()}
        gradient.update({name: grad.clone() for name, grad in found.items() if grad is not None})

    faulty = trainer.recipe
    trainer.recipe = replace(faulty, update=lambda optimizers, frozen: keep(), weigh=weigh)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(changed.get(name, parameter))
    weights = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    loss = float(trainer.train_step()["loss"])
    fixed = sum(not p.requires_grad for p in encoder.parameters())
    return _FirstStep(weights, gradient, loss, len({id(tensor) for tensor in outside}), fixed)


def _find_untrained(loss: Tensor, trainer: Trainer) -> list[Tensor]:
    """The leaves of the loss's graph that no optimiser updates: weights that get gradients in vain."""
    trained = {
        id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
    }
    return [leaf for leaf in find_leaves(loss) if id(leaf) not in trained]


def find_leaves(result: Tensor) -> list[Tensor]:
    """The tensors that a backward pass from a result would give a gradient to."""
    waiting, seen, leaves = [result.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the node that accumulates the gradient of a leaf
            leaves.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return leaves


def _compute_norm(tensors: dict[str, Tensor]) -> float:
    return (
        float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum().sqrt())
        if tensors
        else 0.0
    )
