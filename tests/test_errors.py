"""The errors themselves: every code is well formed and means one thing, and an error survives a process border."""

from __future__ import annotations

import ast
import errno
import os
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

import cli
import etrm.checkpoints.format  # these three modules have error classes of their own
import etrm.investigation.runs.pretrained_decoder
import etrm.training.monitoring.nonfinite  # noqa: F401
from diagnostics.reference.error_catalog import Site
from etrm.commands.error_codes import CODE, sites
from etrm.errors import ArgumentError, ConfigError, EtrmError

ROOT = Path(__file__).parent.parent
SHARED = {  # one mistake that several modules notice
    "checkpoint.absent",
    "checkpoint.no-settings",
    "config.not-a-value",
    "data.no-task-left",
    "fault.unknown",
    "investigate.other-device",
    "investigate.other-subject",
    "store.fresh-augmentations",
}


def subclasses(base: type[EtrmError]) -> set[type[EtrmError]]:
    return {base}.union(*(subclasses(child) for child in base.__subclasses__()))


KINDS = sorted(subclasses(EtrmError), key=lambda kind: kind.__name__)
NAMES = {kind.__name__ for kind in KINDS} | {"ArgumentError"}


@pytest.fixture(scope="module")
def found() -> list[Site]:
    """Those of this code base."""
    return sites()


def test_every_code_is_an_area_and_a_kind(found: list[Site]) -> None:
    assert len(found) > 150
    assert [site for site in found if not CODE.fullmatch(site.code)] == []
    assert {site.kind for site in found} <= NAMES


def test_a_code_means_one_mistake_of_one_class(found: list[Site]) -> None:
    modules, classes = defaultdict(set), defaultdict(set)
    for site in found:
        modules[site.code].add(site.module)
        classes[site.code].add(site.kind)
    assert {code for code, of_code in modules.items() if len(of_code) > 1} == SHARED
    assert {code: of_code for code, of_code in classes.items() if len(of_code) > 1} == {}


def test_no_error_is_made_without_a_code_that_is_listed(found: list[Site]) -> None:
    """Independent of the list: a call of an error class whose code is not a literal passes another error's on."""
    names = NAMES | {"refused", "_Problem"}
    listed = {site.code for site in found}
    passed_on = []
    for file in [*(ROOT / "etrm").rglob("*.py"), *(ROOT / "reports").rglob("*.py"), ROOT / "cli.py"]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", "")) in names
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    assert first.value in listed, ast.unparse(node)
                else:
                    passed_on.append(f"{file.relative_to(ROOT).as_posix()}: {ast.unparse(first)}")
    assert sorted(passed_on) == [
        "etrm/commands/tasks.py: codes[0]",
        "etrm/config/tree.py: *problems[0]",
        "etrm/config/tree.py: code",
        "etrm/data/task_readers.py: errors[0].code",
        "etrm/investigation/own_model/adapter_errors.py: code",
        "etrm/symbolic/parser.py: error.code",
        "etrm/training/monitoring/nonfinite.py: error.code",
        "etrm/training/monitoring/nonfinite.py: error.code",
    ]


def test_validators_of_the_config_refuse_with_a_code() -> None:
    """A bare ValueError would reach the user as a value that pydantic refused, without a code of its own."""
    bare = [
        f"{file.name}:{node.lineno}"
        for file in (ROOT / "etrm" / "config").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Raise) and "ValueError" in ast.unparse(node)
    ]
    assert bare == []


def test_a_new_raise_site_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector on a package whose answer is known."""
    for name in ("etrm", "reports"):
        (tmp_path / name).mkdir()
    (tmp_path / "cli.py").write_text("raise ConfigError('a.one', f'no {x} here', next_step='go ' + there)\n")
    (tmp_path / "etrm" / "m.py").write_text(
        "class _OwnError(DataError): pass\n"
        "raise errors._OwnError('a.two', 'two')\n"
        "refused('a.three', 'three')\n"
        "raise DataError(error.code, 'passed on')\n"
        "print('a.four', 'no error')\n"
    )
    monkeypatch.setattr("etrm.__path__", [str(tmp_path / "etrm")])
    monkeypatch.setattr("reports.__path__", [str(tmp_path / "reports")])
    module = "/".join(("etrm", "m.py"))  # not a file of ours
    assert [(s.code, s.kind, s.meaning, s.remedy, s.module) for s in sites()] == [
        ("a.one", "ConfigError", "no … here", "go", "cli.py"),
        ("a.three", "ConfigError", "three", "", module),
        ("a.two", "DataError", "two", "", module),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_all_its_parts_in_another_process(kind: type[EtrmError]) -> None:
    made = kind("a.kind", "what", got="3", allowed="4", next_step="go", codes=("a.one", "a.two"))
    read = pickle.loads(pickle.dumps(made))
    assert type(read) is kind
    assert vars(read) == vars(made)
    assert str(read) == str(made)


def test_an_argument_error_keeps_its_code_in_another_process_and_is_a_value_error() -> None:
    read = pickle.loads(pickle.dumps(ArgumentError("a.kind", "what")))
    assert (read.code, str(read), isinstance(read, ValueError)) == ("a.kind", "what", True)
    assert not isinstance(read, EtrmError)


def test_a_code_is_required() -> None:
    with pytest.raises(TypeError):
        ConfigError("only a sentence")  # type: ignore[call-arg]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO])
def test_what_the_system_refuses_has_a_code_too(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**options: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "  code:    system.refused"
    assert f"some/file: {os.strerror(number)}" in "".join(lines)
