"""Build the model under test: its factory, loaded from the user's file, and changes of what it returns."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from etrm.extensions import ExtensionPoint, describe
from etrm.investigation.own_model.adapter_errors import (
    EXAMPLE_FACTORY,
    EXAMPLE_PARTS,
    EXAMPLE_PRETRAINED,
    call_adapter,
    refuse_adapter,
)
from etrm.investigation.own_model.adapter_functions import FUNCTIONS, LOADING, guard_adapter
from etrm.investigation.own_model.model_under_test import ModelUnderTest, Pretrained

POINT: ExtensionPoint[Callable[..., ModelUnderTest]] = ExtensionPoint(
    "models_under_test",
    "factory of a model under test",
    "a function make_model(seed) -> ModelUnderTest",
    callable,
)
Change = Callable[[ModelUnderTest], ModelUnderTest]


def seed_everything(*parts: int) -> None:
    """Set the random numbers of torch, numpy and Python to a state that depends on some numbers alone."""
    seed = int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the state that user code draws from
    random.seed(seed)


@dataclass(frozen=True)
class ModelFactory:
    """Builds the model under test, or a changed one.

    Attributes:
        make: the user's function.
        name: its name in errors and reports.
        changes: changes after it is built, such as an injected fault.
    """

    make: Callable[..., ModelUnderTest]
    name: str
    changes: tuple[Change, ...] = field(default=())

    def build(self, seed: int) -> ModelUnderTest:
        """A fresh model under test, whose functions are guarded.

        Raises:
            ExtensionError: the user's function raises or returns something else, or the weights cannot be loaded.
        """
        seed_everything(seed)
        what = f"the factory {self.name}"
        with call_adapter(
            "adapter.factory-raised",
            f"{what} raised an exception",
            expected="a ModelUnderTest",
            example=EXAMPLE_FACTORY,
        ):
            made: Any = self.make(seed) if _takes_seed(self.make) else self.make()
        if not isinstance(made, ModelUnderTest):
            raise refuse_adapter(
                "adapter.wrong-factory",
                f"{what} returned something else",
                got=describe(made),
                expected="a ModelUnderTest",
                example=EXAMPLE_FACTORY,
            )
        _check_values(made)
        built = guard_adapter(made)
        if built.pretrained is not None:
            built.pretrained.load(built.model)
        for change in self.changes:
            built = change(built)
        return built

    def changed(self, *changes: Change) -> ModelFactory:
        """The factory of a model that is changed further."""
        return ModelFactory(self.make, self.name, (*self.changes, *changes))


def load_factory(name: str) -> ModelFactory:
    """The factory that a name of code refers to.

    Raises:
        ExtensionError: its code cannot be loaded or may not run, or it is no function.
    """
    return ModelFactory(POINT.load(name), name)


def _takes_seed(make: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


_EXAMPLES = {name: function.example for name, function in FUNCTIONS.items()} | {
    "model": EXAMPLE_FACTORY,
    "pretrained": EXAMPLE_PRETRAINED,
}
_REQUIRED = ("step", "batch", "optimizer")
_KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "an nn.Module": (lambda value: isinstance(value, nn.Module), ("model",)),
    "a function": (callable, _REQUIRED),
    "a function or None": (
        lambda value: value is None or callable(value),
        tuple(name for name in FUNCTIONS if name not in _REQUIRED),
    ),
    "a name, such as 'encoder'": (_is_text, ("context_module", "context_consumer", "labels", "ids")),
    "a tuple of names, such as ('encoder',)": (_are_texts, ("frozen", "approximate", "demonstrations")),
    "a number": (_is_number, ("best_score",)),
    "a number or None": (lambda value: value is None or _is_number(value), ("clip_norm", "worst_score")),
    "a number of steps, at least 1": (lambda value: type(value) is int and value > 0, ("steps",)),
    "a Pretrained or None": (
        lambda value: value is None or isinstance(value, Pretrained),
        ("pretrained",),
    ),
}
"""What each field must be, and the test of it."""


def _check_values(made: ModelUnderTest) -> None:
    """Whether each field has a value of its kind."""
    given = {name: (getattr(made, name), kind) for kind, (_, names) in _KINDS.items() for name in names}
    if isinstance(made.pretrained, Pretrained):
        given["pretrained.part"] = made.pretrained.part, "a name, such as 'encoder'"
        for name in LOADING:
            optional = " or None" * (name == "inputs")
            given[f"pretrained.{name}"] = getattr(made.pretrained, name), f"a function{optional}"
    for name, (value, kind) in given.items():
        if not _KINDS[kind][0](value):
            raise refuse_adapter(
                "adapter.wrong-value",
                f"{name} has a value of another kind",
                got=describe(value),
                expected=kind,
                example=_EXAMPLES.get(name.partition(".")[0], EXAMPLE_PARTS),
            )
