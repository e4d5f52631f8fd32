"""Texts around places, changed files, and copies of packages."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path

import pytest

from etrm.investigation.unlisted.changed_copy import (
    RUNTIME,
    Insertion,
    change_copy,
    copy_packages,
    insert,
    profile_copy,
    read_profile,
)
from etrm.investigation.unlisted.places import list_places

FUTURE = "from __future__ import annotations\n"
FILES = {
    "etrm/__init__.py": "",
    "etrm/training/ema.py": f"{FUTURE}\n\nclass Ema:\n    def update(self, model):\n        return (model + 1) * 2\n",
    "etrm/training/trainer.py": f"{FUTURE}\n\nclass Trainer:\n    def __init__(self):\n        self.a = 1\n\n"
    '    def advance(self):\n        """Text."""\n        return 2\n',
    "etrm/training/scoring/score_run.py": f"{FUTURE}\n\ndef evaluate_run():\n    return 3\n",
    "diagnostics/__init__.py": "",
    "reports/__init__.py": "",
    "cli.py": "",
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    root = tmp_path / "packages"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


def test_insertions_nest_as_expressions_do() -> None:
    source = b"f(a) + b"
    outer = [Insertion(0, -8, "<"), Insertion(8, 8, ">")]
    inner = [Insertion(0, -4, "("), Insertion(4, -4, ")"), Insertion(7, -1, "["), Insertion(8, -1, "]")]
    assert insert(source, [*inner, *outer]) == b"<(f(a)) + [b]>"


def test_a_copy_is_changed_at_one_place_and_its_original_is_not(packages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_packages(copy, packages)
    place = next(place for place in list_places(copy) if place.text == "model + 1")
    diff = change_copy(copy, place, "changed_code.change(", ', "scale", 2.0)', hooks=False)
    assert [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        f"+import {RUNTIME}",
        "-        return (model + 1) * 2",
        '+        return (changed_code.change(model + 1, "scale", 2.0)) * 2',
    ]
    assert (packages / place.path).read_text("utf-8") == FILES[place.path]
    assert (copy / f"{RUNTIME}.py").exists()
    assert not (packages / f"{RUNTIME}.py").exists()
    assert "change" in runpy.run_path(str(copy / f"{RUNTIME}.py"))


def test_hooks_are_the_first_statements_of_their_functions(packages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_packages(copy, packages)
    place = next(place for place in list_places(copy) if place.text == "model + 1")
    change_copy(copy, place, "changed_code.change(", ', "delay")', hooks=True)
    trainer = (copy / "etrm/training/trainer.py").read_text("utf-8")
    assert "        changed_code.begin()\n        self.a = 1" in trainer
    assert (
        '"""Text."""\n        changed_code.enter(self.state.step, self.state.bucket)\n        return 2'
        in trainer
    )
    assert "    changed_code.begin()\n    return 3" in (
        copy / "etrm/training/scoring/score_run.py"
    ).read_text("utf-8")


def test_a_profiled_copy_notes_every_place_under_its_key(packages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy_packages(copy, packages)
    places = profile_copy(copy)
    text = (copy / "etrm/training/ema.py").read_text("utf-8")
    ast.parse(text)
    assert text.count("changed_code.seen(") == len(places) == 5
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"1": {"calls": 3}}), "utf-8")
    assert read_profile(file, places) == {places[1].key: {"calls": 3}}


def test_unchanged_files_of_a_copy_are_links(packages: Path, tmp_path: Path) -> None:
    copy_packages(tmp_path / "copy", packages)
    assert (tmp_path / "copy" / "cli.py").samefile(packages / "cli.py")
