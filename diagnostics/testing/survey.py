"""Gradient and movement of every parameter of a model while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from diagnostics.causes import Cause
from diagnostics.recording.tensors import stored_values
from diagnostics.report.tables import cell, text_table
from diagnostics.rules.families.weights import movement

Gradient = Literal["none", "zero", "arrived", "not finite"]
Applied = Literal["no optimiser stepped", "in no group", "zero rate", "no gradient", "applied"]


@dataclass(frozen=True)
class ParameterFate:
    """One parameter.

    Attributes:
        owner: The child of the model that holds it, "" for the model itself.
        gradient: The largest that arrived in any backward pass.
        changed: Whether any bit of it changed.
        applied: How the optimisers that stepped treated it.
        moved: ||change|| / ||weights before||; None for weights that were all zero.
    """

    name: str
    owner: str
    trainable: bool
    gradient: Gradient
    changed: bool
    moved: float | None
    applied: Applied = "no optimiser stepped"


class ParameterSurvey:
    """Watches between the entry and the exit of `watching`; `fates` has the results.

    Attributes:
        optimizers: Those that stepped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._gradients: dict[str, Gradient] = {}
        self.optimizers: list[Optimizer] = []
        self._applied: dict[int, Applied] = {}  # by the id of the parameter; the best of all steps
        self.fates: list[ParameterFate] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The fates are known at the exit."""
        parameters = dict(self._model.named_parameters())
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        handles = [
            parameter.register_post_accumulate_grad_hook(self._note(name))
            for name, parameter in parameters.items()
            if parameter.requires_grad
        ]
        handles.append(register_optimizer_step_pre_hook(self._note_step))  # of every optimiser there is
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.fates = [self._fate(name, before[name], parameter) for name, parameter in parameters.items()]

    def _note(self, name: str) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            if parameter.grad is None or self._gradients.get(name) == "not finite":
                return
            gradient = stored_values(parameter.grad)
            if not bool(torch.isfinite(gradient).all()):
                self._gradients[name] = "not finite"
            elif bool((gradient != 0).any()):
                self._gradients[name] = "arrived"
            else:
                self._gradients.setdefault(name, "zero")

        return note

    def _note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if all(optimizer is not known for known in self.optimizers):
            self.optimizers.append(optimizer)
        for group in optimizer.param_groups:
            rate = group.get("lr", 1.0)
            still = not isinstance(rate, Tensor) and rate == 0.0
            for parameter in group["params"]:
                how: Applied = (
                    "zero rate" if still else "no gradient" if parameter.grad is None else "applied"
                )
                if self._applied.get(id(parameter)) != "applied":
                    self._applied[id(parameter)] = how

    @torch.no_grad()
    def _fate(self, name: str, before: Tensor, parameter: Tensor) -> ParameterFate:
        change, size = float((parameter - before).norm()), float(before.norm())
        return ParameterFate(
            name=name,
            owner=name.split(".")[0] if "." in name else "",
            trainable=parameter.requires_grad,
            gradient=self._gradients.get(name, "none"),
            changed=not torch.equal(parameter, before),
            moved=change / size if size else None,
            applied=self._applied.get(
                id(parameter), "in no group" if self.optimizers else "no optimiser stepped"
            ),
        )


def survey_training(model: nn.Module, train_step: Callable[[], object], steps: int) -> list[ParameterFate]:
    """The fate of every parameter over `steps` training steps, which train the model."""
    return survey_steps(model, train_step, steps).fates


def survey_steps(model: nn.Module, train_step: Callable[[], object], steps: int) -> ParameterSurvey:
    """What happened to every parameter over `steps` training steps, which train the model."""
    survey = ParameterSurvey(model)
    with survey.watching():
        for _ in range(steps):
            train_step()
    return survey


_WITHOUT_GRADIENT: Mapping[Gradient, Cause] = {
    "none": movement.NO_GRADIENT,
    "zero": movement.ZERO_GRADIENT,
    "not finite": movement.SKIPPED_STEP,
}
_NOT_APPLIED: Mapping[Applied, Cause] = {
    "no optimiser stepped": movement.NO_UPDATE,
    "in no group": movement.IN_NO_GROUP,
    "zero rate": movement.ZERO_RATE,
    "no gradient": movement.CLEARED_GRADIENT,
    "applied": movement.ROUNDED_OR_SET_BACK,
}


def why_still(fate: ParameterFate, fates: Iterable[ParameterFate]) -> Cause:
    """Why a parameter did not move, one of the causes of MOVE001, from the fates of all."""
    if all(each.gradient == "none" for each in fates):
        return movement.NO_PASS
    return _NOT_APPLIED[fate.applied] if fate.gradient == "arrived" else _WITHOUT_GRADIENT[fate.gradient]


def explained(cause: Cause, still: Sequence[ParameterFate], fates: Iterable[ParameterFate]) -> Cause:
    """A cause about parameters that did not move, with the reason and its remedy where all have the same one."""
    known = list(fates)
    reasons = {reason.code: reason for reason in (why_still(each, known) for each in still)}
    if len(reasons) != 1:
        return cause
    (reason,) = reasons.values()
    return replace(cause.adding(f": {reason}"), remedy=reason.remedy)


def fate_table(fates: Iterable[ParameterFate], marked: Iterable[str]) -> str:
    """One line per module, then one per marked parameter."""
    known = list(fates)
    owners = dict.fromkeys(fate.owner for fate in known)
    rows = []
    for owner in owners:
        held = [fate for fate in known if fate.owner == owner]
        trainable = [fate for fate in held if fate.trainable]
        arrived = sum(fate.gradient == "arrived" for fate in trainable)
        rows.append(
            (
                owner or "(model)",
                f"{arrived} of {len(trainable)}",
                f"{sum(fate.changed for fate in held)} of {len(held)}",
                _largest(held),
            )
        )
    wanted = set(marked)
    rows += [
        (f"! {fate.name}", fate.gradient, "yes" if fate.changed else "no", cell(fate.moved))
        for fate in known
        if fate.name in wanted
    ]
    return text_table(("module", "with gradient", "moved", "by at most"), rows)


def _largest(fates: Iterable[ParameterFate]) -> str:
    return cell(max((fate.moved for fate in fates if fate.moved is not None), default=None))
