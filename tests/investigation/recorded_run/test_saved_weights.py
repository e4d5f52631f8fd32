"""The weights in checkpoints: each alteration is named, and a healthy run has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.saved_steps import name_of
from etrm.config import with_settings
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.recorded_run.saved_weights import judge_saved_weights


def alter(folder: Path, change: Callable[[Checkpoint], Checkpoint], step: int = 20) -> None:
    """Write a checkpoint again with a change, and with digests that fit."""
    path = folder / "checkpoints" / name_of(step)
    checkpoints.save(path.parent, change(checkpoints.read(path)), keep=9)


def failed(folder: Path) -> dict[tuple[str, str], RecordedFact]:
    facts = list(judge_saved_weights(RunUnderTest.read(folder)))
    assert len({(fact.row.code, fact.row.item) for fact in facts}) == len(facts)
    return {(fact.row.code, fact.row.item): fact for fact in facts if fact.row.passed is False}


def test_a_healthy_run_passes_and_its_parts_moved(kept_healthy: Path) -> None:
    assert failed(kept_healthy) == {}
    run = RunUnderTest.read(kept_healthy)
    old, new = (one.model for one in run.checkpoints)
    names = [name for name in new if name.startswith("encoder.")]
    change = torch.cat([(new[name] - old[name]).flatten().double() for name in names]).norm()
    moved = {
        fact.row.item: fact.row.treatment
        for fact in judge_saved_weights(run)
        if fact.row.code == "run.part-moved"
    }
    size = torch.cat([old[name].flatten().double() for name in names]).norm()
    assert abs(moved["encoder"] - float(change / size)) < 1e-9
    assert moved.keys() == {"encoder", "core"}


def test_an_average_that_was_not_accumulated_is_named(healthy: Path) -> None:
    name = "core.lm_head.weight"
    alter(healthy, lambda c: replace(c, ema=c.ema | {name: 1.01 * c.ema[name]}))
    ((key, fact),) = failed(healthy).items()
    assert key == ("run.average-of-weights", "")
    assert (fact.hypotheses, fact.proves) == (("H6",), True)
    assert name in fact.row.note


def test_an_average_that_was_never_updated_is_named(healthy: Path) -> None:
    alter(healthy, lambda c: replace(c, ema=c.model, state=c.state | {"ema_updates": 0}))
    assert failed(healthy).keys() == {("run.average-updates", "")}


def test_an_average_of_weights_that_are_not_finite_is_no_fault_of_the_average(healthy: Path) -> None:
    def spoil(c: Checkpoint) -> Checkpoint:
        tensors = {
            k: torch.full_like(t, torch.nan) if k.startswith("ema.") else t for k, t in c.tensors.items()
        }
        return replace(c, tensors=tensors, ema={k: torch.full_like(t, torch.nan) for k, t in c.ema.items()})

    alter(healthy, spoil)
    assert failed(healthy).keys() == {("run.weights-not-finite", "")}


def test_weights_that_are_not_finite_are_counted(healthy: Path) -> None:
    name = "core.H_init"
    alter(healthy, lambda c: replace(c, model=c.model | {name: torch.full_like(c.model[name], torch.nan)}))
    assert failed(healthy)["run.weights-not-finite", ""].row.treatment == 1


def test_an_encoder_that_did_not_move_between_checkpoints_is_a_proof(healthy: Path) -> None:
    old = checkpoints.read(healthy / "checkpoints" / name_of(10)).model
    encoder = {name: tensor for name, tensor in old.items() if name.startswith("encoder.")}
    alter(healthy, lambda c: replace(c, model=c.model | encoder))
    found = failed(healthy)
    fact = found["run.tensors-unmoved", "encoder"]
    assert (fact.row.treatment, fact.hypotheses, fact.proves) == (len(encoder), ("H2",), True)
    assert found.keys() == {("run.tensors-unmoved", "encoder")}


def test_a_single_checkpoint_is_compared_with_the_random_start(healthy: Path) -> None:
    first = healthy / "checkpoints" / name_of(10)
    run = replace(RunUnderTest.read(healthy), saved=(first,))
    start = {
        name: tensor for name, tensor in run.start.model.state_dict().items() if name.startswith("core.")
    }
    alter(healthy, lambda c: replace(c, model=c.model | start), step=10)
    items = [
        (fact.row.item, fact.row.passed) for fact in judge_saved_weights(run) if "unmoved" in fact.row.code
    ]
    assert items == [("encoder", True), ("core", False)]


def test_a_head_that_stands_still_is_no_core_that_does(healthy: Path) -> None:
    old = checkpoints.read(healthy / "checkpoints" / name_of(10)).model
    head = {name: tensor for name, tensor in old.items() if name.startswith("core.q_head.")}
    alter(healthy, lambda c: replace(c, model=c.model | head))
    assert failed(healthy) == {}
    core = {name: tensor for name, tensor in old.items() if name.startswith("core.")}
    alter(healthy, lambda c: replace(c, model=c.model | core))
    fact = failed(healthy)["run.tensors-unmoved", "core"]
    assert (fact.hypotheses, fact.proves) == (("H4",), False)


def test_a_part_that_the_settings_freeze_must_stand_still(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    frozen = replace(run, config=with_settings(run.config, train={"freeze_decoder_steps": 20}))
    (fact,) = [fact for fact in judge_saved_weights(frozen) if fact.row.passed is False]
    assert (fact.row.code, fact.row.item, fact.hypotheses) == ("run.frozen-tensors-moved", "core", ("H1",))
