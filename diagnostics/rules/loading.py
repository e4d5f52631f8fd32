"""Loads a user's rule by name, so that a setting or a command can name it."""

from __future__ import annotations

from diagnostics.object_loading import load_object
from diagnostics.rules.registry import check_rule
from diagnostics.rules.rule import Rule

GROUP = "etrm.rules"
"""Group of the entry points with which an installed package offers rules."""


def load(spec: str) -> Rule:
    """The rule that `spec` names.

    Args:
        spec: `path/file.py:NAME`, `package.module:NAME`, or the name of an entry point in the group "etrm.rules".

    Raises:
        UnknownName: The file, the module, the name in it or the entry point does not exist.
        InvalidType: The object is no `Rule`.
        InvalidValue: The rule cannot be used.
    """
    return check_rule(load_object(spec, GROUP), spec)
