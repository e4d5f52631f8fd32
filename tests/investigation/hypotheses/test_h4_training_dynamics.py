"""H4 on planted losses, its interventions, and from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.investigation.comparison import screening
from etrm.investigation.comparison.longer_runs import LaterRuns, compare_longer, with_longer_runs
from etrm.investigation.comparison.paired_contrast import TreatmentComparison, compare_losses
from etrm.investigation.comparison.screening import Screen, Treatment, few_tasks
from etrm.investigation.hypotheses import h4_training_dynamics as h4
from etrm.investigation.hypotheses.h4_training_dynamics import DynamicsReason
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.session import Investigation
from etrm.training.faults import apply_faults
from tests.investigation.planted import DIVERGED, planted

GIVEN = [1.0, 1.1, 0.9]


def used(**settings: Any) -> Config:
    return with_settings(load("small"), **settings)


def names(config: Config) -> list[str]:
    return [t.name for t in h4.list_interventions(config)[0]]


def test_what_changes_nothing_is_left_out_and_listed() -> None:
    treatments, left_out = h4.list_interventions(used())
    assert [t.name for t in treatments] == ["rate-x.1", "rate-x.3", "batch"]
    assert len(treatments) + len(left_out) == 9
    assert {t.name for t, _ in left_out} == {
        *("rate-of-decoder", "usual-rate", "clip", "warm-up", "exploration", "no-entropy"),
    }
    assert all(why for _, why in left_out)


@pytest.mark.parametrize(
    ("setting", "added"),
    [
        ({"train": {"clip_norm": None}}, "clip"),
        ({"train": {"clip_norm": 5}}, "clip"),
        ({"train": {"clip_norm": 1e-9}}, "clip"),
        ({"train": {"lr": 10}}, "usual-rate"),
        ({"train": {"lr": 1e-7}}, "usual-rate"),
        ({"train": {"warmup_steps": 41}}, "warm-up"),
        ({"model": {"halt": {"exploration": 0.5}}}, "exploration"),
        ({"model": {"halt": {"exploration": 0}}}, "exploration"),
    ],
)
def test_what_differs_is_put_to_the_test(setting: dict[str, Any], added: str) -> None:
    assert set(names(used(**setting))) - set(names(used())) == {added}


def test_a_weighted_entropy_is_left_out_of_the_loss() -> None:
    weighted = with_settings(load("symbolic-rules"), train={"entropy_weight": 0.5})
    treatments, _ = h4.list_interventions(weighted)
    (found,) = [t for t in treatments if t.name == "no-entropy"]
    assert with_settings(weighted, **found.settings).train.entropy_weight == 0
    assert "no-entropy" not in names(load("symbolic-rules"))


def test_without_a_training_encoder_its_rate_is_left_out() -> None:
    for settings in (
        {"model": {"variant": "trm"}, "train": {"kl_weight": 0}},
        {"train": {"freeze_encoder_steps": 400}},
        {"train": {"encoder_lr_scale": 0}},
    ):
        assert names(used(**settings)) == ["rate-x.3", "batch"]


def test_rates_are_multiples_of_the_rate_in_use() -> None:
    treatments, _ = h4.list_interventions(used(train={"encoder_lr_scale": 100}))
    assert [t.setting_texts for t in treatments[:3]] == [
        ("train.encoder_lr_scale=1.0",),
        ("train.encoder_lr_scale=10.0",),
        ("train.lr=0.0003",),
    ]


def outcome(
    given: Sequence[float | None],
    later: Sequence[float | None] | None = None,
    **treated: Sequence[float | None],
) -> tuple[TreatmentComparison, Judgement]:
    treatments = tuple(
        t for t in h4.list_interventions(used())[0] if t.name.replace("-", "_").replace(".", "") in treated
    )
    screen = Screen(used(), treatments, tuple(range(len(given))))
    runs = planted(screen.arm(), given)
    for t in treatments:
        runs += planted(screen.arm(t.name), treated[t.name.replace("-", "_").replace(".", "")])
    found = screen.compare(runs, [t.name for t in treatments])
    if later is not None:
        screen = with_longer_runs(screen)
        runs += planted(screen.arm("longer"), later)
    behind = compare_longer(screen, found, runs)
    return found, h4.judge(found, screen.runs_of(runs), "", 80, behind)


def test_a_gain_on_three_seeds_is_a_candidate_and_is_named() -> None:
    found, judged = outcome(GIVEN, rate_x1=[x / 2 for x in GIVEN], batch=GIVEN)
    assert (judged.verdict, judged.candidate) == (Verdict.INCONCLUSIVE, True)
    assert judged.codes == (DynamicsReason.A_CHANGE_GAINS,)
    assert found.best.name == "rate-x.1"
    assert "-50 %" in judged.sentence


def test_the_same_gain_on_five_seeds_validates() -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    _, judged = outcome(given, rate_x1=[x / 2 for x in given], batch=given)
    assert (judged.verdict, judged.candidate) == (Verdict.VALIDATED, False)
    assert judged.codes == (DynamicsReason.A_CHANGE_GAINS,)


@pytest.mark.parametrize(
    ("later", "verdict", "reason", "candidate"),
    [
        ([0.8, 0.9, 0.7], Verdict.INCONCLUSIVE, DynamicsReason.A_CHANGE_GAINS, True),
        ([DIVERGED] * 3, Verdict.INCONCLUSIVE, DynamicsReason.A_CHANGE_GAINS, True),
        ([0.4, 0.5, 0.4], Verdict.INVALIDATED, DynamicsReason.LEARNS_LATER, False),
        ([0.4, 0.9, 0.7], Verdict.INCONCLUSIVE, DynamicsReason.PERHAPS_LATER, False),
    ],
)
def test_a_gain_counts_if_longer_runs_stay_behind_it(
    later: list[float], verdict: Verdict, reason: DynamicsReason, candidate: bool
) -> None:
    _, judged = outcome(GIVEN, later, rate_x1=[x / 2 for x in GIVEN], batch=GIVEN)
    assert (judged.verdict, judged.codes, judged.candidate) == (verdict, (reason,), candidate)


def test_what_is_learnt_later_must_be_learnt_from_the_contexts() -> None:
    found, _ = outcome(GIVEN, rate_x1=[x / 2 for x in GIVEN], batch=GIVEN)
    reached = compare_losses("rate-x.1", [(0.4, 0.5), (0.5, 0.55), (0.4, 0.45)], 0.25)
    judged = h4.judge(found, planted(ArmId("few", "as-given"), GIVEN), "", 80, LaterRuns(reached, 0.0, 1.2))
    assert (judged.candidate, judged.codes) == (True, (DynamicsReason.WITHOUT_CONTEXTS,))


def test_arms_start_alike_though_they_weigh_the_loss_otherwise() -> None:
    treatments = [Treatment("no-entropy", "entropy weight 0", {"train": {"entropy_weight": 0.0}})]
    screen = Screen(used(), tuple(treatments), (0,))
    runs = [
        replace(run, metrics=[{"loss": loss, "lm_loss": 2.0}])
        for name, loss in (("as-given", 2.1), ("no-entropy", 2.0))
        for run in planted(screen.arm(name), [1.0])
    ]
    assert h4._check_same_start(screen, runs).passed


def test_the_longer_runs_are_no_intervention() -> None:
    treatments = h4.list_interventions(used())[0]
    screen = with_longer_runs(Screen(used(), (), (0,)))
    runs = planted(screen.arm(), GIVEN) + planted(screen.arm("longer"), [0.01] * 3)
    runs += [run for t in treatments for run in planted(screen.arm(t.name), GIVEN)]
    longer = with_longer_runs(Screen(used(), tuple(treatments), (0, 1, 2)))
    assert "longer" not in {contrast.name for contrast in h4._compare(longer, runs).contrasts}


def test_no_gain_in_any_invalidates_and_names_the_best() -> None:
    found, judged = outcome(GIVEN, rate_x1=[1.01 * x for x in GIVEN], batch=[1.2 * x for x in GIVEN])
    assert (judged.verdict, judged.codes) == (Verdict.INVALIDATED, (DynamicsReason.NO_CHANGE_GAINS,))
    assert found.best.name == "rate-x.1"
    assert found.best.words in judged.sentence


def test_what_is_open_stays_open() -> None:
    found, judged = outcome(GIVEN, rate_x1=[0.5, 1.5, 0.9], batch=GIVEN)
    assert (judged.verdict, judged.codes) == (Verdict.INCONCLUSIVE, (DynamicsReason.UNDECIDED,))
    assert f"{found.seeds_needed} seeds" in judged.sentence


def test_a_subject_that_diverges_is_cured_or_stays_open() -> None:
    cured, _ = outcome([DIVERGED] * 3, rate_x1=GIVEN, batch=[DIVERGED] * 3)
    assert cured.candidate
    _, judged = outcome([DIVERGED] * 3, rate_x1=[DIVERGED] * 3, batch=[DIVERGED] * 3)
    assert (judged.verdict, judged.codes) == (Verdict.INCONCLUSIVE, (DynamicsReason.EVERY_RUN_DIVERGED,))


def test_an_intervention_that_diverges_is_no_gain() -> None:
    _, judged = outcome(GIVEN, rate_x1=[DIVERGED] * 3, batch=GIVEN)
    assert judged.verdict is Verdict.INVALIDATED


def test_a_broken_control_or_a_lost_run_is_an_error() -> None:
    found, judged = outcome([1.0, None, 1.0], rate_x1=GIVEN, batch=GIVEN)
    assert (judged.verdict, judged.codes) == (Verdict.ERROR, (CommonReason.RUNS_FAILED,))
    assert "planted" in judged.sentence  # the reason of the run
    assert h4.judge(found, planted(ArmId("few"), GIVEN), "a control broke", 80) == Judgement(
        Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), "a control broke"
    )


def test_settings_are_compared_with_those_of_the_decoder(decoder: object) -> None:
    same = with_settings(load("smoke"), train={"decoder": decoder})
    row = h4._compare_settings(same)
    assert all(fact in row.note for fact in ("train.batch_size", "16", "8"))
    assert isinstance(row.treatment, float)
    assert isinstance(h4._compare_settings(used()).treatment, NotMeasured)


def test_from_end_to_end(investigation: Investigation, monkeypatch: pytest.MonkeyPatch) -> None:
    few = h4.list_interventions(apply_faults(investigation.subject))
    monkeypatch.setattr(h4, "list_interventions", lambda used: (few[0][-2:], few[1]))
    monkeypatch.setattr(h4, "CURES", {})
    monkeypatch.setattr(screening, "CONTROL_STEPS", 2)
    monkeypatch.setattr(screening, "CONTROL_SEEDS", (0,))
    monkeypatch.setattr(h4, "few_tasks", lambda subject, steps: few_tasks(subject, 5))
    monkeypatch.setattr(h4, "broken_controls", lambda controls: "")  # two steps show nothing
    found = h4.HYPOTHESIS.decide(investigation)
    assert found.screening
    assert found.verdict is Verdict.INCONCLUSIVE
    assert not found.candidate
    assert all(run.state == "finished" for run in found.runs)
    assert [check.passed for check in found.instruments] == [True, True]
    assert {arm.name for arm in found.arms} == {run.arm for run in found.runs}
    assert {curve.figure for curve in found.series} == {figure.key for figure in found.figures}
