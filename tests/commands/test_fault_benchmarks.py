"""`etrm bench faults` as a user meets it."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import etrm


def test_a_name_with_unlisted_is_a_kind_of_case(tmp_path: Path) -> None:
    done = etrm("bench", "faults", "stale-votes", "--unlisted", "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert "bench.unknown-kind" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
