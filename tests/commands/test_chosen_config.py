"""The config that a command line chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.commands.chosen_config import resolve_config
from etrm.config import load, with_settings
from etrm.errors import ConfigError, ExtensionError
from tests.errors import raises_code


def test_injected_faults_are_added_to_those_of_the_settings(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "mine.toml"
    run.mkdir()
    (run / "config.json").write_text(with_settings(load("smoke"), faults=("cached-context",)).to_json())
    file.write_text('preset = "smoke"\nfaults = ["cached-context"]\n')
    both = ("cached-context", "stale-votes")
    inject = ["stale-votes"]
    assert resolve_config(None, None, None, inject, run=run).faults == both
    assert resolve_config(None, file, None, inject).faults == both
    assert resolve_config("smoke", None, ["faults=['cached-context']"], inject).faults == both
    assert resolve_config(None, file, None, ["cached-context"]).faults == both[:1]
    assert resolve_config("smoke", None, None, None).faults == ()


def test_a_name_of_a_fault_needs_no_quotes() -> None:
    name = "a\"b'"
    with raises_code(ConfigError, "fault.unknown", repr(name)):
        resolve_config("smoke", None, None, [name])


def test_an_injected_fault_does_not_allow_the_code_of_the_run(tmp_path: Path) -> None:
    """Only code that the command line names may run."""
    code = tmp_path / "theirs.py"
    code.write_text("")
    (tmp_path / "config.json").write_text(with_settings(load("smoke"), faults=(f"{code}:FAULT",)).to_json())
    with raises_code(ExtensionError, "extension.not-allowed"):
        resolve_config(None, None, None, ["stale-votes"], run=tmp_path)


@pytest.mark.parametrize("file", ["my_model.py", "mine.toml"])
def test_a_file_is_no_run(tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    with raises_code(ConfigError, "cli.file-without-config", tmp_path / file):
        resolve_config(None, None, None, None, run=tmp_path / file)
