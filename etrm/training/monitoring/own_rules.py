"""The user's own diagnostics rules, which ``monitor.rules`` and ``etrm audit --rule`` name."""

from __future__ import annotations

from diagnostics import Rule
from diagnostics.errors import ToolkitError
from diagnostics.rules.registry import check_rule
from etrm.extensions import ExtensionPoint

EXTENSION_POINT: ExtensionPoint[Rule] = ExtensionPoint(
    "rules",
    "diagnostics rule",
    "diagnostics.Rule(id, severity, title, metric, remedy, check=..., causes=(...,))",
    lambda found: isinstance(found, Rule),
)


def find_rule(name: str) -> Rule:
    """Load the diagnostics rule that a name of code refers to.

    Raises:
        ExtensionError: its code cannot be loaded, or is not a rule that a monitor can run.
    """
    rule = EXTENSION_POINT.load(name)
    try:
        return check_rule(rule, name)
    except ToolkitError as error:
        raise EXTENSION_POINT.wrong(name, str(error)) from error
