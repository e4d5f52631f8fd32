"""Event files read back with TensorBoard's own reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etrm.errors import ConfigError
from reports.runs.tensorboard import Exporter, export
from tests.errors import raises_code

Write = Callable[..., Path]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_events_are_the_numbers_of_the_metrics(tmp_path: Path, write_run: Write) -> None:
    assert export(write_run(), tmp_path / "events") == 30
    found = scalars(tmp_path / "events")
    assert found["accuracy_all"] == [(step, float(np.float32(step / 100))) for step in range(1, 31)]
    assert found["steps_at_halt"] == [(step, 4.0) for step in range(4, 31, 4)]
    assert found["encoder/coverage"] == [(step, 0.5) for step in range(1, 31)]
    assert not {"step", "decoder_frozen"} & set(found)


def test_what_comes_is_added_and_what_is_cut_back_is_purged(
    tmp_path: Path, write_run: Write, step_lines: Callable[..., str]
) -> None:
    folder = write_run(logged=20)
    metrics = folder / "metrics.jsonl"
    exporter = Exporter(folder, tmp_path / "events")
    assert exporter.update() == 20
    with metrics.open("a") as file:
        file.write(step_lines(21, 25))
    assert exporter.update() == 5
    os.truncate(metrics, len(step_lines(1, 10)))
    assert exporter.update() == 10
    exporter.close()
    assert [step for step, _ in scalars(tmp_path / "events")["loss"]] == list(range(1, 11))


def test_a_run_that_has_not_ended_is_written_once_and_left(tmp_path: Path, write_run: Write) -> None:
    assert export(write_run(logged=20), tmp_path / "events", once=True) == 20


def test_exporting_again_doubles_nothing(tmp_path: Path, write_run: Write) -> None:
    folder = write_run()
    export(folder, tmp_path / "events")
    once = scalars(tmp_path / "events")
    export(folder, tmp_path / "events")
    assert scalars(tmp_path / "events") == once


def test_without_the_package_the_command_to_install_it_is_named(
    tmp_path: Path, write_run: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with raises_code(ConfigError, "tensorboard.absent") as error:
        export(write_run(), tmp_path / "events")
    assert error.value.next_step == "pip install 'tensorboard>=2.16'"
    assert not (tmp_path / "events").exists()
