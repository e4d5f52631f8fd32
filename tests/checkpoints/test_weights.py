"""Where named tensors are stored, which of them are read, and what is known about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from etrm.checkpoints.format import Checkpoint, WeightsKind, save
from etrm.checkpoints.weights import load_weights, read_weights
from etrm.errors import CheckpointError, RunFolderError
from tests.errors import raises_code

SETTINGS = {"hidden_size": 2}


def made(step: int, **state: Any) -> Checkpoint:
    """Raw weights are the step, averaged ones its negative."""
    raw, ema = ({"weight": torch.full((1, 1), float(x)), "bias": torch.zeros(1)} for x in (step, -step))
    return Checkpoint(step, raw, ema, {}, {"model_settings": SETTINGS, **state})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of steps 3 and 12."""
    for step in (3, 12):
        save(tmp_path / "run" / "checkpoints", made(step), keep=2)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"data_hash": "abc"}))
    return tmp_path / "run"


@pytest.mark.parametrize(("kind", "sign"), [("raw", 1), ("ema", -1)])
def test_a_run_folder_stands_for_its_newest_checkpoint(run: Path, kind: WeightsKind, sign: int) -> None:
    found = read_weights(run, kind)
    assert (found.step, found.kind, found.verified, found.data_hash) == (12, kind, True, "abc")
    assert found.settings == SETTINGS
    assert found.tensors["weight"].item() == sign * 12
    assert found.path.parent.name == "step_00000012"
    older = read_weights(run / "checkpoints" / "step_00000003", kind)
    assert (older.step, older.tensors["weight"].item()) == (3, sign * 3)


def test_of_a_file_and_of_an_imported_checkpoint_the_kind_is_not_known(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "file")
    found = read_weights(tmp_path / "file", "ema")
    assert (found.kind, found.verified, found.step, found.settings) == ("unknown", False, None, None)
    folder = save(tmp_path / "checkpoints", made(0, imported={}), keep=1)
    assert read_weights(folder, "raw").kind == "unknown"


def test_a_checkpoint_that_does_not_say_how_it_was_trained_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, made(1, model_settings=None), keep=1)
    with raises_code(CheckpointError, "checkpoint.no-settings", folder):
        read_weights(folder, "raw")


def test_a_damaged_record_of_the_run_is_named(run: Path) -> None:
    (run / "run.json").write_text("{")
    with raises_code(RunFolderError, "run.damaged-file", run / "run.json"):
        read_weights(run, "raw")


@pytest.mark.parametrize(("kind", "value"), [("raw", 5.0), ("ema", -5.0)])
def test_the_weights_that_were_asked_for_are_put_in_place(kind: WeightsKind, value: float) -> None:
    model = nn.Linear(1, 1)
    load_weights(model, made(5), kind)
    assert model.weight.item() == value
    with raises_code(CheckpointError, "checkpoint.does-not-fit-config", "step 5"):
        load_weights(nn.Linear(2, 1), made(5), kind)
