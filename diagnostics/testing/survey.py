"""Gradient and movement of every parameter of a model while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diagnostics.recording.stored_values import stored_values
from diagnostics.report.tables import cell, text_table

Gradient = Literal["none", "zero", "arrived", "not finite"]


@dataclass(frozen=True)
class ParameterFate:
    """One parameter.

    Attributes:
        owner: The child of the model that holds it, "" for the model itself.
        gradient: The largest that arrived in any backward pass.
        changed: Whether any bit of it changed.
        moved: ||change|| / ||weights before||; None for weights that were all zero.
    """

    name: str
    owner: str
    trainable: bool
    gradient: Gradient
    changed: bool
    moved: float | None


class ParameterSurvey:
    """Watches between the entry and the exit of `watching`; `fates` has the results."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._gradients: dict[str, Gradient] = {}
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
        )


def survey_training(model: nn.Module, train_step: Callable[[], object], steps: int) -> list[ParameterFate]:
    """The fate of every parameter over `steps` training steps, which train the model."""
    survey = ParameterSurvey(model)
    with survey.watching():
        for _ in range(steps):
            train_step()
    return survey.fates


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
