from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from etrm.checkpoints.decoder_loading import (
    DecoderSource,
    find_differing_settings,
    load_decoder,
    read_source,
)
from etrm.checkpoints.format import Checkpoint, save
from etrm.config import Config, ModelConfig, TrainConfig
from etrm.device import to_host
from etrm.errors import CheckpointError
from etrm.model.core import Core
from etrm.training.trainer import Trainer, train
from tests.errors import assert_holds, raises_code

PUBLISHED = Path(__file__).parent.parent / "parity" / "trm" / "weights.safetensors"
PUBLISHED_CONFIG = {"hidden_size": 32, "num_heads": 4, "H_cycles": 3, "L_cycles": 2, "context_tokens": 4}
Smoke = Callable[..., Config]


def config(**changes: int) -> ModelConfig:
    return ModelConfig(**{**PUBLISHED_CONFIG, **changes})


def core(**changes: int) -> Core:
    return Core(config(**changes), side=5)


def source(tensors: dict[str, Tensor], **settings: int | str) -> DecoderSource:
    return DecoderSource(Path("somewhere.pt"), "unknown", tensors, None, dict(settings))


@pytest.fixture(scope="module")
def trm_run(tmp_path_factory: pytest.TempPathFactory, smoke: Smoke) -> Path:
    """A finished TRM run of four steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("trm") / "run"
    settings = ("model.variant=trm", "data.augmentations=2", "train.steps=4", "train.checkpoint_every=2")
    assert train(smoke(*settings), folder)
    return folder


# -- names --------------------------------------------------------------------------------------------


def test_a_file_with_two_tensors_of_one_name_is_refused(tmp_path: Path) -> None:
    names = ("inner.H_init", "model.inner.H_init")
    save_file({name: torch.full((4,), float(value)) for value, name in enumerate(names)}, tmp_path / "two")
    with raises_code(CheckpointError, "checkpoint.duplicate-tensor", *names):
        read_source(tmp_path / "two", "raw")


@pytest.mark.parametrize("prefix", ["", "_orig_mod.module.model.", "module._orig_mod.model."])
def test_published_names_are_found_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    named = {name.removeprefix("model."): tensor for name, tensor in load_file(PUBLISHED).items()}
    save_file({prefix + name: tensor for name, tensor in named.items()}, tmp_path / "w.safetensors")
    found = read_source(tmp_path / "w.safetensors", "ema")
    loaded = core()
    load_decoder(loaded, found, config(), TrainConfig())
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, named[f"inner.{name}"]), name


def test_the_puzzle_table_is_set_apart() -> None:
    found = read_source(PUBLISHED, "ema")
    assert found.puzzle_table is not None
    assert found.puzzle_table.shape == (6, 32)
    assert len(found.tensors) == 14
    assert not [name for name in found.tensors if "puzzle" in name]
    assert found.weights == "unknown"


# -- what does not fit --------------------------------------------------------------------------------


def test_everything_that_is_missing_or_misshapen_is_listed_and_nothing_is_loaded() -> None:
    tensors = dict(read_source(PUBLISHED, "ema").tensors)
    del tensors["lm_head.weight"], tensors["H_init"]
    tensors["q_head.bias"] = torch.zeros(3)
    target = core()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with raises_code(CheckpointError, "decoder.does-not-fit", "3 of 14", "somewhere.pt") as caught:
        load_decoder(target, source(tensors), config(), TrainConfig())
    for part in ("lm_head.weight: missing", "H_init: missing", "q_head.bias: shape (3,), expected (2,)"):
        assert part in caught.value.got
    assert "somewhere.pt" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_more_than_is_wanted_is_no_error() -> None:
    tensors = dict(read_source(PUBLISHED, "ema").tensors) | {"extra": torch.zeros(1)}
    load_decoder(core(), source(tensors), config(), TrainConfig())


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("H_cycles", 4), ("L_cycles", 6), ("num_heads", 8), ("positions", "none"), ("qk_norm", True)],
)
def test_a_setting_without_weights_that_differs_is_refused_unless_allowed_by_name(
    name: str, theirs: int | str
) -> None:
    tensors = read_source(PUBLISHED, "ema").tensors
    found = source(tensors, **{**PUBLISHED_CONFIG, name: theirs})
    ours = getattr(config(), name)
    assert find_differing_settings(found, config()) == {name: (theirs, ours)}
    with raises_code(CheckpointError, "decoder.other-function", f"{name} {theirs}", ours) as caught:
        load_decoder(core(), found, config(), TrainConfig())
    assert f"model.{name}={theirs}" in caught.value.next_step
    assert f'train.allow_decoder_mismatch=["{name}"]' in caught.value.next_step
    others = tuple(other for other in ("H_cycles", "L_cycles", "num_heads") if other != name)
    with raises_code(CheckpointError, "decoder.other-function", name):
        load_decoder(core(), found, config(), TrainConfig(allow_decoder_mismatch=others))
    load_decoder(core(), found, config(), TrainConfig(allow_decoder_mismatch=(name,)))


def test_a_file_that_says_nothing_of_its_settings_is_taken_as_it_is() -> None:
    assert find_differing_settings(source({}), config()) == {}


# -- sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "file"), [("ema", "ema.safetensors"), ("raw", "model.safetensors")])
def test_a_run_folder_gives_its_newest_checkpoint_and_the_weights_asked_for(
    trm_run: Path, weights: str, file: str
) -> None:
    found = read_source(trm_run, weights)
    newest = trm_run / "checkpoints" / "step_00000004"
    assert found.path == newest / file
    assert found.weights == weights
    assert found.settings["L_cycles"] == 1
    stored = load_file(newest / file)
    assert found.tensors.keys() == {n.removeprefix("core.") for n in stored if n.startswith("core.")}
    assert all(torch.equal(value, stored[f"core.{name}"]) for name, value in found.tensors.items())
    assert torch.equal(found.puzzle_table, stored["puzzle_table.weights"])


def test_ema_and_raw_weights_differ(trm_run: Path) -> None:
    ema, raw = (read_source(trm_run, weights).tensors["lm_head.weight"] for weights in ("ema", "raw"))
    assert not torch.equal(ema, raw)


def test_a_checkpoint_folder_is_taken_itself(trm_run: Path) -> None:
    older = trm_run / "checkpoints" / "step_00000002"
    assert read_source(older, "raw").path == older / "model.safetensors"


def test_a_run_starts_from_the_decoder_of_another(trm_run: Path, smoke: Smoke) -> None:
    trainer = Trainer(smoke(f'train.decoder="{trm_run}"', "monitor.enabled=false"))
    expected = read_source(trm_run, "ema").tensors
    for name, value in trainer.model.core.state_dict().items():
        assert torch.equal(to_host(value), expected[name]), name


def test_a_torch_save_file_is_read(tmp_path: Path) -> None:
    tensors = load_file(PUBLISHED)
    torch.save(tensors, tmp_path / "w.pt")
    found = read_source(tmp_path / "w.pt", "ema")
    assert torch.equal(found.tensors["lm_head.weight"], tensors["model.inner.lm_head.weight"])


@pytest.mark.parametrize("write", ["torch.save", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_never_executed(
    tmp_path: Path, write: str, bomb: Callable[[Path], object]
) -> None:
    exploded, file = tmp_path / "exploded", tmp_path / "w.pt"
    payload = {"model.inner.H_init": torch.zeros(2), "x": bomb(exploded)}
    if write == "torch.save":
        torch.save(payload, file)
    else:
        file.write_bytes(pickle.dumps(payload))
    with raises_code(CheckpointError, "checkpoint.not-a-checkpoint", file):
        read_source(file, "ema")
    assert not exploded.exists()
    pickle.loads(pickle.dumps(bomb(exploded)))
    assert exploded.exists()  # the control: it would have gone off


@given(st.binary(max_size=80))
def test_any_bytes_are_a_checkpoint_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for suffix in (".pt", ".safetensors"):
        file = tmp_path_factory.getbasetemp() / f"junk{suffix}"
        file.write_bytes(content)
        with raises_code(CheckpointError, "checkpoint.not-a-checkpoint", file):
            read_source(file, "ema")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_torch_file_is_a_checkpoint_error(tmp_path: Path, zipped: bool, keep: float) -> None:
    file = tmp_path / "w.pt"
    torch.save({"model.inner.H_init": torch.zeros(99)}, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with raises_code(CheckpointError, "checkpoint.not-a-checkpoint", file):
        read_source(file, "ema")


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with raises_code(CheckpointError, "checkpoint.no-tensors", tmp_path / "w.pt", got="list") as caught:
        read_source(tmp_path / "w.pt", "ema")
    assert caught.value.got == "list"


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with raises_code(CheckpointError, "checkpoint.not-a-checkpoint", tmp_path / "none.pt"):
        read_source(tmp_path / "none.pt", "ema")


def test_a_folder_without_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with raises_code(CheckpointError, "checkpoint.absent", tmp_path, "model.variant=trm") as caught:
        read_source(tmp_path, "ema")
    assert "model.variant=trm" in caught.value.next_step


@pytest.mark.parametrize("file", ["ema.safetensors", "state.json"])
def test_an_altered_checkpoint_gives_no_decoder(trm_run: Path, tmp_path: Path, file: str) -> None:
    altered = Path(shutil.copytree(trm_run / "checkpoints" / "step_00000004", tmp_path / "step_00000004"))
    content = bytearray((altered / file).read_bytes())
    spot = content.index(b'"L_cycles": 1') + 12 if file == "state.json" else len(content) - 1
    content[spot] ^= 2
    (altered / file).write_bytes(content)
    with raises_code(CheckpointError, "checkpoint.damaged", altered) as caught:
        read_source(altered, "ema")
    assert_holds(caught.value.got, file)


def test_a_checkpoint_that_does_not_say_its_settings_is_refused(tmp_path: Path) -> None:
    tensors = {"core.H_init": torch.zeros(1)}
    folder = save(tmp_path, Checkpoint(1, tensors, tensors, {}, {"name": "made by hand"}), keep=1)
    with raises_code(CheckpointError, "checkpoint.no-settings", folder):
        read_source(folder, "ema")
