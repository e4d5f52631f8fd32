from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from benchmarks.family.device_episodes import (
    COLUMNS,
    NAMES,
    SHIFTS,
    DeviceEpisodes,
    DrawnTasks,
    HeldOut,
    find_held_out,
)
from etrm.data import Pair
from etrm.data.rules import CONDITIONS, TaskRule, draw_rule_tasks, find_explanations, parse_rule_id

CPU = torch.device("cpu")


@functools.cache
def held_out() -> HeldOut:
    """No colour map is known to be held out: what the lookup does is tested on its own."""
    nothing = {"keys": np.arange(1), "bits": np.zeros((1, 9), dtype=np.uint8)}
    return HeldOut.load(nothing, CPU)


@functools.cache
def drawn(side: int, count: int = 600) -> DrawnTasks:
    episodes = DeviceEpisodes(held_out(), torch.Generator().manual_seed(side))
    return episodes.draw(count, side, torch.ones(len(NAMES)))[0]


def explanations(tasks: DrawnTasks, row: int) -> list[TaskRule]:
    grids = zip(tasks.inputs[row, :3].byte().numpy(), tasks.outputs[row, :3].byte().numpy(), strict=True)
    return find_explanations([Pair(a, b) for a, b in grids])


@pytest.mark.parametrize("side", [3, 6])
def test_the_oracle_finds_one_rule_which_gives_every_output(side: int) -> None:
    tasks = drawn(side)
    assert len(tasks) > 100
    for row in range(60):
        (rule,) = explanations(tasks, row)
        assert "+".join(rule.kinds) == NAMES[tasks.kinds[row]]
        assert np.array_equal(rule.apply(tasks.inputs[row].byte().numpy()), tasks.outputs[row].byte().numpy())
        assert not (not rule.colours and rule.held_out)
        assert not torch.equal(tasks.inputs[row, 3], tasks.outputs[row, 3])


def test_what_is_left_out_has_no_single_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates are kept; the oracle then agrees with the count, where the black cells fit one transform."""
    count, counted = DeviceEpisodes._count_explanations, []

    def keep(self: DeviceEpisodes, *args: torch.Tensor) -> torch.Tensor:
        counted.append(count(self, *args))
        return torch.ones_like(counted[0])

    monkeypatch.setattr(DeviceEpisodes, "_count_explanations", keep)
    episodes = DeviceEpisodes(held_out(), torch.Generator().manual_seed(0))
    tasks, _ = episodes.draw(400, 3, torch.ones(len(NAMES)))
    assert [len(explanations(tasks, row)) for row in range(150)] == counted[0][:150].tolist()
    assert {1, 2} <= set(counted[0].tolist())


def test_every_combination_of_parts_and_every_part_is_drawn() -> None:
    tasks = drawn(4, 4000)
    assert set(tasks.kinds.tolist()) == set(range(len(NAMES)))
    rules = [explanations(tasks, row)[0] for row in range(400)]
    assert {rule.dihedral for rule in rules} == set(range(8))
    assert {rule.shift for rule in rules} == set(SHIFTS)
    assert {rule.recolour[0] for rule in rules if rule.recolour} == set(CONDITIONS)
    assert {len(rule.colours) for rule in rules} == {0, 2, 3, 4}


def test_the_filled_share_and_the_palettes_are_those_of_the_family() -> None:
    ours = drawn(4, 4000).inputs
    theirs = np.stack(
        [
            [*(pair.input for pair in task.demos), task.tests[0].input]
            for task in draw_rule_tasks("rules", "training", 4, 300)
            if task.tests[0].input.shape == (4, 4)
        ]
    )
    assert (ours != 0).float().mean().item() == pytest.approx((theirs != 0).mean(), abs=0.02)
    sizes = [np.mean([len(set(np.unique(grids)) - {0}) for grids in some]) for some in (ours.numpy(), theirs)]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.15)


def test_held_out_flags_are_those_of_the_rules() -> None:
    arrays = find_held_out(colours=4)
    held = HeldOut.load(arrays, CPU)
    assert (
        len(held.keys) == 11
    )  # by hand, of three colours: three maps of each of three pairs, and two cycles
    seen = 0
    for key, flags in zip(held.keys.tolist(), held.maps.tolist(), strict=True):
        pairs = tuple((a, key // 10 ** (a - 1) % 10) for a in (1, 2, 3) if key // 10 ** (a - 1) % 10)
        for column, flag in zip(COLUMNS, flags, strict=True):
            rule = TaskRule(column.dihedral, column.shift, pairs, column.recolour)
            assert flag == rule.held_out
            seen += flag
    assert seen


def test_no_held_out_colour_map_is_drawn() -> None:
    held = HeldOut.load(find_held_out(colours=5), CPU)
    episodes = DeviceEpisodes(held, torch.Generator().manual_seed(1))
    tasks, _ = episodes.draw(30_000, 3, torch.ones(len(NAMES)))
    known = [
        row for row in range(len(tasks)) if int(torch.cat((tasks.inputs[row], tasks.outputs[row])).max()) < 5
    ]
    rules = [explanations(tasks, row)[0] for row in known]
    assert len([rule for rule in rules if rule.colours]) > 20
    assert not [rule.id for rule in rules if rule.held_out]


def test_evaluation_tasks_are_named_by_their_rules() -> None:
    (task, *_) = draw_rule_tasks("rules", "evaluation", 6, 2)
    assert "+".join(part.split("-")[0] for part in parse_rule_id(task.id).split("+")) in NAMES
