"""When contexts count as collapsed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.investigation.recorded_run.context_collapse import explain_collapse, has_lasted, is_collapsed
from etrm.investigation.recorded_run.run_under_test import RunUnderTest


def test_a_collapse_in_training_is_about_dynamics_and_one_from_the_start_about_the_encoder(
    kept_healthy: Path,
) -> None:
    run = RunUnderTest.read(kept_healthy)
    assert run.metrics[0]["start.share"] > 0.1
    assert explain_collapse(run) == ("H4",)
    equal = [m | ({"start.share": 1e-6} if "start.share" in m else {}) for m in run.metrics]
    assert explain_collapse(replace(run, metrics=equal)) == ("H7",)
    variational = {"model": {"encoder": {"kind": "lpn_variational"}}, "train": {"kl_weight": 1.0}}
    assert explain_collapse(replace(run, config=with_settings(run.config, **variational))) == ("H7",)
    assert explain_collapse(replace(run, config=load("symbolic-rules"))) == ("N4", "H3")


@pytest.mark.parametrize(
    ("share", "untrained", "collapsed"),
    [
        (0.01, 0.3, False),
        (5e-4, 0.3, True),
        (9.5e-4, 7.1e-4, False),  # recurrent on smoke after 20 steps: it began so, and grows
        (1e-10, 1e-10, True),  # rounding alone
        (5e-4, None, True),
    ],
)
def test_contexts_are_collapsed_below_the_threshold_and_below_their_random_start(
    share: float, untrained: float | None, collapsed: bool
) -> None:
    assert is_collapsed(share, untrained) is collapsed


def test_a_collapse_must_have_lasted(kept_healthy: Path) -> None:
    def run(shares: dict[int, float]) -> RunUnderTest:
        metrics = [{"step": step, "probe.share": share} for step, share in shares.items()]
        return replace(RunUnderTest.read(kept_healthy), metrics=metrics)

    assert has_lasted(run({100: 0.5, 250: 1e-5, 300: 1e-6}), 300)
    assert not has_lasted(run({101: 0.5, 250: 1e-5, 300: 1e-6}), 300)
    assert not has_lasted(run({20: 1e-6}), 20)
    assert has_lasted(run({}), 300)  # nothing was logged: the weights are all there is
