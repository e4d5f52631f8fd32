"""Workers that draw ahead: the same samples, also when one dies, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from etrm.checkpoints.run_folder import read_metrics
from etrm.config import Config, load, with_settings
from etrm.data import Episodes, Sample, choose_tasks, choose_training_tasks, open_episodes
from etrm.data.build import build_store
from etrm.errors import DataError
from etrm.training.execution.prefetch import CHUNK, LARGEST_CHUNK, Prefetch
from etrm.training.faults import build_loader, build_recipe
from etrm.training.slots import Draw
from etrm.training.trainer import train
from tests.errors import raises_code
from tests.training.runs import wait_for_no_worker

CONFIG = with_settings(load("smoke"), data={"workers": 2, "buckets": 2}, faults=("demos-from-other-task",))


def plain(sample: Sample) -> dict[str, object]:
    values = {field.name: getattr(sample, field.name) for field in fields(sample)}
    values["demos"] = [(demo.tokens.tolist(), demo.positions.tolist()) for demo in sample.demos]
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def episodes_of(config: Config) -> Episodes:
    return Episodes(choose_tasks(config.data), config.data, config.model.variant, config.train.seed)


@pytest.fixture
def prefetch() -> Iterator[Prefetch]:
    found = Prefetch(CONFIG, episodes_of(CONFIG), build_loader, depth=20)
    yield found
    found.close()
    wait_for_no_worker()


@pytest.mark.slow
def test_a_stream_of_rules_is_the_same_with_workers_who_draw_whole_blocks() -> None:
    rules = {"source": "rules:colours", "stream": "endless", "max_side": 3, "max_tasks": None}
    config = with_settings(load("smoke"), data={**rules, "workers": 1, "augmentations": 1})
    episodes = open_episodes(choose_training_tasks(config.data), config.data, "etrm", 0)
    found = Prefetch(config, episodes, build_loader, depth=4)
    draw, found._draw = found._draw, no_draw
    for index in (0, 1, 511, 512, 600):
        assert plain(found(episodes, 0, index)) == plain(draw(episodes, 0, index))
    found.close()
    wait_for_no_worker()


def no_draw(episodes: Episodes, bucket: int, index: int) -> Sample:
    raise AssertionError("drawn in this process")


def test_the_workers_hand_over_the_very_same_samples_and_end(prefetch: Prefetch) -> None:
    """Faults included; any rising order, then going back, as a resumed run does; then one worker dies."""
    episodes, draw = prefetch._episodes, prefetch._draw
    prefetch._draw = no_draw
    rng = np.random.default_rng(0)
    places = [0, 0]
    for _ in range(60):
        bucket = int(rng.integers(2))
        sample = prefetch(episodes, bucket, places[bucket])
        assert plain(sample) == plain(draw(episodes, bucket, places[bucket]))
        places[bucket] += int(rng.choice([1, 1, 1, 2, 3 * CHUNK]))
        assert len(prefetch._ahead[bucket]) <= 1 + -(-20 // CHUNK)
    prefetch._draw = draw
    assert plain(prefetch(episodes, 0, 1)) == plain(draw(episodes, 0, 1))  # long passed

    pids = [process.pid for process in multiprocessing.active_children()]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    with pytest.warns(
        RuntimeWarning, match=r"data\.workers\) died: .*Training continues and draws the same samples"
    ):
        found = [prefetch(episodes, 0, index) for index in range(places[0], places[0] + 200)]
    for index, sample in enumerate(found, places[0]):
        assert plain(sample) == plain(draw(episodes, 0, index))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        prefetch(episodes, 1, places[1])


def stuck_in_workers(config: Config) -> Draw:
    """A loader that never answers in a worker."""
    draw = build_loader(config)

    def stuck(episodes: Episodes, bucket: int, index: int) -> Sample:
        while multiprocessing.parent_process() is not None:
            time.sleep(1)
        return draw(episodes, bucket, index)

    return stuck


def test_a_worker_that_does_not_answer_is_reported_and_ended() -> None:
    episodes = episodes_of(CONFIG)
    found = Prefetch(CONFIG, episodes, stuck_in_workers, depth=8, limit=0.2)
    with pytest.warns(RuntimeWarning, match="data.workers"):
        sample = found(episodes, 0, 0)
    assert plain(sample) == plain(build_loader(CONFIG)(episodes, 0, 0))
    assert plain(found(episodes, 0, 1)) == plain(build_loader(CONFIG)(episodes, 0, 1))  # without another wait
    wait_for_no_worker()


def test_workers_that_do_not_start_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *args: time.sleep(0.2))
    episodes = episodes_of(CONFIG)
    found = Prefetch(CONFIG, episodes, build_loader, depth=8, limit=0.01)
    with pytest.warns(RuntimeWarning, match=r"data\.workers\) did not start"):
        sample = found(episodes, 0, 0)
    assert plain(sample) == plain(build_loader(CONFIG)(episodes, 0, 0))


def test_a_worker_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etrm.training.execution.prefetch.close_pool", lambda pool: False)
    with pytest.warns(RuntimeWarning, match=r"data\.workers\) did not end"):
        Prefetch(CONFIG, episodes_of(CONFIG), build_loader, depth=8).close()


@pytest.mark.parametrize(("depth", "size"), [(20, CHUNK), (160, 20), (10_000, LARGEST_CHUNK)])
def test_messages_are_larger_for_large_batches(depth: int, size: int) -> None:
    assert Prefetch(CONFIG, episodes_of(CONFIG), build_loader, depth)._size == size


def test_other_episodes_are_drawn_here() -> None:
    prefetch = Prefetch(CONFIG, episodes_of(CONFIG), build_loader, depth=20)
    other = episodes_of(CONFIG)
    assert plain(prefetch(other, 1, 5)) == plain(build_recipe(CONFIG).draw(other, 1, 5))
    prefetch.close()
    assert multiprocessing.active_children() == []  # no worker was needed, so none was started


def test_a_run_with_workers_and_a_store_is_the_same_run(tmp_path: Path) -> None:
    plainly = with_settings(
        load("smoke"),
        data={"augmentations": 6, "curriculum": ((3, 3), (5, 3)), "replay": 0.5},
        train={"steps": 6, "checkpoint_every": 3},
        monitor={"enabled": False},
    )
    build_store(tmp_path / "store", choose_tasks(plainly.data), 6, 0)
    fed = with_settings(plainly, data={"store": tmp_path / "store", "workers": 1})
    assert train(plainly, tmp_path / "plain")
    assert train(fed, tmp_path / "fed")
    assert read_metrics(tmp_path / "plain") == read_metrics(tmp_path / "fed")
    files = [f"checkpoints/step_00000006/{name}.safetensors" for name in ("model", "ema", "state")]
    for name in files:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "fed" / name).read_bytes()
    wait_for_no_worker()


def test_an_error_in_a_worker_is_the_error_of_the_run(tmp_path: Path) -> None:
    data = {"augmentations": 3, "workers": 1, "store": tmp_path / "store"}
    config = with_settings(load("smoke"), data=data, train={"steps": 3})
    build_store(tmp_path / "store", choose_tasks(config.data), 3, 0)
    for path in (tmp_path / "store" / "shards").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with raises_code(DataError, "store.altered-file", tmp_path / "store", "SHA-256", "etrm data build"):
        train(config, tmp_path / "run")


LONG = """
import sys
from pathlib import Path
from etrm.config import load, with_settings
from etrm.training.trainer import train
from tests.training.runs import wait_for_no_worker
if __name__ == "__main__":
    config = with_settings(load("smoke"), data={"workers": 2}, train={"steps": 100000, "checkpoint_every": 100000})
    finished = train(config, Path(sys.argv[1]), on_step=lambda trainer, metrics: print(metrics["step"], flush=True))
    sys.exit(0 if finished else 130)
"""


def find_descendants(process: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    children = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return [found for child in children for found in (child, *find_descendants(child))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_whole_group_leaves_no_process_and_loses_no_step(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 5:
        pass
    started = find_descendants(process.pid)
    assert len(started) >= 3  # the server of workers, and two of them
    if number == signal.SIGKILL:
        os.kill(process.pid, number)  # of the trainer alone: its workers have to notice
    else:
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        done = len(read_metrics(tmp_path / "run"))
        assert (tmp_path / "run" / "checkpoints" / f"step_{done:08d}").is_dir()
        assert "Traceback" not in errors
    ends = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < ends, "a worker is left"
        time.sleep(0.1)
