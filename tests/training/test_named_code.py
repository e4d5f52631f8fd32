"""The record and the key of a run have the hash of every piece of code that its settings name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from etrm.config import Config, load, with_settings
from etrm.extensions import allow
from etrm.investigation.runs.code_version import code_hash
from etrm.training.named_code import digests

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
NAMED = {
    "my_encoder.py": ("MyEncoder", "model.encoder.kind={}"),
    "my_variant.py": ("NormedContext", "model.variant={}"),
    "my_fault.py": ("SMALL_LOSS", 'faults=["{}"]'),
    "my_tasks.py": ("recoloured", "data.source={}"),
    "my_rule.py": ("LOUD", 'monitor.rules=["{}"]'),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        (tmp_path / name).write_text(code)
    return tmp_path


def named(file: str) -> Config:
    name, setting = NAMED[file]
    return load("smoke", overrides=(setting.format(f"{file}:{name}"),))


@pytest.mark.parametrize("file", NAMED)
def test_an_edit_changes_the_record_and_the_key(file: str, place: Path) -> None:
    before = named(file)
    recorded, key = digests(before), code_hash(before)
    assert list(recorded) == [f"{place / file}:{NAMED[file][0]}"]
    assert key != code_hash(load("smoke"))
    (place / file).write_text((place / file).read_text() + "\n# edited\n")
    allow(f"{place / file}:anything")
    assert digests(before).keys() == recorded.keys()
    assert digests(before) != recorded
    assert code_hash(before) != key


def test_our_own_code_is_not_recorded() -> None:
    assert digests(with_settings(load("smoke"), faults=("cached-context",))) == {}
