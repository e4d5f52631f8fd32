"""What is a name of code, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import Config, load, named_code, with_settings
from etrm.extensions import CodeName, absolute, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/a/b.py:Name", CodeName("/a/b.py", "Name", is_file=True)),
        ("/a b/c.d.py:_n1", CodeName("/a b/c.d.py", "_n1", is_file=True)),
        ("package.module:Name", CodeName("package.module", "Name", is_file=False)),
        ("module:Name", CodeName("module", "Name", is_file=False)),
        ("standard", None),
        ("b.py", None),
        ("b.py:", None),
        ("b.py:1", None),
        ("b.py:a.b", None),
        ("a..b:Name", None),
        ("folder/tasks", None),
        ("", None),
    ],
)
def test_a_text_is_a_name_of_code_or_none(text: str, name: CodeName | None) -> None:
    assert parse(text) == name


def test_a_relative_path_is_of_the_current_folder(place: Path) -> None:
    assert absolute("b.py:Name") == f"{place}/b.py:Name"
    assert absolute("sub/../b.py:Name").endswith("b.py:Name")
    assert absolute("package.module:Name") == "package.module:Name"
    assert absolute("arc-agi-1") == "arc-agi-1"


def test_a_config_names_code_in_each_of_its_places(place: Path) -> None:
    config = with_settings(
        load("smoke"),
        model={"variant": "v.py:V", "encoder": {"kind": "e.py:E"}},
        data={"source": "d.py:d"},
        evaluate={"source": "rules:colours", "augmentations": 1},
        faults=("cached-context", "f.py:F"),
        interventions=("model.encoder.kind=i.py:I", "train.lr=1"),
    )
    wanted = [f"{place}/{name}" for name in ("d.py:d", "v.py:V", "e.py:E", "f.py:F", "i.py:I")]
    assert sorted(named_code(config.model_dump())) == sorted(wanted)
    assert Config.from_json(config.to_json()) == config


def test_settings_by_dotted_names_and_whole_sections_name_code_too(place: Path) -> None:
    settings = {"model.variant": "e.py:E", "model": {"encoder": {"kind": "m:F"}}, "faults": ["f.py:F"]}
    assert named_code(settings) == [f"{place}/e.py:E", "m:F", f"{place}/f.py:F"]
    assert named_code({"data.source": "rules:colours", "train.decoder": "a.py:B"}) == []
