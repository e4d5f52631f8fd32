from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rich.console import Console, RenderableType

from etrm.data import TaskSet
from etrm.data.draw import COLOUR_HEX, COLOUR_NAMES, draw_grid, draw_task


def show(item: RenderableType, colour: str | None) -> str:
    console = Console(width=120, color_system=colour, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        console.print(item)
    return capture.get()


def test_digits_stand_in_where_there_is_no_colour() -> None:
    assert show(draw_grid(np.array([[0, 1], [2, 9]])), None).split() == ["0", "1", "2", "9"]


def test_cells_are_two_spaces_on_their_colour() -> None:
    text = show(draw_grid(np.array([[2, 1]])), "truecolor")
    assert text == "\x1b[48;2;255;65;54m  \x1b[0m\x1b[48;2;0;116;217m  \x1b[0m\n"


def test_there_are_ten_colours() -> None:
    assert len(set(COLOUR_HEX)) == len(set(COLOUR_NAMES)) == 10


def test_a_task_shows_every_pair_and_hides_answers_on_request(published: Callable[..., TaskSet]) -> None:
    task = published("arc-agi-1").get("007bbfb7")
    text = show(draw_task(task), None)
    assert "007bbfb7: 5 demos, 1 tests" in text
    assert text.count("3x3") == 6
    assert text.count("9x9") == 6
    assert "7 0 7" in text
    hidden = show(draw_task(task, answers=False), None)
    assert (hidden.count("9x9"), hidden.count("?")) == (5, 1)
    assert "7 " not in show(draw_task(task), "truecolor").replace("007bbfb7", "")
