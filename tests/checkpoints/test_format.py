from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint, read, read_weights, save
from etrm.checkpoints.saved_steps import list_saved
from etrm.errors import CheckpointError
from tests.errors import assert_holds, raises_code

Damage = Callable[[st.DataObject, Path], None]
FILES = ("model.safetensors", "ema.safetensors", "state.safetensors", "state.json")


def made(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        model={"a": torch.randn(2, 3), "b": torch.tensor([step])},
        ema={"a": torch.randn(2, 3)},
        tensors={"step": torch.tensor(float(step)), "done": torch.tensor([True, False])},
        state={"slots": {"0": {"indices": [1, 2]}}, "name": "é"},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    assert (first.step, first.state) == (second.step, second.state)
    for part in ("model", "ema", "tensors"):
        ours, theirs = getattr(first, part), getattr(second, part)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            assert torch.equal(tensor, theirs[name]), name


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    written = made(7)
    path = save(tmp_path / "new" / "folder", written, keep=2)
    assert path.name == "step_00000007"
    assert_same(read(path), written)


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    written = replace(made(1), model={"whole": base, "turned": base.T, "row": base[1]})
    assert_same(read(save(tmp_path, written, keep=1)), written)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 200):
        save(tmp_path, made(step), keep=3)
    assert names(tmp_path) == ["step_00000003", "step_00000010", "step_00000200"]
    assert [path.name for path in list_saved(tmp_path)] == names(tmp_path)


def test_an_absent_folder_contains_no_checkpoint(tmp_path: Path) -> None:
    assert list_saved(tmp_path / "none") == []


def test_a_step_may_be_written_again(tmp_path: Path) -> None:
    save(tmp_path, made(1), keep=1)
    second = made(1)
    assert_same(read(save(tmp_path, second, keep=1)), second)


def test_one_of_a_later_step_never_displaces_the_one_just_written(tmp_path: Path) -> None:
    """A run resumes before a damaged checkpoint and keeps one checkpoint: it must be the new one."""
    save(tmp_path, made(20), keep=1)
    save(tmp_path, made(15), keep=1)
    assert names(tmp_path) == ["step_00000015", "step_00000020"]
    save(tmp_path, made(20), keep=1)
    assert names(tmp_path) == ["step_00000020"]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_write_that_fails_leaves_the_earlier_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    first = made(1)
    save(tmp_path, first, keep=1)
    calls = []

    def full(*args: object) -> None:
        calls.append(1)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        original(*args)

    original = checkpoints.save_file
    monkeypatch.setattr(checkpoints, "save_file", full)
    with raises_code(CheckpointError, "checkpoint.not-written", "step 2", tmp_path) as caught:
        save(tmp_path, made(2), keep=1)
    assert "No space left on device" in caught.value.got
    assert "--resume" in caught.value.next_step
    assert names(tmp_path) == ["step_00000001"]
    assert_same(read(tmp_path / "step_00000001"), first)


def test_a_failed_rename_leaves_the_earlier_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, made(1), keep=1)

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    with raises_code(CheckpointError, "checkpoint.not-written", "step 2", tmp_path, got="read-only"):
        save(tmp_path, made(2), keep=1)
    assert names(tmp_path) == ["step_00000001"]


def test_what_a_killed_process_left_half_written_is_not_a_checkpoint_and_is_removed(tmp_path: Path) -> None:
    half = tmp_path / f".step_00000002.{os.getpid() + 1}.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert list_saved(tmp_path) == []
    save(tmp_path, made(3), keep=1)
    assert names(tmp_path) == ["step_00000003"]


def test_nothing_saved_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, made(1), keep=1)
    assert names(path) == sorted(FILES)
    json.loads((path / "state.json").read_text())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "replaced"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    path = save(tmp_path, made(1), keep=1)
    content = (path / file).read_bytes()
    if damage == "missing":
        (path / file).unlink()
    else:
        (path / file).write_bytes({"empty": b"", "truncated": content[:-9], "replaced": b"[1, 2]"}[damage])
    with raises_code(CheckpointError, "checkpoint.damaged", path) as caught:
        read(path)
    assert caught.value.next_step


@pytest.mark.parametrize("file", FILES[:3])
def test_a_single_changed_bit_of_a_weight_is_detected(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, made(1), keep=1)
    content = bytearray((path / file).read_bytes())
    content[-1] ^= 1
    (path / file).write_bytes(content)
    with raises_code(CheckpointError, "checkpoint.damaged", path) as caught:
        read(path)
    assert_holds(caught.value.got, file)


@pytest.mark.parametrize("key", ["step", "sha256"])
def test_a_state_without_a_needed_key_is_refused(tmp_path: Path, key: str) -> None:
    path = save(tmp_path, made(1), keep=1)
    state = json.loads((path / "state.json").read_text())
    del state[key]
    (path / "state.json").write_text(json.dumps(state))
    with raises_code(CheckpointError, "checkpoint.damaged", path) as caught:
        read(path)
    assert_holds(caught.value.got, "state.json" if key == "step" else "'sha256'")


def test_one_kind_of_weights_is_read_alone_and_with_its_state(tmp_path: Path) -> None:
    written = made(3)
    path = save(tmp_path, written, keep=1)
    (path / "state.safetensors").unlink()
    (path / "model.safetensors").unlink()
    tensors, state = read_weights(path, "ema")
    assert torch.equal(tensors["a"], written.ema["a"])
    assert (state["step"], state["name"]) == (3, "é")


def test_a_changed_state_is_detected(tmp_path: Path) -> None:
    path = save(tmp_path, made(1), keep=1)
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"step": 1', '"step": 7'))
    with raises_code(CheckpointError, "checkpoint.damaged", path) as caught:
        read(path)
    assert_holds(caught.value.got, "state.json")


def test_a_checkpoint_without_a_digest_of_its_state_is_still_read(tmp_path: Path) -> None:
    written = made(1)
    path = save(tmp_path, written, keep=1)
    state = json.loads((path / "state.json").read_text())
    del state["sha256"]["state.json"]
    (path / "state.json").write_text(json.dumps(state))
    assert_same(read(path), written)


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_altered_byte_is_found_or_harmless(tmp_path: Path, damage: Damage, data: st.DataObject) -> None:
    """Any bit of any file flipped, or any file cut anywhere: an error, or the very same checkpoint."""
    whole = tmp_path / "step_00000001"
    written = Checkpoint(
        1, {"a": torch.ones(2)}, {"a": torch.zeros(2)}, {"n": torch.tensor(3)}, {"x": [1e-5]}
    )
    if not whole.exists():
        save(tmp_path, written, keep=1)
    altered = tmp_path / "altered"
    shutil.rmtree(altered, ignore_errors=True)
    shutil.copytree(whole, altered)
    file = altered / data.draw(st.sampled_from(FILES))
    damage(data, file)
    try:
        found = read(altered)
    except CheckpointError:
        return
    assert_same(found, written)


def test_what_an_interrupted_save_left_is_removed(tmp_path: Path) -> None:
    for step in range(1, 5):
        save(tmp_path, made(step), keep=9)
    for name in (".step_00000001.dropped.tmp", ".step_00000005.77.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    checkpoints.tidy(tmp_path / "step_00000003", keep=2)
    assert names(tmp_path) == ["step_00000002", "step_00000003", "step_00000004"]
