"""What is drawn is what evaluation scores, and what is marked is what differs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from etrm.config import Changes
from etrm.errors import DataError
from etrm.evaluation import Candidate
from etrm.training.scoring.score_run import score_run
from reports.plots.prediction_drawing import as_png, in_terminal
from reports.runs.predictions import Answered, find_wrong_cells, read_predictions
from tests.errors import raises_code


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_each_answer_is_the_one_that_evaluate_scores(trained: Path, weights: str) -> None:
    setting: Changes = {"evaluate": {"weights": weights}}
    scored = score_run(trained, setting).model
    _, answers = read_predictions(trained, setting, tasks=100)
    assert len(answers) == len(scored.queries) == 8
    for one in answers:
        first = scored.candidates[one.task.id][one.query][0]
        assert one.answer is not None
        assert np.array_equal(one.grid, first.grid)
        assert (one.answer.votes, one.answer.halting) == (first.votes, first.halting)
        assert one.result in scored.queries
    solved = {name: [o.solved for o in answers if o.task.id == name] for name in {o.task.id for o in answers}}
    assert scored.pass_at[1].score == pytest.approx(np.mean([np.mean(each) for each in solved.values()]))


def test_a_task_alone_gets_the_answer_that_it_gets_among_all(trained: Path) -> None:
    _, everything = read_predictions(trained, tasks=100)
    _, chosen = read_predictions(trained, only=["task102"])
    assert [(one.task.id, one.query) for one in chosen] == [("task102", 0), ("task102", 1)]
    same = [one for one in everything if one.task.id == "task102"]
    assert all(np.array_equal(a.grid, b.grid) for a, b in zip(chosen, same, strict=True))


def test_the_first_tasks_by_id_are_drawn_and_a_foreign_one_is_named(trained: Path) -> None:
    _, answers = read_predictions(trained, tasks=2)
    assert {one.task.id for one in answers} == {"task100", "task101"}
    with raises_code(DataError, "predictions.unknown-task", "task0", "task100"):
        read_predictions(trained, only=["task0"])


def test_cells_that_differ_or_lie_outside_are_wrong() -> None:
    target = np.array([[1, 2], [3, 4]], np.uint8)
    assert not find_wrong_cells(target, target).any()
    assert find_wrong_cells(np.array([[1, 9, 1]], np.uint8), target).tolist() == [[False, True, True]]
    assert find_wrong_cells(np.zeros((0, 0), np.uint8), target).shape == (0, 0)


@pytest.fixture
def answer(trained: Path) -> Answered:
    """A query of the real run with an answer made up: right but for its first cell."""
    _, answers = read_predictions(trained, only=["task100"])
    return _with(answers[0], _wrong_in_the_first(answers[0].target))


def _wrong_in_the_first(grid: np.ndarray) -> np.ndarray:
    wrong = grid.copy()
    wrong[0, 0] = (wrong[0, 0] + 1) % 10
    return wrong


def _with(one: Answered, grid: np.ndarray, rank: int | None = None) -> Answered:
    return replace(one, answer=Candidate(grid, 2, 0.25), result=replace(one.result, rank=rank))


def test_words_say_what_became_of_it(answer: Answered) -> None:
    cells = answer.target.size
    assert answer.words() == ["not solved", f"1 of {cells} cells differ", "2 of 2 votes", "halting 0.25"]
    assert _with(answer, answer.target, rank=1).words()[0] == "solved"
    assert _with(answer, answer.grid, rank=2).words()[0] == "not solved"  # the second attempt is not drawn
    assert "the answer contains no grid" in _with(answer, np.zeros((0, 0), np.uint8)).words()
    larger = np.zeros((9, 9), np.uint8)
    assert (
        f"9x9, should be {answer.target.shape[0]}x{answer.target.shape[1]}" in _with(answer, larger).words()
    )
    assert "nothing was predicted" in replace(answer, answer=None).words()


def test_an_output_out_of_the_region_is_said_to_be(trained: Path) -> None:
    _, answers = read_predictions(trained, only=["task101"])
    assert ["target does not fit the model's region" in one.words() for one in answers] == [False, True]


def test_a_terminal_without_colours_has_digits_and_a_star_at_the_wrong_cell(answer: Answered) -> None:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(in_terminal([answer], demos=True))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("*") == 1
    assert f"{answer.grid[0, 0]}*" in text
    assert text.count("demo") == 2 * len(answer.task.demos)
    console.print(in_terminal([answer, answer], demos=True))  # once for all queries of a task
    assert console.file.getvalue().count("demo") == 4 * len(answer.task.demos)  # type: ignore[attr-defined]


def test_a_picture_has_the_answers_colours_and_is_the_same_again(answer: Answered) -> None:
    from matplotlib.image import imread

    data = as_png("title " * 40, [_with(answer, np.full((2, 2), 4, np.uint8)), answer], demos=True)
    assert data == as_png("title " * 40, [_with(answer, np.full((2, 2), 4, np.uint8)), answer], demos=True)
    pixels = (imread(io.BytesIO(data))[..., :3] * 255).round().astype(int)
    assert (pixels == (0xFF, 0xDC, 0x00)).all(-1).sum() > 500  # yellow, colour 4


def test_answers_without_a_grid_can_be_drawn(answer: Answered) -> None:
    nothing = [_with(answer, np.zeros((0, 0), np.uint8)), replace(answer, answer=None)]
    assert as_png("none", nothing).startswith(b"\x89PNG")
    assert as_png("none", []).startswith(b"\x89PNG")
