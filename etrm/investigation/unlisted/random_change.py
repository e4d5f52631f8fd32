"""Draw a random change of the code: a pure function of the places, of the values that they have, and of a seed."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from etrm.config import Config
from etrm.config.section import Section
from etrm.investigation.unlisted.places import CodePlace
from etrm.investigation.unlisted.stages import HYPOTHESES

Profile = Mapping[str, Mapping[str, Any]]
"""The calls and types of values of the places that a run reaches, by their keys."""
OUTSIDE_TRAINING = frozenset({"queries", "weights", "answers", "votes", "score", "loading"})
"""Stages without a step of training."""
AFTER_GRADIENT = frozenset({"schedule", "clipping", "update", "average"})
"""Stages of training in which a value has no gradient to lose: what is detached there loses its use."""
REACHED = 5
"""A variation is drawn for a stage if it reaches at least 1/5 of the places that another one reaches."""
FACTORS = (0.5, 0.9, 1.1, 2.0, -1.0, 10.0)  # from barely visible to grave
SETTING = re.compile(r"\b(config|train|data|model|halt|encoder|evaluate|layout|section|group)\.(\w+)$")
"""A read of a setting, by the names that the code gives to sections."""


class Edit(NamedTuple):
    """A change of a value, as :func:`etrm.investigation.unlisted.changed_code.change` takes it."""

    how: str
    options: tuple[Any, ...] = ()
    at: str | int | None = None
    whole: bool = True


@dataclass(frozen=True)
class RandomChange:
    """A drawn change.

    Attributes:
        seed: the seed.
        place: the place.
        stages: the stages at which the run departs, most exact first.
        edit: the change of the value; ``skip`` and ``twice`` of a call.
        when: the calls in which it acts, see :func:`etrm.investigation.unlisted.changed_code.applies`.
        row: the only row that it changes, or None.
        variation: the index of the settings of the config that is investigated.
    """

    seed: int
    place: CodePlace
    stages: tuple[str, ...]
    edit: Edit
    when: str
    row: int | None
    variation: int

    @property
    def expected(self) -> tuple[str, ...]:
        """The hypotheses that are right."""
        return tuple(dict.fromkeys(id for stage in self.stages for id in HYPOTHESES[stage]))

    @property
    def texts(self) -> tuple[str, str]:
        """The texts to put before and after the place."""
        limit = f'"{self.when}"' if self.when else ""
        if self.edit.how == "skip":
            return (f"changed_code.applies({limit or repr('')}) or ", "")
        if self.edit.how == "twice":
            return ("", f"; changed_code.applies({limit or repr('')}) and {self.place.text}")
        arguments = [repr(self.edit.how), *map(repr, self.edit.options)]
        arguments += [f"when={self.when!r}"] if self.when else []
        arguments += [f"at={self.edit.at!r}"] if self.edit.at is not None else []
        arguments += [f"row={self.row}"] if self.row is not None else []
        return "changed_code.change(", f", {', '.join(arguments)})"

    @property
    def knows_step(self) -> bool:
        """Whether it must know the step of training."""
        return bool(self.when) or self.edit.how == "delay"

    @property
    def description(self) -> str:
        """A line that names the place and the change."""
        what = " ".join([self.edit.how, *map(str, self.edit.options)])
        part = "" if self.edit.at is None else f" part {self.edit.at}"
        limits = [self.when] if self.when else []
        limits += [f"row {self.row}"] if self.row is not None else []
        text = " ".join(self.place.text.split())
        text = text if len(text) <= 60 else f"{text[:57]}..."
        where = f"{self.place.path}:{self.place.line} {self.place.function}"
        return f"{where}: {text}{part}: {what}{' (' + ', '.join(limits) + ')' if limits else ''}"


def draw_change(
    seed: int, places: Sequence[CodePlace], profiles: Sequence[Profile], steps: int, buckets: Sequence[int]
) -> RandomChange:
    """Draw the change of a seed.

    A change in other parts of the source leaves it as it is: the place is the one whose key has the smallest hash.

    Args:
        seed: the seed.
        places: all places of the source.
        profiles: the profile of the config with each of the variations.
        steps: the number of training steps.
        buckets: the number of buckets of each variation.
    """
    rng = random.Random(f"unlisted {seed}")
    stages = list(HYPOTHESES)
    rng.shuffle(stages)
    for stage in stages:  # no variation may reach a place of a stage
        reached = [
            [place for place in places if place.key in profile and _edits(place, profile, stage)]
            for profile in profiles
        ]
        most = max(map(len, reached))
        if most:
            break
    variation = rng.choice([n for n, found in enumerate(reached) if len(found) * REACHED >= most])
    profile, found = profiles[variation], reached[variation]
    place = min(found, key=lambda place: _hash(seed, place.key))
    rng = random.Random(f"unlisted {seed} {place.key}")
    edits = _edits(place, profile, stage)
    how = rng.choice(sorted({edit.how for edit in edits}))
    edit = rng.choice([edit for edit in edits if edit.how == how])
    if edit.how == "detach" and place.row.stages[0] not in AFTER_GRADIENT:
        right: tuple[str, ...] = ("gradient",)
    else:
        found_grad = any(found.get("grad") for found in profile[place.key]["types"])
        # A rounded value has no gradient either.
        right = (*place.row.stages, *(("gradient",) if edit.how == "round" and found_grad else ()))
    when, row = _limits(rng, stage, edit, profile[place.key], steps, buckets[variation])
    return RandomChange(seed, place, tuple(dict.fromkeys(right)), edit, when, row, variation)


def _hash(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def _edits(place: CodePlace, profile: Profile, stage: str) -> list[Edit]:
    """The changes of a place that are faults of a stage."""
    first = place.row.stages[0]
    detached = stage == "gradient" and first not in ("gradient", *OUTSIDE_TRAINING)
    if stage != first and not detached:
        return []
    if place.role == "call":
        return [] if detached else [Edit("skip"), Edit("twice")]
    types = [found for found in profile[place.key]["types"] if found["kind"] not in ("other",)]
    if not types:
        return []
    edits = _of_setting(place, types[0]) or _of_type(types[0], place.role == "unpacked")
    if place.text.lstrip("-").replace(".", "").isdecimal():
        edits = [edit for edit in edits if edit.how != "delay"]  # a constant is what it was
    return [edit for edit in edits if (edit.how == "detach") == detached]


def _of_type(found: Mapping[str, Any], unpacked: bool) -> list[Edit]:
    edits: list[Edit] = [] if unpacked else _of_value(found)
    for name, part in found.get("parts", {}).items():
        at = int(name) if found["kind"] == "list" else name
        edits += [edit._replace(at=at, whole=False) for edit in _of_value(part) if part["kind"] != "list"]
    return edits


def _of_value(found: Mapping[str, Any]) -> list[Edit]:
    kind = found["kind"]
    if kind in ("floats", "integers", "bools"):
        return _of_tensor(kind, found["shape"], found["grad"])
    if kind == "list":
        return _of_list(found["length"])
    if kind == "bool":
        return [Edit("negate"), Edit("constant", (not found["value"],))]
    if kind == "int":
        return [Edit("add", (1,)), Edit("add", (-1,)), Edit("delay")]
    if kind == "float":
        scaled = [Edit("scale", (factor,)) for factor in FACTORS]
        return [*scaled, Edit("constant", (0.0,)), Edit("delay")]
    return [Edit("delay")] if kind == "object" else []


def _of_tensor(kind: str, shape: Sequence[int], grad: bool) -> list[Edit]:
    edits = [Edit("roll", (dim,)) for dim, size in enumerate(shape) if size > 1]
    edits += [Edit("swap")] if shape and shape[0] > 1 else []
    edits += [Edit("delay"), Edit("fill", (0,))]
    if kind == "floats":
        edits += [*(Edit("scale", (factor,)) for factor in FACTORS), Edit("round", (0,)), Edit("round", (1,))]
    if kind == "integers":
        edits += [Edit("add", (1,)), Edit("add", (-1,))]
    if kind == "bools":
        edits += [Edit("negate"), Edit("fill", (1,))]
    return [*edits, Edit("detach")] if grad else edits


def _of_list(length: int) -> list[Edit]:
    if length < 2:
        return [Edit("delay")]
    return [Edit("first"), Edit("last"), Edit("backwards"), Edit("roll", (0,)), Edit("delay")]


def _of_setting(place: CodePlace, found: Mapping[str, Any]) -> list[Edit]:
    """Other values of a setting that is read here; none if this is no read of a setting."""
    match = SETTING.search(place.text)
    field = _field(match[2]) if match and "value" in found else None
    if field is None:
        return []
    value = found["value"]
    others = [] if field.is_required() else [field.get_default(call_default_factory=True)]
    others += get_args(field.annotation) if get_origin(field.annotation) is Literal else []
    if isinstance(value, bool):
        others.append(not value)
    elif isinstance(value, int):
        others += [value + 1, max(1, value // 2)]
    elif isinstance(value, float):
        others += [value * 2, value / 10]
    return [Edit("constant", (other,)) for other in others if other != value]


def _field(name: str) -> FieldInfo | None:
    """The setting of that name in some section of a config."""
    waiting: list[type[Section]] = [Config]
    while waiting:
        section = waiting.pop()
        for its, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                waiting.append(field.annotation)
            elif its == name:
                return field
    return None


def _limits(
    rng: random.Random, stage: str, edit: Edit, entry: Mapping[str, Any], steps: int, buckets: int
) -> tuple[str, int | None]:
    """When and in which row the change acts; in half of the cases always and in all rows."""
    shape: Sequence[int] = next((found["shape"] for found in entry["types"] if "shape" in found), [])
    kinds = ["always"] * 4
    kinds += (
        ["row"]
        if edit.whole
        and len(shape) > 0
        and shape[0] > 1
        and edit.how not in ("detach", "swap", "skip", "twice")
        else []
    )
    if stage in OUTSIDE_TRAINING or not entry["in_steps"]:
        kinds += ["call%"] if entry["calls"] > 2 else []
    else:
        kinds += ["step>=", "step>=", "step%", "step<"]
        kinds += ["call>="] if entry["calls"] > 2 * steps else []
        kinds += ["bucket="] if buckets > 1 else []
    kind = rng.choice(kinds)
    numbers = {
        "step>=": range(2, max(3, steps - 1)),
        "step<": range(2, 6),
        "step%": range(2, 5),
        "call%": range(2, 4),
        "call>=": range(2, max(3, entry["calls"] // 2)),
        "bucket=": range(buckets),
    }
    if kind == "row":
        return "", rng.randrange(min(shape[0], 8))
    return (f"{kind}{rng.choice(numbers[kind])}", None) if kind in numbers else ("", None)
