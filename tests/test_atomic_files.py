"""A file is replaced as a whole, and a target that cannot be written is refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etrm.atomic_files import check_target, write_atomically
from etrm.errors import WriteError
from tests.errors import raises_code


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_atomically(tmp_path / "a", text)
        assert (tmp_path / "a").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("/"), tmp_path):
        with pytest.raises(IsADirectoryError):
            write_atomically(folder, "text")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_can_be_written_is_accepted_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for file in ("file", "new", "a/b/new"):
        check_target(Path(file))
    for folder in (".", "new", "a/b/new"):
        check_target(Path(folder), folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("target", "folder"),
    [
        (".", False),
        ("..", False),
        ("folder", False),
        ("file/new", False),
        ("file/a/new", False),
        ("file", True),
        ("file/a", True),
        ("a" * 300, False),
        ("loop/new", False),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, folder: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with raises_code(WriteError, "output.not-writable", target):
        check_target(Path(target), folder=folder)


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with raises_code(WriteError, "output.not-writable", tmp_path / "a" / "b"):
        check_target(tmp_path / "a" / "b")
