"""Code of a user's: each way in which it can enter a run puts its file into the hash."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etrm.config import load
from etrm.extensions import outside_digests
from etrm.investigation.runs.code_version import code_hash, judging_hash
from etrm.model import encoders
from etrm.training.faults import FAULTS, Fault
from etrm.training.faults.seam import change_model
from etrm.training.named_code import seams
from etrm.training.recipe import Recipe

CODE = """
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

import etrm_helper_of_a_user
from etrm.model.encoders import StandardEncoder
from etrm.training.faults.seam import change_model


def change(model):
    etrm_helper_of_a_user.help(model)


@torch.no_grad()
def decorated(model):
    change(model)


def with_default(recipe, change=change):
    return change_model(recipe, change)


class MyEncoder(StandardEncoder):
    pass


@dataclass(frozen=True)
class Callable:
    scale: float = 1.0

    def __call__(self, recipe):
        return recipe

    def method(self, recipe):
        return recipe

    @classmethod
    def of_the_class(cls, recipe):
        return recipe
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[ModuleType]:
    """A module of a user's that imports another one."""
    (tmp_path / "etrm_helper_of_a_user.py").write_text("def help(model):\n    pass\n")
    (tmp_path / "etrm_unused_by_a_user.py").write_text("")
    (tmp_path / "my_code.py").write_text(CODE)
    sys.path.insert(0, str(tmp_path))
    spec = importlib.util.spec_from_file_location("etrm_code_of_a_user", tmp_path / "my_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(tmp_path))
    for name in (spec.name, "etrm_helper_of_a_user"):
        del sys.modules[name]


def digests(folder: Path) -> list[str]:
    """Of the two files that are used, as documented: the name, a zero byte, the content."""
    files = [folder / name for name in ("my_code.py", "etrm_helper_of_a_user.py")]
    return sorted(hashlib.sha256(f.name.encode() + b"\0" + f.read_bytes()).hexdigest() for f in files)


WAYS: dict[str, Callable[[Any], object]] = {
    "function": lambda user: user.change,
    "enclosed in ours": lambda user: change_model(Recipe(), user.change).build_model,
    "decorated by torch": lambda user: partial(user.decorated),
    "default of an argument": lambda user: user.with_default,
    "partial of ours": lambda user: partial(change_model, change=user.change),
    "partial of a partial": lambda user: partial(partial(change_model), Recipe(), user.change),
    "class": lambda user: user.MyEncoder,
    "callable object": lambda user: user.Callable(),
    "method": lambda user: user.Callable().method,
    "class method": lambda user: user.Callable.of_the_class,
    "generated method": lambda user: user.Callable.__init__,
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_leads_to_the_file_and_to_what_it_imports(
    way: str, user: ModuleType, tmp_path: Path
) -> None:
    assert outside_digests([WAYS[way](user)]) == digests(tmp_path)
    (tmp_path / "etrm_unused_by_a_user.py").write_text("edited = True")
    before = digests(tmp_path)
    (tmp_path / "etrm_helper_of_a_user.py").write_text("def help(model):\n    model.edited = True\n")
    assert before != digests(tmp_path) == outside_digests([WAYS[way](user)])


def test_our_own_code_and_installed_code_are_no_outside_code() -> None:
    for name, fault in FAULTS.items():
        preset = "symbolic-rules" if fault.models == "symbolic" else "smoke"
        assert outside_digests(seams(load(preset, overrides=(f'faults=["{name}"]',)))) == []
    assert outside_digests([partial(change_model, change=pytest.fixture), len, 3, None]) == []


def test_a_plugin_that_is_installed_is_read() -> None:
    assert len(outside_digests([pytest.fixture])) == 1


def test_packages_of_another_environment_are_installed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment that was made with --system-site-packages, whose torch lies in a folder outside its own."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "etrm_package_elsewhere.py").write_text("def help(model):\n    pass\n")
    own = tmp_path / "etrm_user_of_a_package.py"
    own.write_text("from etrm_package_elsewhere import help\n\ndef change(model):\n    help(model)\n")
    for folder in (packages, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module(own.stem)
    try:
        assert outside_digests([module.change]) == [
            hashlib.sha256(own.name.encode() + b"\0" + own.read_bytes()).hexdigest()
        ]
    finally:
        for name in (own.stem, "etrm_package_elsewhere"):
            del sys.modules[name]


def test_code_without_a_file_is_told_apart_by_what_it_does() -> None:
    def typed(text: str) -> object:
        namespace: dict[str, Any] = {"__name__": "nowhere"}
        exec(compile(text, "<typed at a prompt>", "exec"), namespace)
        return namespace["change"]

    one, other = "def change(model):\n    return model.a", "def change(model):\n    return model.b"
    assert outside_digests([typed(one)]) == outside_digests([typed(one)]) != outside_digests([typed(other)])


@pytest.mark.parametrize("hashed", [code_hash, judging_hash])
def test_an_edit_of_a_fault_or_an_encoder_from_outside_changes_the_hash(
    hashed: Callable[..., str], user: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load("smoke")
    faulty = load("smoke", overrides=('faults=["from-outside"]',))
    monkeypatch.setitem(FAULTS, "from-outside", Fault("from-outside", "", "", "", user.Callable().method))
    before = hashed(plain), hashed(faulty)
    (tmp_path / "my_code.py").write_text(CODE + "\n# edited\n")
    assert hashed(plain) == before[0]
    assert hashed(faulty) != before[1]
    monkeypatch.setitem(encoders.ENCODERS, "standard", user.MyEncoder)
    assert hashed(plain) != before[0]
