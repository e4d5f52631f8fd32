"""What the cases of a benchmark share, where several of them want it at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from etrm.config import load
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.unlisted.copy_process import RUN, CopyProcess
from etrm.investigation.unlisted.preparation import Preparation


def test_workers_that_want_the_same_unchanged_run_train_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []
    alone = threading.Event()

    def train(process: CopyProcess, copy: Path, folder: Path, *arguments: Any) -> str:
        trained.append(folder)
        folder.mkdir(parents=True)
        alone.wait(0.2)  # the others begin meanwhile
        return ""

    base = load("smoke")
    monkeypatch.setattr(CopyProcess, "train", train)
    monkeypatch.setattr(Preparation, "packages", tmp_path)
    monkeypatch.setattr(Preparation, "configs", [base])
    prepared = Preparation(base, tmp_path, CopyProcess(SCREENING, (), 1.0))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(prepared.unchanged, [0] * 4))
    assert found == {tmp_path / "unchanged" / "0" / RUN}
    assert trained == [tmp_path / "unchanged" / "0"]
