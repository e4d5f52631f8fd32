from __future__ import annotations

import json
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.data import load_tasks, task_readers
from etrm.reference.data.held_out_tasks import compare_choice
from etrm.reference.departure import PipelineStage
from etrm.training.task_sets import load_held_out_tasks

CONFIG = with_settings(load("smoke"), data={"max_side": 5}, evaluate={"max_tasks": 3})


def test_the_chosen_tasks_are_the_reference() -> None:
    for config in (
        CONFIG,
        with_settings(CONFIG, evaluate={"max_tasks": None, "subset": "training", "allow_trained": ("all",)}),
    ):
        assert compare_choice(load_held_out_tasks(config), config) == []


def test_tasks_that_are_too_large_or_too_many_are_a_departure() -> None:
    for side, most in ((6, 3), (5, 4)):
        (found,) = compare_choice(load_tasks("arc-agi-1", "evaluation", side, most), CONFIG)
        assert found.stage is PipelineStage.QUERIES
        assert found.size == (1 / 3 if most == 4 else 2.0)


def test_solutions_of_other_test_pairs_are_a_departure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"input": [[1]], "output": [[2]]}, {"input": [[3, 4]], "output": [[4, 3]]}]
    asked = {"train": pairs, "test": [{"input": pair["input"]} for pair in pairs]}
    for name, content in (("challenges", asked), ("solutions", [pair["output"] for pair in pairs])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"a": content}))
    config = with_settings(CONFIG, evaluate={"source": str(tmp_path / "challenges.json")})
    assert compare_choice(load_held_out_tasks(config), config) == []
    read = task_readers._with_solutions
    monkeypatch.setattr(
        task_readers,
        "_with_solutions",
        lambda name, raw, held, file: read(name, raw, {name: held[name][::-1]}, file),
    )
    [found] = compare_choice(load_held_out_tasks(config), config)
    assert (found.stage, found.tensor, found.where) == (
        PipelineStage.QUERIES,
        "held-out tasks",
        "task a is altered",
    )


def test_drawn_rules_are_what_their_names_and_the_settings_say() -> None:
    config = with_settings(
        load("rules"),
        data={"max_side": 3},
        evaluate={"source": "rules:colours", "max_tasks": 4, "demos": 2},
    )
    tasks = load_held_out_tasks(config)
    assert compare_choice(tasks, config) == []
    [found] = compare_choice(load_tasks("rules:colours", "evaluation", 3, 4), config)
    assert (found.stage, found.size) == (PipelineStage.QUERIES, 1.0)
    assert found.where.endswith("has 3 demonstrations and 1 queries, not 2 and 1")
