from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console, RenderableType

from etrm.config import DataConfig
from etrm.data import Episodes, Task, TaskSet, build_evaluation_samples
from etrm.data.augment import TRANSFORMS, dihedral
from etrm.data.episodes import build_episode
from etrm.data.sample import Query, Sample
from etrm.errors import DataError
from reports.grid_drawing import COLOUR_HEX, COLOUR_NAMES, DrawnCanvas, draw_episode, draw_grid, draw_task
from tests.errors import raises_code


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


MOVED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unchanged": lambda grid: grid,
    "rotated by 90 degrees counter-clockwise": lambda grid: np.rot90(grid),
    "rotated by 180 degrees": lambda grid: np.rot90(grid, 2),
    "rotated by 90 degrees clockwise": lambda grid: np.rot90(grid, -1),
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "transposed": np.transpose,
    "transposed, then rotated by 180 degrees": lambda grid: np.rot90(np.transpose(grid), 2),
}


def test_the_words_of_every_transform_are_what_it_does() -> None:
    grid = np.arange(6).reshape(2, 3)
    for number, (words, move) in enumerate(MOVED.items()):
        assert TRANSFORMS[number] == words
        np.testing.assert_array_equal(dihedral(grid, number), move(grid))


def grids_of(text: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits left and right of the arrow in the row of that label."""
    rows: list[tuple[list[str], list[str]]] = []
    lines = iter(text.splitlines())
    head = next(line for line in lines if line.startswith(label) and ("→" in line or "←" in line))
    arrow = max(head.find("→"), head.find("←"))
    for line in lines:
        if not line.startswith(" ") or not line.strip():
            break
        rows.append((line[:arrow].split(), line[arrow:].split()))
    left, right = ([[int(c) for c in row if c.isdigit()] for row in side] for side in zip(*rows, strict=True))
    return np.array([row for row in left if row]), np.array([row for row in right if row])


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("query", [0, 1])
def test_an_episode_is_what_the_words_above_it_say(
    make_task: Callable[..., Task], number: int, query: int
) -> None:
    """The words are done to the task with numpy, and found in the drawing; the inverse gives the task."""
    task = make_task("task", demos=3, seed=number)
    asked, sample = build_episode(task, query, number, seed=7)
    text = show(draw_episode(sample, asked), None)
    done = text.split("augmentation: ")[1].splitlines()[0]
    how, _, colours = done.partition("; colours ")
    table = np.arange(10)
    for change in colours.replace("kept", "").split():
        old, new = change.split("→")
        table[int(old)] = int(new)
    pairs = [*task.demos[1:], task.demos[0]] if query else [*task.demos, task.tests[0]]
    labels = [*(f"demo {i}" for i in range(len(pairs) - 1)), "query"]
    for label, pair in zip(labels, pairs, strict=True):
        left, right = grids_of(text, label)
        np.testing.assert_array_equal(left, MOVED[how](table[pair.input]))
        if label != "query":
            np.testing.assert_array_equal(right, MOVED[how](table[pair.output]))
    assert grids_of(text, "query")[1].size == 0  # the target is hidden there
    target, back = grids_of(text, "target")
    np.testing.assert_array_equal(target, MOVED[how](table[pairs[-1].output]))
    np.testing.assert_array_equal(back, pairs[-1].output)
    grids = 2 * len(pairs)
    assert f"{grids} of {grids} grids exactly" in text
    assert ("left-out demonstration, with 2 of 3" if query else "test pair, with 3 of 3") in text
    assert text.startswith(f"{sample.name}\n")


def test_an_episode_is_the_one_that_evaluation_asks(
    small_set: TaskSet, as_plain: Callable[[Sample], dict[str, object]]
) -> None:
    asked = build_evaluation_samples(small_set, DataConfig(), 5, seed=3)
    for sample in asked:
        number = sample.serial % 5
        _, found = build_episode(small_set.get(sample.task_id), sample.query, number, seed=3)
        assert as_plain(found) | {"serial": sample.serial} == as_plain(sample)


@pytest.mark.parametrize("canvas", ["region", "published"])
def test_shifted_and_fresh_episodes_are_read_back_too(small_set: TaskSet, canvas: str) -> None:
    data = DataConfig(augmentations="fresh", translate=9, canvas=canvas)  # type: ignore[arg-type]
    episodes = Episodes(small_set, data, "etrm", seed=0)
    for bucket in range(episodes.buckets):
        for index in range(6):
            sample = episodes.sample(bucket, index)
            query = next(
                one for one in episodes.queries if (one.task.id, one.index) == (sample.task_id, sample.query)
            )
            text = show(draw_episode(sample, query), None)
            grids = 2 * len(sample.demos) + 2
            assert f"{grids} of {grids} grids exactly" in text


def test_grids_that_the_inverse_does_not_give_back_are_counted(make_task: Callable[..., Task]) -> None:
    task, other = make_task("task"), make_task("other")
    asked, sample = build_episode(task, 0, 3, seed=0)
    mixed = Task("task", (task.demos[0], *other.demos[1:]), task.tests)
    wrong = Query(mixed, 0, 0, asked.pair, mixed.demos)
    assert "4 of 8 grids exactly" in show(draw_episode(sample, wrong), None)


def test_a_target_that_nobody_knows_is_said_to_be_unknown(make_task: Callable[..., Task]) -> None:
    task = make_task("task")
    unknown = Task("task", task.demos, (type(task.tests[0])(task.tests[0].input, None),))
    asked, sample = build_episode(unknown, 0, 1, seed=0)
    text = show(draw_episode(sample, asked), None)
    assert "target  unknown" in text
    assert "7 of 7 grids exactly" in text


def test_a_query_that_a_task_has_not_is_refused(make_task: Callable[..., Task]) -> None:
    with raises_code(DataError, "data.unknown-query", 4, "0 to 3"):
        build_episode(make_task("task"), 4, 0, seed=0)


def test_marks_of_rows_and_padding_stand_next_to_the_colours() -> None:
    canvas = np.array([[4, 1], [1, 0]], dtype=np.int16)
    assert show(DrawnCanvas(canvas), None) == "2 + \n+ . \n"
    assert show(DrawnCanvas(canvas), "truecolor").startswith("\x1b[48;2;255;65;54m  \x1b[0m\x1b[2m+ ")
