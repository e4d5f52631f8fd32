"""The context of trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from etrm.config import with_settings
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.recorded_run.trained_context import judge_trained_context, measure_share
from etrm.training.scoring.predictor import make_batch
from tests.investigation.recorded_run.test_saved_weights import alter


def test_the_trained_context_of_a_healthy_run_differs_arrives_and_is_used(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    facts = {fact.row.code: fact.row for fact in judge_trained_context(run)}
    assert {code: row.passed for code, row in facts.items()} == {
        "run.context-share": True,
        "run.context-path": True,
        "run.context-used": True,
    }
    newest = run.checkpoints[-1]
    model = run.load_model(newest, "raw")
    with torch.no_grad():
        context = model.encoder(make_batch(model, run.queries).demos).context.double().cpu()
    varying = (context - context.mean(0)).square().mean() / context.square().mean()
    assert abs(float(facts["run.context-share"].treatment) - float(varying)) < 1e-9


def test_an_encoder_whose_weights_collapsed_is_named_for_it_and_not_for_its_path(healthy: Path) -> None:
    """The norm of the last layer multiplies nothing but zeros, so that a constant is all that is left."""
    run = RunUnderTest.read(healthy)
    dead = {
        name: torch.zeros_like(tensor)
        for name, tensor in run.checkpoints[-1].model.items()
        if name.startswith("encoder.") and "embed" in name
    }
    assert dead
    alter(healthy, lambda c: replace(c, model=c.model | dead))
    run = RunUnderTest.read(healthy)
    facts = {fact.row.code: fact for fact in judge_trained_context(run)}
    assert [code for code, fact in facts.items() if fact.undecided] == ["run.context-share"]
    assert not any(fact.row.passed is False for fact in facts.values())
    assert measure_share(run.start.model, run.queries) > 0.01
    late = replace(run.checkpoints[-1], step=1000)
    run.__dict__["checkpoints"] = (late,)  # as after a thousand steps, of which none was logged
    failed = [fact for fact in judge_trained_context(run) if fact.row.passed is False]
    assert [fact.row.code for fact in failed] == ["run.context-share"]
    assert failed[0].hypotheses == ("H4",)


def test_a_model_without_an_encoder_has_no_context_to_judge(kept_healthy: Path) -> None:
    run = RunUnderTest.read(kept_healthy)
    table = with_settings(run.config, model={"variant": "trm"}, data={"augmentations": 1})
    assert list(judge_trained_context(replace(run, config=table))) == []
