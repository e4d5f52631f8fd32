"""The tests that a change can break, on a small checkout whose imports are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.affected import Imports, changed_files

SOURCES = {
    "cli.py": "from etrm.commands import app",
    "etrm/__init__.py": "",
    "etrm/base.py": "",
    "etrm/middle.py": "def f():\n    from etrm.base import x",
    "etrm/alone.py": "",
    "etrm/commands/__init__.py": "from importlib import import_module\nimport_module('etrm.commands.train')",
    "etrm/commands/train.py": "import etrm.middle",
    "tests/conftest.py": "",
    "tests/helper.py": "from etrm.middle import f",
    "tests/test_base.py": "from etrm import base",
    "tests/test_middle.py": "import etrm.middle",
    "tests/test_alone.py": "import etrm.alone",
    "tests/test_cli.py": "import cli",
    "tests/far/conftest.py": "from tests import helper",
    "tests/far/test_far.py": "open('settings.toml')",
}


@pytest.fixture
def imports(tmp_path: Path) -> Imports:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Imports(tmp_path)


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        (["etrm/base.py"], ["test_base.py", "test_middle.py", "far/test_far.py", "test_cli.py"]),
        (["etrm/middle.py"], ["test_middle.py", "far/test_far.py", "test_cli.py"]),
        (["etrm/alone.py"], ["test_alone.py"]),
        (["etrm/commands/train.py"], ["test_cli.py"]),  # loaded by name
        (["tests/far/conftest.py"], ["far/test_far.py"]),
        (["tests/test_base.py"], ["test_base.py"]),
        (["settings.toml"], ["far/test_far.py"]),
        (
            ["etrm/alone.py", "etrm/middle.py"],
            ["test_alone.py", "test_middle.py", "far/test_far.py", "test_cli.py"],
        ),
        (["README.md"], []),
    ],
)
def test_affected_tests_are_those_downstream_nearest_first(
    imports: Imports, changed: list[str], tests: list[str]
) -> None:
    assert imports.affected(map(Path, changed)) == [Path("tests") / name for name in tests]


def test_of_this_checkout_the_mirror_of_a_module_comes_first() -> None:
    tests = Imports().affected([Path("etrm/model/core.py")])
    assert tests[0] == Path("tests/model/test_core.py")
    assert Path("tests/training/test_trainer.py") in tests


def test_files_that_differ_from_a_commit_are_changed() -> None:
    assert all(not path.is_absolute() for path in changed_files("HEAD"))
