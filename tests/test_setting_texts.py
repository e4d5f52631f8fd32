"""Settings as text: what a value means, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from etrm.errors import ConfigError
from etrm.setting_texts import SIGNIFICANT, is_bare_word, merge, override, parse, quote, to_toml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
"""Any text but lone surrogates, which no file holds either."""
WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./:+,@~-]{0,30}", fullmatch=True).filter(
    lambda word: word.lower() not in ("none", "null", "true", "false", "inf", "nan")
)


def value_of(text: str) -> Any:
    return parse(f"data.source={text}")[1]


def code_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        value_of(text)
    return caught.value.code


@given(TEXTS)
def test_any_text_in_toml_quotes_is_that_text(text: str) -> None:
    assert value_of(quote(text)) == text
    assert value_of(f"  {quote(text)} ") == text


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="'")))
def test_any_text_in_literal_quotes_is_that_text(text: str) -> None:
    assert value_of(f"'{text}'") == text


@given(WORDS)
def test_a_bare_word_is_that_text(word: str) -> None:
    assert is_bare_word(word)
    assert value_of(word) == word


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_numbers_and_booleans_keep_type_and_value(value: object) -> None:
    found = value_of(str(value).lower())
    assert found == value
    assert type(found) is type(value)


@given(st.one_of(st.dates(), st.datetimes(), st.times()))
def test_dates_and_times_are_what_toml_makes_of_them(value: date | datetime | time) -> None:
    assert value_of(value.isoformat()) == value


@given(st.lists(st.one_of(TEXTS, st.integers(), st.booleans())))
def test_arrays_round_trip(values: list[object]) -> None:
    assert value_of(to_toml(values)) == values


@given(WORDS, st.sampled_from("\"'[]{}"), st.data())
def test_a_quote_or_bracket_without_its_other_half_is_refused(
    word: str, mark: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(word)))
    assert code_of(word[:at] + mark + word[at:]) == "config.unreadable-value"


@pytest.mark.parametrize("text", ["['a", "{a"])
def test_the_example_is_one_of_the_same_setting(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        value_of(text)
    setting = shlex.split(caught.value.next_step)[-1]
    name, value = parse(setting)
    assert name == "data.source"
    assert isinstance(value, dict if text.startswith("{") else list)


@given(st.text())
def test_any_value_is_toml_or_a_word_without_significant_characters_or_refused(text: str) -> None:
    try:
        value = value_of(text)
    except ConfigError:
        return
    stripped = text.strip()
    try:
        assert value == tomllib.loads(f"v = {stripped}")["v"] or value != value  # NaN
    except ValueError:
        if value is None:
            assert stripped.lower() in ("none", "null")
        else:
            assert value == stripped
            assert not re.search(r"""[\s"'\[\]{}=#\\]""", value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a\tb", "a\nb", "a=b", "a#b", "a\\b", "'a' # note", "3 # note", "'a', 'b'", "\ud800"],
)
def test_what_is_neither_toml_nor_a_word_is_refused(text: str) -> None:
    assert code_of(text) == "config.unreadable-value"


def test_several_lines_are_refused() -> None:
    assert code_of("3\ntrain.lr = 1") == "config.several-lines"


@pytest.mark.parametrize("text", ["none", "NONE", "Null", " none "])
def test_none_is_the_absence_of_a_value(text: str) -> None:
    assert value_of(text) is None


def test_the_error_has_the_setting_the_text_and_a_command_that_works() -> None:
    with pytest.raises(ConfigError) as caught:
        override({}, ("train.decoder='runs/it's here'",))
    assert caught.value.code == "config.unreadable-value"
    assert "'train.decoder'" in caught.value.what
    assert caught.value.got == repr("'runs/it's here'")
    option, setting = shlex.split(caught.value.next_step)
    assert option == "--set"
    assert override({}, (setting,)) == {"train": {"decoder": "runs/it's here"}}


@given(st.text(st.characters(exclude_categories=["C"])))
def test_the_command_that_is_offered_always_works(text: str) -> None:
    assume(not text.strip().startswith(("[", "{")))
    try:
        value_of(text)
    except ConfigError as error:
        assume(error.code == "config.unreadable-value")
        _, setting = shlex.split(error.next_step)
        assert parse(setting) == ("data.source", text.strip().strip("\"'"))


@given(st.text(), st.text())
@example("a", "\udcff")
@example("\udcff", "b c")
@example("preset", "\udcff")
def test_every_refusal_can_be_printed(name: str, text: str) -> None:
    try:
        parse(f"{name}={text}")
    except ConfigError as error:
        str(error).encode()


@pytest.mark.parametrize("text", ["preset=smoke", " preset = 'smoke'", "preset=''", "preset=[1]"])
def test_a_preset_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override({}, (text,))
    assert caught.value.code == "config.preset-as-setting"
    assert caught.value.next_step == ("--preset smoke" if "smoke" in text else "--preset NAME")


def test_significant_characters_are_no_part_of_a_bare_word() -> None:
    assert [character for character in SIGNIFICANT if is_bare_word(f"a{character}b")] == []


def test_a_merge_keeps_what_only_one_has_and_replaces_values() -> None:
    tree = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    before = json.dumps(tree)
    assert merge(tree, {"b": {"d": {"f": 4}, "c": {"g": 5}}, "h": 6}) == {
        "a": 1,
        "b": {"c": {"g": 5}, "d": {"e": 3, "f": 4}},
        "h": 6,
    }
    assert merge(tree, {"b": 7}) == {"a": 1, "b": 7}
    assert json.dumps(tree) == before
