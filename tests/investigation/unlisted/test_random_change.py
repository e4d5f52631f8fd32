"""Drawn changes: the same for the same seed, of every stage, and valid programs."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from etrm.config import load
from etrm.installation import ROOT
from etrm.investigation.unlisted import changed_code
from etrm.investigation.unlisted.changed_copy import Insertion, insert
from etrm.investigation.unlisted.places import CodePlace, list_places
from etrm.investigation.unlisted.random_change import AFTER_GRADIENT, RandomChange, draw_change
from etrm.investigation.unlisted.stages import HYPOTHESES

SEEDS = range(120)
STEPS = 20
TENSOR = {"kind": "floats", "shape": [4, 3], "grad": True}
TYPES: Sequence[Mapping[str, Any]] = (
    TENSOR,
    {"kind": "int", "value": 3},
    {"kind": "list", "length": 2, "value": None, "parts": {"0": TENSOR, "1": {"kind": "int", "value": 1}}},
    {"kind": "bool", "value": True},
)


@pytest.fixture(scope="module")
def places() -> list[CodePlace]:
    return list_places(ROOT)


def profile_of(places: Sequence[CodePlace]) -> dict[str, dict[str, Any]]:
    return {
        place.key: {"calls": 50, "in_steps": 50, "types": [TYPES[number % len(TYPES)]]}
        for number, place in enumerate(places)
    }


@pytest.fixture(scope="module")
def drawn(places: list[CodePlace]) -> list[RandomChange]:
    profiles = [profile_of(places)] * 2
    return [draw_change(seed, places, profiles, STEPS, [1, 2]) for seed in SEEDS]


def test_a_seed_draws_the_same_change(places: list[CodePlace], drawn: list[RandomChange]) -> None:
    profiles = [profile_of(places)] * 2
    again = [draw_change(seed, places, profiles, STEPS, [1, 2]) for seed in SEEDS[:20]]
    assert again == drawn[:20]
    assert len({change.place.key for change in drawn}) > len(SEEDS) / 2


def test_a_seed_draws_the_same_place_after_an_edit_elsewhere(
    places: list[CodePlace], drawn: list[RandomChange]
) -> None:
    """Keys without the function of the last seed's place, as if it had been rewritten."""
    gone = drawn[0].place.function
    profile = {key: entry for key, entry in profile_of(places).items() if f"|{gone}|" not in key}
    left = [place for place in places if place.function != gone]
    for change in drawn[1:40]:
        if change.place.function != gone:
            again = draw_change(change.seed, left, [profile] * 2, STEPS, [1, 2])
            assert again.place.key == change.place.key


def test_every_stage_kind_and_limit_is_drawn(drawn: list[RandomChange]) -> None:
    assert {change.stages[0] for change in drawn} == set(HYPOTHESES)
    assert {change.edit.how for change in drawn} >= {"scale", "roll", "detach", "delay", "skip", "twice"}
    assert {change.edit.how for change in drawn} <= {*changed_code.CHANGES, "delay", "skip", "twice"}
    assert any(change.row is not None for change in drawn)
    operators = {change.when.rstrip("0123456789") for change in drawn}
    assert operators >= {"", "step>=", "step<", "step%", "bucket=", "call%"}
    unlimited = [change for change in drawn if not change.when and change.row is None]
    assert len(unlimited) > len(drawn) / 3


def test_a_changed_file_is_a_valid_program(drawn: list[RandomChange]) -> None:
    for change in drawn:
        source = (ROOT / change.place.path).read_bytes()
        before, after = change.texts
        texts = [Insertion(change.place.start, 0, before), Insertion(change.place.end, 1, after)]
        ast.parse(insert(source, texts))


def test_the_right_hypotheses_are_those_of_the_stages(drawn: list[RandomChange]) -> None:
    for change in drawn:
        assert change.expected == tuple(
            dict.fromkeys(id for stage in change.stages for id in HYPOTHESES[stage])
        )
        if change.edit.how == "detach" and change.place.row.stages[0] not in AFTER_GRADIENT:
            assert change.expected == ("H2",)
        else:
            assert change.stages[0] == change.place.row.stages[0]


def test_a_setting_is_replaced_by_another_value(places: list[CodePlace]) -> None:
    place = next(place for place in places if place.text == "config.warmup_steps")
    profile = {place.key: {"calls": 1, "in_steps": 1, "types": [{"kind": "int", "value": 2}]}}
    found = {draw_change(seed, [place], [profile], STEPS, [1]).edit for seed in range(30)}
    assert {edit.how for edit in found} == {"constant"}
    assert {edit.options[0] for edit in found} == {load().train.warmup_steps, 1, 3}


def test_a_description_is_a_line(drawn: list[RandomChange]) -> None:
    for change in drawn:
        assert "\n" not in change.description
        assert f"{change.place.path}:{change.place.line} {change.place.function}" in change.description
