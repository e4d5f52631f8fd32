"""Attributes that were meant to freeze weights, and that torch does not read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from torch import nn

_SWITCH = "requires_grad"
_ALIKE = 0.9
"""Likeness of a name from which it is a misspelling: require_grad and requires_grads have 0.96."""


def find_freezing_attributes(model: nn.Module) -> dict[str, str]:
    """Name of a module or parameter that is trainable -> its plain attribute that should have frozen it.

    `module.requires_grad = False` makes an attribute like any other, and so does a misspelt name on a parameter.
    """
    found = {}
    for name, module in model.named_modules():
        wrong = _find_false(vars(module))
        if wrong and any(parameter.requires_grad for parameter in module.parameters()):
            found[name] = wrong
    for name, parameter in model.named_parameters():
        wrong = _find_false(vars(parameter))
        if wrong and parameter.requires_grad:
            found[name] = wrong
    return found


def _find_false(attributes: Mapping[str, object]) -> str:
    """The attribute of this name or nearly this name that is False; "" where there is none."""
    names = [name for name, value in attributes.items() if value is False]
    return next(iter(difflib.get_close_matches(_SWITCH, names, n=1, cutoff=_ALIKE)), "")
