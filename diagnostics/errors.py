"""The toolkit's own errors: each has a stable code, and the facts that its message states.

    except ValueError as error:  # every error derives from the built-in class that it always was
        if error.code == "selection.no-match": ...

Branch on `code` and `facts`, never on the message.
"""

from __future__ import annotations

from typing import Any


class ToolkitError(Exception):
    """Something that the caller can put right.

    Attributes:
        code: Stable name of the mistake, `<area>.<kind>`.
        facts: Values that the message states, by name.
    """

    def __init__(self, code: str, message: str, /, **facts: Any) -> None:
        """Make the error.

        Args:
            code: Name of the mistake.
            message: A sentence with the facts as fields in braces.
            facts: Value of each field, and of what else a program may want to know.
        """
        self.code = code
        self.facts = facts
        self._template = message
        super().__init__(message.format(**facts))

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show its repr

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.code, self._template, self.facts)


def _remade(kind: type[ToolkitError], code: str, message: str, facts: dict[str, Any]) -> ToolkitError:
    return kind(code, message, **facts)


class InvalidValue(ToolkitError, ValueError):
    """A value that is not allowed."""


class InvalidType(ToolkitError, TypeError):
    """A value of another type than is allowed."""


class UnknownName(ToolkitError, KeyError):
    """A name of something that does not exist."""


class NothingRecorded(ToolkitError, LookupError):
    """A result that does not exist yet."""


class WrongOrder(ToolkitError, RuntimeError):
    """A call that is not allowed in this state."""


def describe(error: Exception) -> str:
    """The class of an exception and the first line of its message, shortened."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"
