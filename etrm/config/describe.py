"""Descriptions of all settings (default, allowed values, meaning), read from the fields of the config classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from etrm.config.code_names import CODE_FORM, Named
from etrm.config.section import Section
from etrm.config.tree import Config

_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    NoneType: "none",
}


@dataclass(frozen=True)
class Bounds:
    """The bounds of a number, with pydantic's names (``ge``: greater or equal); ``None`` for no bound."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __str__(self) -> str:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        limits = ((signs[limit.name], getattr(self, limit.name)) for limit in fields(self))
        return ", ".join(f"{sign} {limit}" for sign, limit in limits if limit is not None)


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: the dotted name, as ``--set`` takes it.
        default: the value without a preset or a file, in JSON's types.
        values: the types, choices and bounds of its values, in words.
        choices: the allowed words; empty if any text or number is allowed.
        bounds: the bounds of a number.
        optional: whether the value may be ``none``.
        description: the meaning of the setting.
    """

    name: str
    default: Any
    values: str
    choices: tuple[str, ...]
    bounds: Bounds
    optional: bool
    description: str


@dataclass(frozen=True)
class SectionDescription:
    """A section of the config: its dotted name, its summary, and its settings without those of its sub-sections."""

    name: str
    summary: str
    settings: tuple[Setting, ...]


@lru_cache
def list_sections() -> tuple[SectionDescription, ...]:
    """Return every section with its settings; the first one holds the settings outside any section."""
    return tuple(_sections(Config, ""))


@lru_cache
def list_settings() -> dict[str, Setting]:
    """Return every setting by its dotted name, section by section."""
    return {setting.name: setting for section in list_sections() for setting in section.settings}


def _sections(section: type[Section], prefix: str) -> Iterator[SectionDescription]:
    members = section.model_fields
    below = {name: kind for name, field in members.items() if _is_section(kind := field.annotation)}
    own = tuple(_setting(prefix + name, field) for name, field in members.items() if name not in below)
    summary = inspect.cleandoc(section.__doc__ or "").splitlines()[0]
    yield SectionDescription(prefix.removesuffix("."), summary, own)
    for name, kind in below.items():
        yield from _sections(kind, f"{prefix}{name}.")


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _setting(name: str, field: FieldInfo) -> Setting:
    bounds = _bounds(field.metadata)
    kinds = _alternatives(field.annotation)
    for kind in kinds:
        if get_origin(kind) is Annotated:
            bounds = _bounds(get_args(kind)[1:])
    bare = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    named = next((item for item in field.metadata if isinstance(item, Named)), None)
    words = [word for kind in bare for word in _in_words(kind, bounds)]
    if named is not None and named.choices:
        words = [*named.choices, CODE_FORM]
    choices = named.choices if named is not None else tuple(word for kind in bare for word in _choices(kind))
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return Setting(
        name=name,
        default=default,
        values=_listed(words),
        choices=choices,
        bounds=bounds,
        optional=NoneType in bare,
        description=field.description or "",
    )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _bounds(metadata: Sequence[Any]) -> Bounds:
    """Return the bounds that annotations, or the fields inside them, state."""
    found: dict[str, float] = {}
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else (item,):
            found |= {f.name: getattr(part, f.name) for f in fields(Bounds) if hasattr(part, f.name)}
    return Bounds(**found)


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is tuple:
        return _choices(get_args(kind)[0])
    return get_args(kind) if get_origin(kind) is Literal else ()


def _in_words(kind: Any, bounds: Bounds) -> tuple[str, ...]:
    """Return the values of one type in words: ``integer >= 1``; ``adam_atan2``, ``adamw``; ``list of texts``.

    A list of named tuples is a list of lists of their fields: ``list of [max_side, steps]``.
    """
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if names := getattr(inner, "_fields", ()):
            return (f"list of [{', '.join(names)}]",)
        bare, *metadata = get_args(inner) if get_origin(inner) is Annotated else (inner,)
        if bare is int:
            return (f"list of integers {_bounds(metadata)}".strip(),)
        return ("list of texts" if bare is str else f"list of {_listed(_choices(inner))}",)
    if get_origin(kind) is Literal:
        return _choices(kind)
    limits = str(bounds) if kind in (int, float) else ""
    return (f"{_TYPES[kind]} {limits}".strip(),)
