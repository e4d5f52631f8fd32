from __future__ import annotations

import torch

from benchmarks.performance.model.plain import LADDER
from benchmarks.performance.model.published import time_published
from benchmarks.performance.model.workload import PUBLISHED
from benchmarks.performance.section import Conditions
from etrm.config import Config, with_settings
from etrm.data import TaskSet

CPU = torch.device("cpu")


def test_each_rung_and_ours_take_a_turn_each(config: Config, tasks: TaskSet) -> None:
    tiny = with_settings(config, data=PUBLISHED, train={"batch_size": 1}, model={"encoder": {"layers": 1}})
    timings = time_published(tiny, tasks, Conditions(CPU, 1), LADDER[1:2])
    assert [timing.name for timing in timings] == [
        LADDER[1][0],
        "our modules, on the same padded demos",
        "+ real demos only: ours",
    ]
    assert all(len(timing.seconds) == 1 for timing in timings)
