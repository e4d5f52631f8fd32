"""Defects are planted in a small checkout with tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutation.defects import Defect
from benchmarks.mutation.run import place_of, plant
from tests.affected import Imports

SOURCES = {
    "cli.py": "",
    "etrm/__init__.py": "",
    "etrm/sums.py": "def add(a, b):\n    return a + b\n\n\ndef untested(a):\n    return a - 1\n",
    "etrm/others.py": "x = 1\ny = 1\n",
    "tests/test_sums.py": "from etrm.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n",
    "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow', 'gpu']\npythonpath = ['.']\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def defect(*forms: tuple[str, str]) -> Defect:
    return Defect("a defect", "data", forms)


@pytest.mark.parametrize(
    ("forms", "state", "test"),
    [
        ([("a + b", "a - b")], "caught", "tests/test_sums.py::test_add"),
        ([("a - 1", "a + 1")], "survived", ""),
        (
            [("sum(a, b)", ""), ("a + b", "a * b")],
            "caught",
            "tests/test_sums.py::test_add",
        ),  # the earlier name
        ([("nowhere", "")], "not applicable", ""),
    ],
)
@pytest.mark.processes
def test_a_defect_is_planted_judged_and_taken_out(
    root: Path, forms: list[tuple[str, str]], state: str, test: str
) -> None:
    found = plant(defect(*forms), Imports(root), limit=120)
    assert (found.state, found.test) == (state, test)
    assert {name: (root / name).read_text() for name in SOURCES} == SOURCES


def test_a_text_that_occurs_twice_has_no_place(root: Path) -> None:
    assert place_of(defect(("= 1", "= 2")), root) is None
    assert place_of(defect(("x = 1", "x = 2")), root) == (Path("etrm/others.py"), "x = 1", "x = 2")
