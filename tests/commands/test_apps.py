"""The help of every command in a terminal of 80 columns, and the groups in which commands stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from etrm.commands import app
from etrm.commands.apps import BENCHMARKS, FILES, FOLLOW, INVESTIGATE, TRAIN, join_lines


def command_lines(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = typer.main.get_command(app) if command is None else command
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from command_lines(below, (*words, name))


def show_help(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_the_help_of_a_command_fits_80_columns_and_nothing_is_cut(words: tuple[str, ...]) -> None:
    text = show_help(*words)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    names = {name for name in text.split() if name.startswith("--")}
    declared = {name for param in find(words).params for name in (*param.opts, *param.secondary_opts)}
    assert {name for name in declared if name.startswith("--")} <= names


def find(words: tuple[str, ...]) -> Any:
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return command


def test_every_command_is_in_a_group() -> None:
    lines = show_help().splitlines()
    heads = [line for line in lines if line.startswith("╭─")]
    assert [head.strip("╭╮─ ") for head in heads] == [
        "Options",
        INVESTIGATE,
        TRAIN,
        FOLLOW,
        FILES,
        BENCHMARKS,
    ]


def test_lines_are_joined_but_not_those_of_code() -> None:
    text = "Do\n    it.\n\n    More of\n    it:\n\n    \b\n        x = 1\n        y = 2\n"
    assert join_lines(text) == "Do it.\n\nMore of it:\n\n\b\n    x = 1\n    y = 2"
