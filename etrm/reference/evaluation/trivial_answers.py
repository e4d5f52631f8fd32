"""The reference of the baselines that need no learning, with which every score of a model is compared.

A wrong baseline changes no answer of a model, but what its score means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from etrm.reference.data.canvas import CELLS, COLOUR, Integers
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.data.loader import ReferenceRow
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import (
    CountedScores,
    EvaluationRequest,
    RecordedAnswer,
    compare_scores,
    compare_votes,
    list_evaluated,
)


def compare_baselines(request: EvaluationRequest, reported: Mapping[str, CountedScores]) -> list[Departure]:
    """Compare the reports of baselines with their own answers to the rows of an evaluation.

    Args:
        request: the request of the evaluation.
        reported: the reports by the names of the baselines; other names than those of the reference are not compared.
    """
    rows, found = list_evaluated(request), list[Departure]()
    for name, answer in ANSWERS.items():
        if name not in reported:
            found.append(Departure(PipelineStage.SCORE, "baselines", 1.0, 0.0, f"{name} is missing"))
            continue
        answers = [record_answer(row, answer(row)) for row in rows]
        departures = [
            *compare_votes(request, answers, reported[name]),
            *compare_scores(request, answers, reported[name]),
        ]
        found += [replace(departure, where=f"baseline {name}: {departure.where}") for departure in departures]
    return found


def record_answer(row: ReferenceRow, tokens: Integers) -> RecordedAnswer:
    """Return an answer to a row of the reference."""
    asked, drawing = row.drawing.asked, row.drawing
    loaded = LoadedRow(row.tokens, row.positions, row.labels, row.demos, drawing.puzzle_id, drawing.serial)
    return RecordedAnswer(asked.task.id, asked.index, drawing.name, loaded, tokens)


def _copy(row: ReferenceRow) -> Integers:
    return row.tokens


def _fill_black(row: ReferenceRow) -> Integers:
    return np.minimum(row.tokens, COLOUR)


def _fill_commonest(row: ReferenceRow) -> Integers:
    """The input in the colour that the outputs of the demonstrations have most; the lowest of several."""
    outputs = [tokens[positions >= CELLS] for tokens, positions in row.demos]
    shown = np.concatenate(outputs) if outputs else row.tokens
    colours, counts = np.unique(shown[shown >= COLOUR], return_counts=True)
    return np.where(row.tokens >= COLOUR, colours[counts.argmax()], row.tokens)


ANSWERS: Mapping[str, Callable[[ReferenceRow], Integers]] = {
    "copy input": _copy,
    "all black": _fill_black,
    "most frequent colour": _fill_commonest,
}
"""The answer of each baseline to a row, (S,) tokens: the query input as it is, in black, or in one colour."""
