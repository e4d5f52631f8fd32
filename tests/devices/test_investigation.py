"""The investigation with its models on a device: every hypothesis, experiment and fault, with the host's verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from etrm.config import Config, load, with_settings
from etrm.investigation.comparison.screening import with_steps
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.experiments import replayed_mistakes as original
from etrm.investigation.hypotheses import h1_decoder_loading as h1
from etrm.investigation.hypotheses import h2_encoder_gradients as h2
from etrm.investigation.hypotheses import h3_context_interface as h3
from etrm.investigation.hypotheses import h4_training_dynamics as h4
from etrm.investigation.hypotheses import h5_data as h5
from etrm.investigation.hypotheses import h6_evaluator as h6
from etrm.investigation.hypotheses import h7_encoder_capacity as h7
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult, Result
from etrm.investigation.run import investigate
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.session import Investigation
from etrm.training.faults import FAULTS
from tests.investigation.planted import inline

BRIEF = replace(SCREENING, seeds=1, short_seeds=2, short_steps=4, frozen_steps=4, rule_steps=2)
STEPS = 6
"""Of the subject and the controls: at four ACT steps every row begins twice, and the simulation is slow."""


@pytest.fixture
def subject(decoder: Path) -> Config:
    return with_steps(with_settings(load("smoke"), train={"threads": 1, "decoder": decoder}), STEPS)


@pytest.fixture
def investigation(
    tmp_path: Path, subject: Config, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> Investigation:
    whole = Investigation.control_config
    monkeypatch.setattr(
        Investigation, "control_config", lambda self, faults=(): with_steps(whole(self, faults), STEPS)
    )
    return Investigation(
        root=tmp_path / "out",
        subject=subject,
        seeds=(0,),
        launcher=inline(),
        progress=lambda phase, done, total: None,
        tier=BRIEF,
        short_seeds=(0, 1),
    )


@pytest.mark.parametrize("module", [h1, *(pytest.param(one, marks=pytest.mark.slow) for one in (h5, h6, h2))])
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_healthy_subject_is_not_accused(
    investigation: Investigation, module: object, precision: str
) -> None:
    investigation.subject = with_settings(investigation.subject, train={"precision": precision})
    found: HypothesisResult = module.HYPOTHESIS.decide(investigation)  # type: ignore[attr-defined]
    assert found.verdict is Verdict.INVALIDATED
    assert all(control.behaved for control in found.controls)


@pytest.mark.slow
@pytest.mark.parametrize("module", [h3, h4, h7])
def test_what_compares_runs_is_decided(investigation: Investigation, module: object) -> None:
    found: HypothesisResult = module.HYPOTHESIS.decide(investigation)  # type: ignore[attr-defined]
    assert found.runs
    assert all(run.state == "finished" for run in found.runs)
    # Runs of four steps decide nothing; an error would name a control that this is too short for.
    assert found.verdict in (Verdict.INCONCLUSIVE, Verdict.INVALIDATED, Verdict.ERROR)


STRUCTURAL = [
    name
    for name, fault in FAULTS.items()
    if fault.root_cause in ("H1", "H2", "H3", "H5", "H6") and fault.models != "symbolic"
]


@pytest.mark.slow  # the hypotheses above inject most of them as controls
@pytest.mark.parametrize("fault", STRUCTURAL)
def test_an_injected_fault_is_named(
    fault: str, subject: Config, tmp_path: Path, device: torch.device
) -> None:
    cause = FAULTS[fault].root_cause
    faulty = with_settings(subject, faults=(fault,))
    result = _investigate(faulty, tmp_path, (cause,), experiments=False)
    assert result.root_cause == cause


def _investigate(subject: Config, out: Path, hypotheses: tuple[str, ...], *, experiments: bool) -> Result:
    return investigate(
        subject,
        out,
        name="preset smoke",
        tier=BRIEF,
        launcher=inline(),
        command="etrm investigate",
        progress=lambda phase, done, total: None,
        hypotheses=hypotheses,
        experiments=(frozen_decoder.run,) if experiments else (),
    )


@pytest.mark.slow
def test_the_frozen_decoder_experiment(subject: Config, tmp_path: Path, device: torch.device) -> None:
    result = _investigate(subject, tmp_path, ("H1",), experiments=True)
    (experiment,) = result.experiments
    assert {run.state for run in experiment.runs} == {"finished"}


@pytest.mark.slow
def test_the_replayed_mistakes(investigation: Investigation) -> None:
    found = original.run(investigation, original.chosen(["all"]))
    assert found.scenario == "caught"
