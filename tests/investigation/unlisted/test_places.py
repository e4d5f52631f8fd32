"""Places of a small module, and of this installation."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from etrm.installation import ROOT
from etrm.investigation.unlisted.places import CodePlace, line_starts, list_functions, list_places
from etrm.investigation.unlisted.stages import HYPOTHESES, STAGES

SOURCE = '''
class Ema:
    def update(self, model: Model, decay: float = 0.5) -> None:
        """Text."""
        self.sums = model.weights * (1 - decay)
        first, self.second = pair(model)
        self.log(f"{decay}")
        if decay > 1:
            raise Wrong(decay)
        return lambda x: x[:, None]
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    file = tmp_path / "etrm" / "training" / "ema.py"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE, "utf-8")
    return tmp_path


def test_places_are_values_that_are_read_and_calls_that_are_statements(root: Path) -> None:
    found = [(place.role, place.text) for place in list_places(root)]
    assert found == [
        ("value", "model.weights * (1 - decay)"),
        ("value", "model.weights"),
        ("value", "model"),
        ("value", "1 - decay"),
        ("value", "1"),
        ("value", "decay"),
        ("unpacked", "pair(model)"),
        ("value", "model"),
        ("call", 'self.log(f"{decay}")'),
        ("value", "decay > 1"),
        ("value", "decay"),
        ("value", "1"),
    ]


def test_a_key_stays_when_other_lines_change(root: Path) -> None:
    before = {place.key for place in list_places(root)}
    file = root / "etrm" / "training" / "ema.py"
    file.write_text(SOURCE.replace('"""Text."""', "self.other = model"), "utf-8")
    assert before <= {place.key for place in list_places(root)}


@pytest.fixture(scope="module")
def installed() -> list[CodePlace]:
    return list_places(ROOT)


def test_places_of_this_installation_have_keys_of_their_own(installed: list[CodePlace]) -> None:
    assert len(installed) > 1000
    assert [key for key, count in Counter(place.key for place in installed).items() if count > 1] == []
    for place in installed:
        text = (ROOT / place.path).read_bytes()[place.start : place.end].decode()
        assert text == place.text
        ast.parse(f"({text})")


def test_every_row_of_the_table_is_about_some_place_and_every_stage_has_places(
    installed: list[CodePlace],
) -> None:
    used = {place.row for place in installed}
    rows = [row for row in STAGES if row.stages and not row.path.startswith("etrm/model/encoders/")]
    unused = [row for row in rows if row not in used]
    assert unused == [], "the code has changed: change the table"
    assert {stage for place in installed for stage in place.row.stages[:1]} == set(HYPOTHESES)


def test_no_place_is_in_what_is_investigated_with(installed: list[CodePlace]) -> None:
    allowed = ("etrm/training/", "etrm/model/", "etrm/data/", "etrm/evaluation/", "etrm/checkpoints/")
    assert all(place.path.startswith(allowed) for place in installed)
    assert not [place for place in installed if "faults" in place.path]


def test_functions_have_qualified_names() -> None:
    tree = ast.parse("class A:\n    def f(self):\n        def g():\n            pass\n\ndef h():\n    pass\n")
    assert [name for name, _ in list_functions(tree)] == ["A.f", "A.f.g", "h"]


def test_lines_start_after_line_ends() -> None:
    assert line_starts("a→\nb".encode()) == [0, 5, 6]
