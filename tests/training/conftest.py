"""A folder of invented tasks, the smoke preset on it, and ways to look at a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from etrm.config import Config, load


def _task(seed: int) -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)

    def pair() -> dict[str, Any]:
        grid = rng.integers(0, 10, rng.integers(1, 5, size=2))
        return {"input": grid.tolist(), "output": np.flipud(grid).tolist()}

    return {"train": [pair() for _ in range(2 + seed % 2)], "test": [pair()]}


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks to train on and three to ask, none above 4x4."""
    folder = tmp_path_factory.mktemp("tasks")
    for subset, seeds in (("training", range(6)), ("evaluation", range(100, 103))):
        (folder / subset).mkdir()
        for seed in seeds:
            (folder / subset / f"task{seed}.json").write_text(json.dumps(_task(seed)))
    return folder


@pytest.fixture(scope="session")
def settings_of_smoke(tasks_folder: Path) -> Callable[..., tuple[str, ...]]:
    """Overrides that put preset smoke on the invented tasks, and any others behind them.

    A compared step takes as long as several, so none is where a test does not ask for it.
    """

    def settings(*others: str) -> tuple[str, ...]:
        source = f'"{tasks_folder}"'
        return (
            f"data.source={source}",
            f"evaluate.source={source}",
            "data.buckets=2",
            "train.batch_size=4",
            "train.threads=1",
            "monitor.reference_every=none",
            *others,
        )

    return settings


@pytest.fixture(scope="session")
def smoke(settings_of_smoke: Callable[..., tuple[str, ...]]) -> Callable[..., Config]:
    """Preset smoke on the invented tasks, with overrides."""
    return lambda *others: load("smoke", overrides=settings_of_smoke(*others))


@pytest.fixture
def weights() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A copy of a module's tensors."""
    return lambda module: {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture
def moved() -> Callable[[dict[str, Tensor], dict[str, Tensor]], set[str]]:
    """Names of the tensors that are not bit for bit the same."""

    def names(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}

    return names


@pytest.fixture
def run_bytes() -> Callable[[Path], dict[str, bytes]]:
    """What a run leaves that must be reproducible: metrics and checkpoints, byte for byte."""

    def read(folder: Path) -> dict[str, bytes]:
        files = [folder / "metrics.jsonl", *sorted((folder / "checkpoints").rglob("*.*"))]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}

    return read


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="session")
def bomb() -> type[Bomb]:
    """Makes an object whose pickle would touch the given path."""
    return Bomb


@pytest.fixture(scope="session")
def damage() -> Callable[[st.DataObject, Path], None]:
    """Flips any bit of a file, or cuts it anywhere."""

    def change(data: st.DataObject, file: Path) -> None:
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        else:
            content = content[:place]
        file.write_bytes(content)

    return change


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
