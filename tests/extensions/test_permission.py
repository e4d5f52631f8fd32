"""Code runs only where the user named it: a run folder of somebody else's executes nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import cli
from etrm.checkpoints.run_folder import read_config
from etrm.config import Config, load, resolve_run, with_settings
from etrm.errors import EtrmError, ExtensionError
from etrm.extensions import ExtensionPoint, allow
from etrm.training.faults import build_recipe
from etrm.training.named_code import objects
from etrm.training.trainer import train
from tests.errors import raises_code

ANYTHING: ExtensionPoint[object] = ExtensionPoint("things", "thing", "an object", lambda found: True)
QUICK = {"steps": 1, "warmup_steps": 0, "checkpoint_every": 1}
EVIL = """
from pathlib import Path

Path(__file__).with_name("executed").touch()

from etrm.model.encoders import StandardEncoder as MyEncoder
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, of which every test has a copy."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(with_settings(load("smoke"), train=QUICK), run)
    return run


@pytest.fixture
def foreign(place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run folder with checkpoints that somebody else made, and brought their file along inside it."""
    run = place / "run"
    shutil.copytree(trained, run)
    (run / "evil.py").write_text(EVIL)
    config = with_settings(read_config(run), model={"encoder": {"kind": f"{run}/evil.py:MyEncoder"}})
    (run / "config.json").write_text(config.to_json())
    return run


def executed(run: Path) -> bool:
    return (run / "executed").exists()


def code_of(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["etrm", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("evaluate {run}", 2),
        ("predictions {run}", 2),
        ("train --resume --out {run}", 2),
        ("investigate {run} --out {run}/../why", 2),
        ("frozen-decoder {run} --out {run}/../frozen", 2),
        ("checkpoint inspect {run}", 0),
        ("checkpoint compare {run} {run}", 0),
        ("runs {run}/..", 0),
        ("watch {run} --once", 0),
        ("compare {run} {run}", 0),
        ("config {run}", 0),
    ],
)
def test_no_command_executes_the_code_of_a_foreign_run(
    words: str, code: int, foreign: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(run=foreign) for word in words.split()]
    assert code_of(*given, monkeypatch=monkeypatch) == code
    assert not executed(foreign)
    if code:
        assert "extension.not-allowed" in capsys.readouterr().err


def test_a_foreign_run_gives_no_permission_by_overrides_and_interventions(foreign: Path) -> None:
    name = f"{foreign}/evil.py:MyEncoder"
    tree = load("smoke").model_dump() | {"interventions": (f"model.encoder.kind={name}",)}
    config = Config.model_validate(tree)
    resolve_run(foreign, config, ("train.lr=1e-3",))
    assert build_recipe(config).configure(config).model.encoder.kind == name
    with raises_code(ExtensionError, "extension.not-allowed"):
        objects(config)
    assert not executed(foreign)


def test_the_option_allows_what_the_file_holds_now_and_nothing_else(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("evaluate", str(foreign), "--allow-code", monkeypatch=monkeypatch) == 0
    assert executed(foreign)
    (foreign / "executed").unlink()
    (foreign / "evil.py").write_text(EVIL + "# edited\n")
    assert code_of("evaluate", str(foreign), monkeypatch=monkeypatch) == 2
    assert not executed(foreign)


def test_naming_a_file_allows_it_at_its_place_with_its_content(place: Path) -> None:
    Path("a.py").write_text("A = 1\n")
    with raises_code(ExtensionError, "extension.not-allowed", f"{place}/a.py:A"):
        ANYTHING.load("a.py:A")
    allow("a.py:other")
    assert ANYTHING.load("a.py:A") == 1
    Path("b.py").write_text("A = 1\n")  # the same content elsewhere
    with raises_code(ExtensionError, "extension.not-allowed"):
        ANYTHING.load("b.py:A")
    Path("a.py").write_text("A = 2\n")
    with raises_code(ExtensionError, "extension.not-allowed"):
        ANYTHING.load("a.py:A")


def test_a_module_is_not_imported_unless_it_was_named(place: Path) -> None:
    with raises_code(ExtensionError, "extension.not-allowed"):
        ANYTHING.load("this:s")
    assert "this" not in sys.modules


def test_a_cache_folder_that_cannot_be_written_is_an_error(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.py").write_text("A = 1\n")
    Path("file").touch()
    monkeypatch.setenv("ETRM_CACHE", str(place / "file"))
    with raises_code(EtrmError, "extension.not-noted"):
        allow("a.py:A")
