"""The tensors of a decoder, read from files by other code than that of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etrm.reference.departure import PipelineStage
from etrm.reference.training.decoder_file import compare_decoder, read_decoder

CORE = {"H_init": torch.arange(3.0), "lm_head.weight": torch.ones(2, 3)}


def prefixed(prefix: str, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    others = {"encoder.z_H_init": torch.zeros(3), "model.inner.puzzle_emb.weights": torch.zeros(1)}
    return {f"{prefix}{name}": value for name, value in (tensors or CORE).items()} | others


def write_run(folder: Path) -> Path:
    """A run whose newest checkpoint by name is not the newest by step."""
    for step, scale in ((9, 2.0), (10, 1.0)):
        saved = folder / "checkpoints" / f"step_{step}"
        saved.mkdir(parents=True)
        save_file(
            prefixed("core.", {name: scale * value for name, value in CORE.items()}),
            saved / "ema.safetensors",
        )
    return folder


def write_torch(folder: Path) -> Path:
    torch.save(prefixed("_orig_mod.model.inner."), folder / "step_155718")
    return folder / "step_155718"


def write_low(folder: Path) -> Path:
    """In bfloat16, which holds these numbers exactly."""
    low = {name: value.bfloat16() for name, value in CORE.items()}
    save_file(prefixed("model.inner.", low), folder / "low")
    return folder / "low"


@pytest.mark.parametrize("write", [write_run, write_torch, write_low])
def test_a_core_with_the_tensors_of_its_file_departs_nowhere(write: object, tmp_path: Path) -> None:
    held = read_decoder(write(tmp_path), "ema")  # type: ignore[operator]
    assert held is not None
    assert compare_decoder(CORE, held) == []
    [found] = compare_decoder(CORE | {"H_init": torch.arange(3.0) + 1e-6}, held)
    assert (found.stage, found.tensor, found.size) == (PipelineStage.LOADING, "core.H_init", 0.5)


def test_a_tensor_that_the_file_has_not_or_twice_departs(tmp_path: Path) -> None:
    save_file(
        {"core.H_init": CORE["H_init"], "model.inner.H_init": CORE["H_init"].clone()}, tmp_path / "file"
    )
    held = read_decoder(tmp_path / "file", "ema")
    assert held is not None
    assert [found.size for found in compare_decoder(CORE, held)] == [1.0]


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    assert read_decoder(tmp_path / "absent", "ema") is None
    assert read_decoder(tmp_path, "raw") is None
