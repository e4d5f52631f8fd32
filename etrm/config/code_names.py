"""Settings that may name code from outside, and the code that a config names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from etrm.extensions import absolute, parse, registered
from etrm.setting_texts import flatten
from etrm.setting_texts import parse as parse_setting

SETTINGS = {
    "model.encoder.kind": "encoders",
    "model.variant": "variants",
    "data.source": "data_sources",
    "evaluate.source": "data_sources",
    "faults": "faults",
    "monitor.rules": "rules",
}
"""Settings whose words may name code, and the kind of it."""
CODE_FORM = "FILE.py:NAME"
RULES = "rules"
"""The source name of the rule family (``etrm.data.rules``); ``rules:PART`` selects some of its rules."""


def is_rules(source: str) -> bool:
    """Return whether a source is the rule family."""
    return source.partition(":")[0] == RULES


@dataclass(frozen=True)
class Named:
    """The annotation of a text that is one of some words, or names code.

    Attributes:
        kind: the kind of the code, as in :class:`etrm.extensions.ExtensionPoint`.
        choices: built-in words; empty where any text may be one, and only paths are made absolute.
    """

    kind: str
    choices: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, text: str) -> str:
        if text in self.choices or not self.choices:
            return absolute(text)
        if parse(text) is not None or text in registered(self.kind):
            return absolute(text)
        known = (*self.choices, *registered(self.kind))
        close = difflib.get_close_matches(text, known, n=1)
        raise PydanticCustomError(
            "unknown_name",
            "Input should be {words}",
            {
                "words": ", ".join(map(repr, known))
                + f", or {CODE_FORM}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            },
        )


def named_code(settings: Mapping[str, Any]) -> list[str]:
    """The names of code in settings: of a whole config as a tree, or of some settings by dotted name.

    Interventions are settings too, and may name code.
    """
    return list(dict.fromkeys(_found(flatten(dict(settings)))))


def _found(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        texts = value if isinstance(value, (list, tuple)) else [value]
        for text in texts:
            if not isinstance(text, str):
                continue
            if name == "interventions":
                inner, changed = parse_setting(text)
                yield from _found(flatten({inner: changed}))
            elif name in SETTINGS and _is_code(name, text):
                yield absolute(text)


def _is_code(name: str, text: str) -> bool:
    return parse(text) is not None and not (SETTINGS[name] == "data_sources" and is_rules(text))
