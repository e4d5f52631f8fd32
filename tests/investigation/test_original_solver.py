"""The stages of the original solver: one repair each, and what the first ones show when they are really run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.errors import RunFolderError
from etrm.investigation.original_solver import FILE, PRESET, STAGES, Story, tell
from etrm.investigation.records import Verdict
from tests.errors import raises_code
from tests.investigation.planted import inline

SMALL = with_settings(
    load(PRESET),
    data={"max_tasks": 30, "max_side": 4},
    evaluate={"max_tasks": 10},
    train={"batch_size": 4, "checkpoint_every": 3},
)


def test_every_stage_repairs_one_thing() -> None:
    assert STAGES[0].faults
    assert STAGES[-1].faults == ()
    for before, after in pairwise(STAGES):
        fixed = set(before.faults) - set(after.faults)
        changed = {name for name in after.symbolic if after.symbolic[name] != before.symbolic[name]}
        assert len(fixed) + len(changed) == 1, after.code
        assert set(after.faults) <= set(before.faults)


def test_every_stage_is_a_config_that_can_be_trained() -> None:
    configs = [stage.config(SMALL, 5, 3) for stage in STAGES]
    assert {(config.train.steps, config.train.seed) for config in configs} == {(5, 3)}
    assert len({config.to_json() for config in configs}) == len(STAGES)


@pytest.mark.slow
def test_the_loss_of_the_system_as_found_is_a_constant_and_its_answer_ignores_the_demonstrations(
    tmp_path: Path,
) -> None:
    phases: list[str] = []
    story = tell(
        tmp_path,
        inline(),
        command="",
        progress=lambda phase, done, total: phases.append(phase),
        steps=3,
        stages=(STAGES[0], STAGES[3]),
        base=SMALL,
        hypotheses=("H3",),
    )
    found, repaired = story.stages
    assert found.loss_before == found.loss_after
    assert repaired.loss_before != repaired.loss_after
    assert {one.id: one.verdict for one in found.verdicts}["H3"] is Verdict.VALIDATED
    assert found.run.final["held_out_asked"] == 10
    assert {one.name for one in story.baselines} == {"copy input", "all black", "most frequent colour"}
    copy = next(one for one in story.baselines if one.name == "copy input")
    assert (
        found.run.final["held_out_token_accuracy"] >= copy.token_accuracy
    )  # the solver's sizes are scored too
    assert Story.read(tmp_path) == story
    assert phases


@pytest.mark.parametrize("text", [None, "{}", "no JSON"])
def test_a_folder_without_a_story_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with raises_code(RunFolderError, "story.unreadable"):
        Story.read(tmp_path)
