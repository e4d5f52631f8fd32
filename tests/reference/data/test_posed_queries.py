"""Demonstrations as queries: by hand, and as the loader poses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etrm.config import DataConfig, with_settings
from etrm.data import collate, open_episodes, pose_demonstrations
from etrm.reference.data.posed_queries import pose
from etrm.training.task_sets import load_training_tasks
from tests.reference.training.test_step import config_of

CPU = torch.device("cpu")


def test_a_pair_of_single_cells_is_posed_by_hand() -> None:
    """Colour 3 at row 1, column 2 becomes colour 4 there; posed at the top-left, with itself as demonstration."""
    place = 30 + 2
    shown = np.array([5, 1, 1, 6, 1, 1]), np.array([p + area for area in (0, 900) for p in (place, 62, 33)])
    found = pose([[shown]], DataConfig(), CPU)
    assert found.inputs.tolist() == [[5, 1, 1, 0]]
    assert found.labels.tolist() == [[6, 1, 1, -100]]
    assert found.positions.tolist() == [[0, 1, 30, 31]]
    assert found.owner.tolist() == [0]
    assert found.valid is not None
    assert found.valid.all()


@pytest.mark.parametrize("data", [{}, {"translate": 2}, {"canvas": "published", "max_tasks": 2}])
def test_every_row_is_posed_as_the_loader_does(data: dict[str, object]) -> None:
    config = with_settings(config_of(), data=data)  # type: ignore[arg-type]
    episodes = open_episodes(load_training_tasks(config), config.data, config.model.variant, 0)
    samples = [episodes.sample(0, index) for index in range(5)]
    sets = [pose_demonstrations(sample) for sample in samples]
    wanted = collate([query for queries in sets for query in queries])
    shown = [[(demo.tokens, demo.positions) for demo in sample.demos] for sample in samples]
    found = pose(shown, config.data, CPU)
    assert found.inputs.equal(wanted.inputs)
    assert found.labels.equal(wanted.labels)
    assert found.positions.equal(wanted.positions)
    assert (found.valid is None) == (wanted.valid is None)
    assert found.valid is None or wanted.valid is None or found.valid.equal(wanted.valid)
    assert found.owner.tolist() == [row for row, queries in enumerate(sets) for _ in queries]
