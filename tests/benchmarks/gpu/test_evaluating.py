from __future__ import annotations

import torch

from benchmarks.gpu.evaluating import measure_evaluation
from benchmarks.performance.training.runs import PAPER, make_run


def test_all_votes_of_all_tasks_are_computed() -> None:
    config = make_run(PAPER, torch.device("cpu"), evaluate={"max_tasks": 3, "augmentations": 2})
    found = measure_evaluation(config)
    assert (found["tasks"], found["votes"], found["act_steps"]) == (3, 2, 16)
    assert found["samples"] >= 6
    assert found["samples"] % 2 == 0
    assert "gib" not in found
