"""The boxes with which a report begins: only a proven cause fills its box."""

from __future__ import annotations

from etrm.investigation.records import Verdict
from etrm.investigation.result import Result
from reports.plots.verdict_chain import CAUSE_FILL, FILLS, caption, draw_chain, has_verdict, make_boxes


def test_only_the_box_of_a_proven_cause_is_filled(example: Result) -> None:
    boxes = {box.name: box for box in make_boxes(example)}
    assert list(boxes) == [key for key in example.order if key in example.hypotheses]
    assert [name for name, box in boxes.items() if box.fill == CAUSE_FILL] == [example.root_cause]
    for name, box in boxes.items():
        if name != example.root_cause:
            assert (box.fill, box.edge) == FILLS[example.hypotheses[name].verdict]


def test_a_candidate_is_not_filled(example: Result) -> None:
    candidate = example.replace(root_cause_confidence="candidate")
    (box,) = [box for box in make_boxes(candidate) if box.name == example.root_cause]
    assert (box.is_cause, box.fill) == (False, FILLS[Verdict.VALIDATED][0])
    assert caption(candidate) != caption(example)


def test_without_a_verdict_there_is_nothing_to_show(example: Result) -> None:
    assert has_verdict(example)
    none = {key: one.replace(verdict=Verdict.NOT_RUN) for key, one in example.hypotheses.items()}
    assert not has_verdict(example.replace(hypotheses=none))
    assert not has_verdict(example.replace(hypotheses={}))


def test_any_number_of_boxes_is_drawn(example: Result) -> None:
    (box, *_) = make_boxes(example)
    for count in (1, 3, 7):
        assert draw_chain([box] * count).startswith(b"\x89PNG")
