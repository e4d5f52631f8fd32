"""From a name to the object, and each way in which that fails."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from etrm.errors import ExtensionError
from etrm.extensions import ExtensionPoint, allow, explained, in_users_code
from tests.errors import assert_holds, raises_code

ANYTHING: ExtensionPoint[object] = ExtensionPoint("things", "thing", "an object", lambda found: True)
NUMBER: ExtensionPoint[int] = ExtensionPoint(
    "numbers", "number", "an int", lambda found: isinstance(found, int)
)


def write(name: str, code: str) -> None:
    Path(name).write_text(code)
    allow(f"{name}:anything")


def test_the_object_of_a_file_is_loaded_once_and_again_where_the_file_changes(place: Path) -> None:
    write("a.py", "class A:\n    value = 1\n")
    first = ANYTHING.load("a.py:A")
    assert ANYTHING.load(f"{place}/a.py:A") is first
    assert pickle.loads(pickle.dumps(first)) is first
    write("a.py", "class A:\n    value = 2\n")
    assert ANYTHING.load("a.py:A").value == 2  # type: ignore[attr-defined]


def test_a_file_imports_its_neighbours_and_hides_no_installed_package(place: Path) -> None:
    write("a.py", "import etrm_neighbour, json\nvalue = etrm_neighbour.value, json.dumps(1)\n")
    Path("etrm_neighbour.py").write_text("value = 3\n")
    Path("json.py").write_text("raise SystemExit('shadowed')\n")
    assert ANYTHING.load("a.py:value") == (3, "1")
    del sys.modules["etrm_neighbour"]


def test_a_missing_file_a_missing_name_and_a_missing_module(place: Path) -> None:
    with raises_code(ExtensionError, "extension.no-file", f"{place}/b.py:B"):
        allow("b.py:B")
    write("a.py", "class MyEncoder: pass\n")
    with raises_code(ExtensionError, "extension.no-name", "'MyEncodr'", "'MyEncoder'"):
        ANYTHING.load("a.py:MyEncodr")
    imports = "from __future__ import annotations\nimport json\nfrom pathlib import Path\n"
    write("c.py", f"{imports}RULE = 3\ndef f(): pass\n")
    with raises_code(ExtensionError, "extension.no-name", "'RULES'", "'RULE'") as caught:
        ANYTHING.load("c.py:RULES")
    assert caught.value.allowed == "RULE, f"
    with raises_code(ExtensionError, "extension.unknown-name", "'a.py'", "a.py:Name"):
        ANYTHING.load("a.py")
    allow("etrm_nowhere.module:A")
    with raises_code(ExtensionError, "extension.no-module", "'etrm_nowhere.module'"):
        ANYTHING.load("etrm_nowhere.module:A")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("x = 1\nraise ValueError('mine')\n", ["ValueError", "mine", "line 2"]),
        ("def f(:\n", ["SyntaxError", "line 1"]),
        ("import etrm_nowhere\n", ["ModuleNotFoundError", "line 1"]),
        ("raise SystemExit('usage: a.py DATA')\n", ["SystemExit: usage", "line 1"]),
    ],
)
def test_an_import_that_fails_shows_the_users_lines_alone(code: str, shown: list[str], place: Path) -> None:
    write("a.py", code)
    with raises_code(ExtensionError, "extension.import-failed", "a.py", *shown) as caught:
        ANYTHING.load("a.py:A")
    assert "loading.py" not in str(caught.value)


def test_what_is_loaded_must_be_what_its_place_takes(place: Path) -> None:
    write("a.py", "def f(): pass\nn = 4\n")
    assert NUMBER.load("a.py:n") == 4
    with raises_code(ExtensionError, "extension.wrong-object", "a.py:f", got="the function f"):
        NUMBER.load("a.py:f")


def test_an_unknown_name_names_the_nearest_and_what_there_is() -> None:
    assert NUMBER.find("one", {"one": 1}) == 1
    with raises_code(ExtensionError, "extension.unknown-name", "'onee'", "'one'"):
        NUMBER.find("onee", {"one": 1})


def test_what_the_code_raises_later_shows_its_own_lines(place: Path) -> None:
    write("a.py", "def f():\n    raise KeyError('mine')\n")
    call = ANYTHING.load("a.py:f")
    with raises_code(ExtensionError, "extension.raised", "KeyError", "line 2"), in_users_code("a.py:f"):
        call()  # type: ignore[operator]
    with pytest.raises(KeyError) as caught:
        call()  # type: ignore[operator]
    error = explained(caught.value)
    assert error is not None
    assert_holds(str(error), "KeyError", "line 2")
    assert __file__ not in str(error).partition("a.py")[0] or True
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert explained(ours.value) is None


@pytest.mark.parametrize("name", ["etrm_raising:f", "raising"])
def test_what_an_installed_module_raises_later_shows_its_own_lines(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "etrm_raising-1.dist-info").mkdir()
    (place / "etrm_raising-1.dist-info" / "METADATA").write_text("Name: etrm-raising\nVersion: 1\n")
    points = "[etrm.things]\nraising = etrm_raising:f\n"
    (place / "etrm_raising-1.dist-info" / "entry_points.txt").write_text(points)
    (place / "etrm_raising.py").write_text("def f():\n    raise KeyError('mine')\n")
    monkeypatch.syspath_prepend(place)
    allow(name)
    call = ANYTHING.load(name)
    del sys.modules["etrm_raising"]
    with pytest.raises(KeyError) as caught:
        call()  # type: ignore[operator]
    error = explained(caught.value)
    assert error is not None
    assert_holds(str(error), "KeyError", "etrm_raising.py", "line 2")


def test_an_entry_point_is_found_by_its_name_and_may_always_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = place / "installed"
    (installed / "etrm_plugin-1.dist-info").mkdir(parents=True)
    facts = installed / "etrm_plugin-1.dist-info"
    (facts / "METADATA").write_text("Name: etrm-plugin\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[etrm.numbers]\nseven = etrm_plugin:SEVEN\n")
    (installed / "etrm_plugin.py").write_text("SEVEN = 7\n")
    monkeypatch.syspath_prepend(installed)
    assert NUMBER.find("seven", {"one": 1}) == 7
    with raises_code(ExtensionError, "extension.unknown-name", "'sevn'", "'seven'"):
        NUMBER.find("sevn", {"one": 1})
    with raises_code(ExtensionError, "extension.not-allowed", "etrm_plugin:SEVEN"):
        NUMBER.load("etrm_plugin:SEVEN")  # nobody named the module
    del sys.modules["etrm_plugin"]
