"""Files that are written as a whole, and targets that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diagnostics.report.whole_files import check_target, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_whole(tmp_path / "a", text)
        assert (tmp_path / "a").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (".", IsADirectoryError),
        ("folder", IsADirectoryError),
        ("file/new", NotADirectoryError),
        ("none/new", FileNotFoundError),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, kind: type[OSError]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for refuse in (check_target, lambda path: write_whole(path, "text")):
        with pytest.raises(kind):
            refuse(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError):
        check_target(tmp_path / "a")
