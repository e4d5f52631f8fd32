"""The stream of rule tasks and its reference, which draws one task at a time, give the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from etrm.config import DataConfig
from etrm.data import Sample, choose_training_tasks, open_episodes
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.reference.data.loaded_rows import compare_passes, compare_task_sets
from etrm.reference.data.stream_loader import list_stream_tasks, open_reference

SETTINGS: dict[str, dict[str, Any]] = {
    "endless": {"source": "rules:colours", "stream": "endless", "max_side": 3},
    "fixed": {"source": "rules:dihedral,shift+colours", "stream": 300, "buckets": 2, "demos": (2, 4)},
    "curriculum": {
        "source": "rules:recolour",
        "stream": "endless",
        "curriculum": ((3, 5), (5, 10)),
        "replay": 0.3,
    },
    "held-out rules": {"source": "rules:shift,recolour", "subset": "evaluation", "stream": 40, "max_side": 4},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_reference_draws_the_same_rows_and_tasks(name: str) -> None:
    data = DataConfig(**SETTINGS[name])
    tasks = choose_training_tasks(data)
    episodes, reference = open_episodes(tasks, data, "etrm", 5), open_reference(data, True, 5)
    assert compare_task_sets(tasks, list_stream_tasks(data)) == []
    assert [episodes.bucket_at(step) for step in range(50)] == [
        reference.bucket_at(step) for step in range(50)
    ]
    assert compare_passes(reference, lambda *place: plain_row(episodes.sample(*place)), limit=20) == []


def test_a_loader_that_repeats_a_task_departs() -> None:
    data = DataConfig(**SETTINGS["endless"])
    episodes = open_episodes(choose_training_tasks(data), data, "etrm", 0)

    def draw(bucket: int, index: int) -> Sample:
        return replace(episodes.sample(bucket, index // 2), serial=index)

    found = compare_passes(open_reference(data, True, 0), lambda *place: plain_row(draw(*place)), limit=10)
    assert {departure.tensor for departure in found} == {"episode"}
