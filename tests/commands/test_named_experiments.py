"""`etrm experiment` as a user meets it."""

from __future__ import annotations

from pathlib import Path

from etrm.checkpoints.folder_lock import lock_folder
from tests.command_line import etrm


def test_a_folder_in_which_another_command_works_is_left_alone(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        for words in (("experiment", "run", "E3", "--preset", "smoke"), ("symbolic", "story")):
            refused = etrm(*words, "--out", tmp_path)
            assert refused.code == 2
            assert "run.in-use" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
