"""All hypotheses by id: those of this package, found by their modules, and those that are registered at run time."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import etrm.investigation.hypotheses as package
from etrm.errors import ConfigError
from etrm.extensions import ExtensionPoint, in_users_code, source_digest
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement

ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""An id is a word on the command line and the name of a file."""
ATTRIBUTES = {"next_step": str, "precedence": int, "controls": tuple}
METHODS = ("applies_to", "arms", "screens", "is_short", "decide", "not_run")
_REGISTERED: dict[str, Hypothesis] = {}
EXTENSION_POINT: ExtensionPoint[object] = ExtensionPoint(
    "hypotheses",
    "hypothesis",
    "a subclass of etrm.investigation.hypotheses.hypothesis.Hypothesis",
    lambda found: True,
)


def all_hypotheses() -> dict[str, Hypothesis]:
    """Every hypothesis by id, in the order in which they are decided."""
    known = _find_built_in() | _REGISTERED
    return dict(sorted(known.items(), key=lambda item: (item[1].precedence, item[0])))


def load_hypothesis(name: str) -> Hypothesis:
    """Add the hypothesis that a name of code refers to.

    Raises:
        ExtensionError: its code cannot be loaded, or raises.
        ConfigError: see :func:`register`.
    """
    found = EXTENSION_POINT.load(name)
    with in_users_code(name):
        return register(found)


def digests() -> dict[str, str]:
    """SHA-256 of the source of each hypothesis from outside, for the record of an investigation."""
    found = {f"hypothesis {id}": source_digest(type(one)) for id, one in all_hypotheses().items()}
    return {name: digest for name, digest in found.items() if digest}


def register(hypothesis: object) -> Hypothesis:
    """Add a hypothesis from outside this package for the life of this process.

    The same class may be registered again, as when its file is loaded twice; the later object counts.

    Args:
        hypothesis: an object with the members of
            :class:`~etrm.investigation.hypotheses.hypothesis.Hypothesis`, or a class that makes one without arguments.

    Raises:
        ConfigError: it lacks a member, a member has the wrong type, or its id is taken.
    """
    made = check(hypothesis() if isinstance(hypothesis, type) else hypothesis)
    other = (_find_built_in() | _REGISTERED).get(made.id)
    if other is not None and _locate(other) != _locate(made):
        raise ConfigError(
            "hypothesis.id-taken",
            f"there is a hypothesis {made.id!r} already: {other.statement.title}",
            got=_locate(made),
            allowed="an id that no other hypothesis has",
            next_step=f"give it another id than {', '.join(all_hypotheses())}",
        )
    _REGISTERED[made.id] = made
    return made


def check(found: object) -> Hypothesis:
    """The object as a hypothesis.

    Raises:
        ConfigError: it lacks a member, or a member has the wrong type.
    """
    statement = getattr(found, "statement", None)
    if not isinstance(statement, Statement):
        raise _refuse(found, "statement", statement, "a Statement")
    if not ID.fullmatch(statement.id):
        raise _refuse(found, "statement.id", statement.id, "letters, digits, '-' and '_', a letter first")
    for name, kind in ATTRIBUTES.items():
        if not isinstance(value := getattr(found, name, None), kind):
            raise _refuse(found, name, value, kind.__name__)
    for name in METHODS:
        if not callable(value := getattr(found, name, None)):
            raise _refuse(found, name, value, "a method; derive the class from Hypothesis, which has one")
    if getattr(type(found), "decide", None) is Hypothesis.decide:
        raise _refuse(found, "decide", None, "a method decide(investigation) of its own")
    return found  # type: ignore[return-value]  # each member was checked


@cache
def _find_built_in() -> dict[str, Hypothesis]:
    modules = [import_module(f"{package.__name__}.{found.name}") for found in iter_modules(package.__path__)]
    objects = [check(module.HYPOTHESIS) for module in modules if hasattr(module, "HYPOTHESIS")]
    return {hypothesis.id: hypothesis for hypothesis in objects}


def _refuse(found: object, member: str, value: object, expected: str) -> ConfigError:
    name = getattr(found, "__name__", type(found).__name__)
    got = "nothing" if value is None else repr(value) if isinstance(value, str) else type(value).__name__
    return ConfigError(
        "hypothesis.invalid",
        f"{name} is not a hypothesis: its {member} is {'missing' if value is None else 'of the wrong kind'}",
        got=got,
        allowed=expected,
        next_step="derive the class from etrm.investigation.hypotheses.hypothesis.Hypothesis",
    )


def _locate(hypothesis: Hypothesis) -> str:
    """Where the class of a hypothesis is defined; the same for a file that is loaded twice."""
    kind = type(hypothesis)
    code = getattr(kind.decide, "__code__", None)
    return f"{code.co_filename if code else kind.__module__}:{kind.__qualname__}"
