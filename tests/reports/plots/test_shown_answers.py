"""The answers of a run as grids: of any shape, solved or not, and without a grid."""

from __future__ import annotations

import io

import matplotlib.image
import pytest

from etrm.investigation.records import Cells, ShownAnswer
from reports.plots.shown_answers import draw_answers


@pytest.mark.parametrize("answer", [((1, 2), (3, 4)), ((1, 2, 3),), ((9,),), ()])
def test_any_answer_is_drawn(answer: Cells) -> None:
    target = ((1, 2), (3, 4))
    shown = ShownAnswer(
        task="task", query=0, input=((0,),), target=target, answer=answer, solved=answer == target
    )
    drawn = matplotlib.image.imread(io.BytesIO(draw_answers([shown])))
    more = matplotlib.image.imread(io.BytesIO(draw_answers([shown, shown])))
    assert more.shape[0] > drawn.shape[0]
