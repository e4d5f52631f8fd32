"""Misleading scores in the terminal: every share has its number of answers and its interval."""

from __future__ import annotations

import io

from rich.console import Console

from etrm.evaluation.misleading import Misleading, Share
from reports.terminal.misleading_table import misleading_table


def test_every_score_is_shown_with_n_and_interval() -> None:
    run = {kind: Share.counted(place, 10 + place) for place, kind in enumerate(Misleading)}
    copying = {kind: Share.counted(0, share.of) for kind, share in run.items()}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(misleading_table({"this run": run, "copy input": copying}))
    lines = console.export_text().splitlines()
    assert any("this run" in line and "copy input" in line for line in lines)
    for kind, share in run.items():
        (line,) = [line for line in lines if kind.words in line]
        assert f" {share.of} " in line
        assert f"{share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]" in line
        assert line.count("[") == 2
