"""An extension point: a kind of object that code from outside can add, and the check of such an object."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from etrm.errors import ExtensionError
from etrm.extensions.loading import load_entry_point, load_object
from etrm.extensions.names import FORMS, parse, registered

T = TypeVar("T")


@dataclass(frozen=True)
class ExtensionPoint(Generic[T]):
    """A kind of object that can be added from outside.

    Attributes:
        kind: the name after ``etrm.`` in the group of its entry points, e.g. ``encoders``.
        noun: the noun for such an object in errors.
        expected: a description of a valid object.
        fits: a function that returns whether an object is valid.
    """

    kind: str
    noun: str
    expected: str
    fits: Callable[[Any], bool]

    def find(self, name: str, built_in: Mapping[str, T]) -> T:
        """Return the built-in object of a name, or the object that a name of code refers to.

        Raises:
            ExtensionError: there is no such name, its code cannot be loaded or may not run, or it is something else.
        """
        return built_in[name] if name in built_in else self.load(name, built_in)

    def takes(self, name: str) -> bool:
        """Return whether a text is a name of code, or an entry point of this kind."""
        return parse(name) is not None or name in registered(self.kind)

    def load(self, name: str, known: Mapping[str, Any] | None = None) -> T:
        """Return the object that a name of code refers to; ``known`` are the built-in names, for the error.

        Raises:
            ExtensionError: see :meth:`find`.
        """
        points = registered(self.kind)
        if name in points:
            found = load_entry_point(points[name])
        else:
            code = parse(name)
            if code is None:
                raise self._unknown(name, [*(known or ()), *points])
            found = load_object(code)
        if not self.fits(found):
            raise self.wrong(name, describe(found))
        return cast(T, found)

    def wrong(self, name: str, got: str, expected: str = "") -> ExtensionError:
        """Return the error for an object that is not valid here, or that returned something invalid.

        Args:
            name: the name of the code.
            got: a description of what was found.
            expected: a description of what is expected; by default that of an object of this kind.
        """
        return ExtensionError(
            "extension.wrong-object",
            f"{name} is not a valid {self.noun}",
            got=got,
            allowed=expected or self.expected,
        )

    def _unknown(self, name: str, known: list[str]) -> ExtensionError:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        return ExtensionError(
            "extension.unknown-name",
            f"unknown {self.noun} {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            allowed=", ".join((*known, FORMS)),
            next_step=f"append the name of the object: {name}:Name" if name.endswith(".py") else "",
        )


def describe(thing: object) -> str:
    """Return a short description of an object, for an error."""
    if isinstance(thing, type):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        return f"the class {thing.__name__}({bases})"
    if callable(thing) and hasattr(thing, "__name__"):
        return f"the function {thing.__name__}"
    shown = " ".join(repr(thing).split())
    return f"an object of type {type(thing).__name__}: {shown if len(shown) < 80 else shown[:77] + '...'}"
