from __future__ import annotations

import torch

from benchmarks.family.__main__ import ARMS
from benchmarks.family.learner import FamilyModel
from benchmarks.family.search_context import search_contexts
from tests.benchmarks.family.test_device_episodes import drawn


def test_a_search_fits_the_demonstrations_and_changes_no_weight() -> None:
    torch.manual_seed(0)
    model, tasks = FamilyModel(ARMS["tiny"]), drawn(3).rows(slice(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    solved, shown = search_contexts(model, tasks, steps=2)
    assert (solved.shape, shown.shape) == ((3,), (3,))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_answer_of_the_query_is_never_seen() -> None:
    torch.manual_seed(0)
    model, tasks = FamilyModel(ARMS["tiny"]), drawn(3).rows(slice(3))
    planted = tasks.outputs.clone()
    planted[:, -1] = 9
    torch.manual_seed(1)
    first = search_contexts(model, tasks, start="noise", steps=2)
    torch.manual_seed(1)
    other = search_contexts(
        model, type(tasks)(tasks.inputs, planted, tasks.kinds, tasks.rules), "noise", steps=2
    )
    assert torch.equal(first[1], other[1])
