"""A file that grows, is cut back, is replaced and is damaged, against its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.runs.json_lines_tail import Tail


def line(step: int, value: float = 0.0) -> str:
    return json.dumps({"step": step, "value": value}) + "\n"


def steps(tail: Tail) -> list[int]:
    return [record["step"] for record in tail.read().lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_no_file_is_no_lines(path: Path) -> None:
    news = Tail(path).read()
    assert (news.lines, news.restarted) == ([], False)


def test_half_a_last_line_waits_for_its_rest(path: Path) -> None:
    tail = Tail(path)
    text = line(1) + line(2)
    path.write_text(text[:-5])
    assert steps(tail) == [1]
    assert steps(tail) == []
    path.write_text(text)
    assert steps(tail) == [2]
    assert tail.broken == []


def test_a_file_that_was_cut_back_is_read_again(path: Path) -> None:
    tail = Tail(path)
    path.write_text(line(1) + line(2) + line(3))
    assert steps(tail) == [1, 2, 3]
    path.write_text(line(1))
    news = tail.read()
    assert news.restarted
    assert [record["step"] for record in news.lines] == [1]


def test_a_file_that_was_cut_back_and_outgrew_what_was_read_is_read_again(path: Path) -> None:
    tail = Tail(path)
    path.write_text(line(1) + line(2) + line(3))
    tail.read()
    path.write_text(line(1) + "".join(line(step, 0.123) for step in range(2, 9)))
    news = tail.read()
    assert news.restarted
    assert [record["step"] for record in news.lines] == list(range(1, 9))


def test_the_same_bytes_written_again_are_no_restart(path: Path) -> None:
    tail = Tail(path)
    path.write_text(line(1) + line(2))
    tail.read()
    path.write_text(line(1))
    path.write_text(line(1) + line(2) + line(3))  # a resumed run is bit for bit the same
    news = tail.read()
    assert not news.restarted
    assert [record["step"] for record in news.lines] == [3]


def test_a_file_that_is_gone_starts_anew(path: Path) -> None:
    tail = Tail(path)
    path.write_text(line(1))
    tail.read()
    path.unlink()
    assert tail.read().restarted
    assert not tail.read().restarted
    path.write_text(line(1))
    assert steps(tail) == [1]


@pytest.mark.parametrize("bad", ["{", "7", "{}", '{"step": "1"}', '{"step": true}', "\0\0\0", "[" * 100_000])
def test_a_line_that_is_no_record_is_passed_over_and_counted(path: Path, bad: str) -> None:
    tail = Tail(path)
    path.write_text(line(1) + bad + "\n" + line(3))
    assert steps(tail) == [1, 3]
    assert tail.broken == [2]


def test_bytes_that_are_no_text_are_counted_too(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(b"\xff\xfe\n" + line(1).encode())
    assert steps(tail) == [1]
    assert tail.broken == [1]


@given(st.lists(st.integers(0, 200), max_size=20))
def test_looks_at_any_moments_see_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("tail") / "metrics.jsonl"
    text = "".join(line(step) for step in range(1, 8))
    tail, seen = Tail(path), []
    for cut in [*sorted(cuts), len(text)]:
        path.write_text(text[:cut])
        news = tail.read()
        assert not news.restarted
        seen += [record["step"] for record in news.lines]
    assert seen == list(range(1, 8))
