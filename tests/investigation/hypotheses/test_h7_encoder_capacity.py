"""H7 on planted losses, its ladder, and from end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.evaluation import paired_t_interval
from etrm.investigation.comparison import screening
from etrm.investigation.comparison.longer_runs import LaterRuns, compare_longer, with_longer_runs
from etrm.investigation.comparison.paired_contrast import TreatmentComparison, compare_losses
from etrm.investigation.comparison.screening import Screen, few_tasks
from etrm.investigation.hypotheses import h7_encoder_capacity as h7
from etrm.investigation.hypotheses import unseen_rules
from etrm.investigation.hypotheses.h7_encoder_capacity import CapacityReason
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation
from etrm.training.faults import apply_faults
from tests.investigation.planted import planted

GIVEN = [1.0, 1.1, 0.9]
LOW = [x / 3 for x in GIVEN]
HALF = [x / 2 for x in GIVEN]
SAME = [1.01 * x for x in GIVEN]
UNCLEAR = [0.5, 1.5, 0.9]


def used(**settings: Any) -> Config:
    return with_settings(load("small"), **settings)


def names(config: Config) -> list[str]:
    return [t.name for t in h7.list_stronger_encoders(config)]


def test_every_rung_of_the_standard_encoder_is_one_step_up() -> None:
    assert names(used()) == ["deeper", "attention", "tokens"]
    deeper = h7.list_stronger_encoders(used())[0]
    assert deeper.setting_texts == ("model.encoder.layers=4", "model.encoder.set_layers=2")


def test_a_variational_encoder_has_the_rungs_of_its_own_weaknesses() -> None:
    weak = used(
        model={"encoder": {"kind": "hybrid_variational", "latent_size": 4}}, train={"kl_weight": 1000}
    )
    assert names(weak) == ["standard", "no-divergence", "wider-latent", "deeper", "tokens"]
    assert names(used(model={"encoder": {"kind": "lpn_variational", "latent_size": 256}})) == [
        "standard",
        "deeper",
        "tokens",
    ]


@pytest.mark.parametrize("fault", ["encoder-one-token", "posterior-collapse"])
@pytest.mark.parametrize("kind", ["standard", "hybrid_standard", "lpn_variational", "recurrent"])
def test_every_arm_is_a_valid_config(fault: str, kind: str) -> None:
    subject = used(faults=(fault,), model={"encoder": {"kind": kind}})
    reference = few_tasks(subject, 20)
    treatments = (
        h7.CEILING,
        *h7.freeze_encoder(reference),
        *h7.list_stronger_encoders(apply_faults(reference)),
    )
    for job in Screen(reference, treatments, (0,)).jobs():
        config = apply_faults(job.config)
        assert config.data.max_tasks == 10
        assert config.data.augmentations == 1
        assert (config.model.variant == "trm") == (job.arm.setting == "ceiling")


def test_where_only_the_encoder_trains_it_is_not_frozen() -> None:
    reference = few_tasks(used(train={"freeze_decoder_steps": 400}), 20)
    assert h7.freeze_encoder(reference) == []


def outcomes(
    ceiling: Sequence[float | None],
    deeper: Sequence[float | None],
    given: Sequence[float | None] = tuple(GIVEN),
    later: Sequence[float | None] = (),
) -> tuple[TreatmentComparison, TreatmentComparison, Judgement]:
    screen = Screen(used(), (h7.CEILING, h7.list_stronger_encoders(used())[0]), tuple(range(len(given))))
    runs = (
        planted(screen.arm(), given)
        + planted(screen.arm("ceiling"), ceiling)
        + planted(screen.arm("deeper"), deeper)
    )
    if later:
        screen = with_longer_runs(screen)
        runs += planted(screen.arm("longer"), later)
    gap, rungs = h7._compare_ceiling(screen, runs), h7._compare_encoders(screen, runs)
    assert rungs is not None
    behind = compare_longer(screen, rungs, runs)
    return gap, rungs, h7.judge(gap, rungs, screen.runs_of(runs), "", 80, behind)


def test_a_gap_that_a_stronger_encoder_closes_is_a_candidate() -> None:
    _, rungs, judged = outcomes(LOW, HALF)
    assert (judged.verdict, judged.candidate) == (Verdict.INCONCLUSIVE, True)
    assert judged.codes == (CapacityReason.AN_ENCODER_GAINS,)
    assert rungs.best.name == "deeper"
    assert "-50 %" in judged.sentence


def test_on_five_seeds_it_is_validated() -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    judged = outcomes([x / 3 for x in given], [x / 2 for x in given], given)[2]
    assert (judged.verdict, judged.candidate) == (Verdict.VALIDATED, False)
    assert judged.codes == (CapacityReason.AN_ENCODER_GAINS,)


@pytest.mark.parametrize(
    ("later", "verdict", "code"),
    [
        (0.8, Verdict.VALIDATED, CapacityReason.AN_ENCODER_GAINS),
        (0.45, Verdict.INVALIDATED, CapacityReason.LEARNS_LATER),
    ],
)
def test_an_encoder_that_learns_the_same_later_is_not_too_weak(
    later: float, verdict: Verdict, code: CapacityReason
) -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    longer = [later * x for x in given]
    _, rungs, judged = outcomes([x / 3 for x in given], [x / 2 for x in given], given, longer)
    assert rungs.best.name == "deeper"
    assert (judged.verdict, judged.codes, judged.candidate) == (verdict, (code,), False)


@pytest.mark.parametrize(
    ("use", "verdict", "code"),
    [
        (0.0, Verdict.VALIDATED, CapacityReason.WITHOUT_CONTEXTS),
        (1.2, Verdict.INCONCLUSIVE, CapacityReason.PERHAPS_LATER),
    ],
)
def test_it_must_learn_from_its_contexts(use: float, verdict: Verdict, code: CapacityReason) -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    gap, rungs, _ = outcomes([x / 3 for x in given], [x / 2 for x in given], given)
    open_loss = compare_losses("deeper", [(0.4, 0.5), (0.9, 0.55), (0.7, 0.45)], 0.125)
    judged = h7.judge(gap, rungs, planted(ArmId("few"), given), "", 80, LaterRuns(open_loss, use, 1.2))
    assert (judged.verdict, judged.codes) == (verdict, (code,))


def test_a_ceiling_that_lost_a_run_leaves_a_candidate() -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    judged = outcomes([None, *(x / 3 for x in given[1:])], [x / 2 for x in given], given)[2]
    assert (judged.verdict, judged.candidate) == (Verdict.INCONCLUSIVE, True)


def test_a_stronger_encoder_needs_to_gain_half_of_what_the_ceiling_does() -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    for gain, verdict in ((0.15, Verdict.VALIDATED), (0.1, Verdict.INVALIDATED)):
        rung = [x * math.exp(-gain + 0.01 * (-1) ** n) for n, x in enumerate(given)]
        assert outcomes([x / 3 for x in given], rung, given)[2].verdict is verdict
    near = [x * math.exp(-0.15 + 0.01 * (-1) ** n) for n, x in enumerate(given)]
    assert outcomes(near, [x / 2 for x in given], given)[2].verdict is Verdict.INVALIDATED


@pytest.mark.parametrize("deeper", [HALF, SAME, UNCLEAR])
def test_without_a_gap_it_is_not_capacity(deeper: list[float]) -> None:
    judged = outcomes(SAME, deeper)[2]
    assert (judged.verdict, judged.candidate) == (Verdict.INVALIDATED, False)
    assert judged.codes == (CapacityReason.NOTHING_TO_GAIN,)


def test_a_gap_that_no_encoder_closes_is_not_capacity() -> None:
    judged = outcomes(LOW, SAME)[2]
    assert (judged.verdict, judged.candidate) == (Verdict.INVALIDATED, False)
    assert judged.codes == (CapacityReason.NO_ENCODER_GAINS,)


@pytest.mark.parametrize(
    ("ceiling", "deeper", "code"),
    [
        (UNCLEAR, HALF, CapacityReason.GAP_UNDECIDED),
        (LOW, UNCLEAR, CapacityReason.ENCODERS_UNDECIDED),
        (UNCLEAR, SAME, CapacityReason.GAP_UNDECIDED),
    ],
)
def test_what_is_open_stays_open(ceiling: list[float], deeper: list[float], code: CapacityReason) -> None:
    judged = outcomes(ceiling, deeper)[2]
    assert (judged.verdict, judged.candidate) == (Verdict.INCONCLUSIVE, False)
    assert judged.codes == (code,)


def test_a_lost_run_or_a_broken_control_is_an_error() -> None:
    gap, rungs, judged = outcomes([None] * 3, HALF, [1.0, None, 1.0])
    assert (judged.verdict, judged.codes) == (Verdict.ERROR, (CommonReason.RUNS_FAILED,))
    assert "planted" in judged.sentence  # the reason of the run
    broken = h7.judge(gap, rungs, planted(ArmId("x"), GIVEN), "a control broke", 80)
    assert (broken.verdict, broken.codes) == (Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,))


@pytest.mark.parametrize(
    ("ceiling", "gains", "later", "climbed"),
    [
        (LOW, "deeper", SAME, ["deeper"]),
        (LOW, "deeper", LOW, ["deeper"]),
        (LOW, "attention", SAME, ["deeper", "attention"]),
        (LOW, "none of them", SAME, ["deeper", "attention", "tokens"]),
        (SAME, "deeper", SAME, []),
        (UNCLEAR, "deeper", SAME, []),
    ],
)
def test_the_ladder_is_climbed_where_there_is_a_gap_and_up_to_the_first_that_gains(
    ceiling: list[float],
    gains: str,
    later: list[float],
    climbed: list[str],
    investigation: Investigation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, tuple[int, ...]] = {}

    def run_screens(investigation: Investigation, phase: str, screens: Sequence[Screen]) -> list[LoadedRun]:
        asked.update({t.name: t.seeds for t in screens[0].treatments})
        losses = {"ceiling": ceiling, gains: HALF, "longer": later}
        return [
            run
            for screen in screens
            for arm, found in [
                (screen.arm(), GIVEN),
                *((screen.arm(t.name), losses.get(t.name, SAME)) for t in screen.treatments),
            ]
            for run in planted(arm, found)
        ]

    monkeypatch.setattr(h7, "run_screens", run_screens)
    monkeypatch.setattr(h7, "broken_controls", lambda controls: "")
    found = h7.HYPOTHESIS.decide(investigation)
    longer = ["longer"] if gains in climbed else []
    assert [name for name in asked if name not in ("ceiling", "frozen-random")] == climbed + longer
    assert found.candidate == (gains in climbed and later is SAME)
    assert (h7.CATCHING_UP.code in {row.code for row in found.evidence}) == bool(longer)
    if climbed:  # twice as many seeds, for the gain is smaller than the gap
        assert {asked[name] for name in climbed + longer} == {(0, 1)}
        assert asked["ceiling"] == asked["frozen-random"] == ()
    rows = {row.item: row for row in found.evidence if row.code == h7.LOSS.code}
    rungs = ("deeper", "attention", "tokens")
    assert [isinstance(rows[rung].treatment, NotMeasured) for rung in rungs] == [
        n >= len(climbed) for n in range(3)
    ]


def test_holms_correction_is_over_the_whole_ladder() -> None:
    given = [1.0, 1.1, 0.9, 1.05, 0.95]
    effects = [0.5, 0.2, 0.35, 0.05, 0.4]
    rung = [x * math.exp(-effect) for x, effect in zip(given, effects, strict=True)]
    screen = Screen(used(), (h7.list_stronger_encoders(used())[0],), tuple(range(5)))
    runs = planted(screen.arm(), given) + planted(screen.arm("deeper"), rung)
    found = h7._compare_encoders(screen, runs)
    assert found is not None
    assert found.p_value == pytest.approx(3 * paired_t_interval(effects).p_value)


def test_a_trm_has_no_encoder_to_be_weak(investigation: Investigation) -> None:
    investigation.subject = with_settings(load("smoke"), model={"variant": "trm"}, data={"augmentations": 1})
    assert h7.HYPOTHESIS.decide(investigation).verdict is Verdict.NOT_RUN


def test_from_end_to_end(investigation: Investigation, monkeypatch: pytest.MonkeyPatch) -> None:
    rung = h7.list_stronger_encoders(apply_faults(investigation.subject))[-1]
    monkeypatch.setattr(h7, "list_stronger_encoders", lambda used: [rung])
    monkeypatch.setattr(type(h7.HYPOTHESIS), "controls", ())
    monkeypatch.setattr(screening, "CONTROL_STEPS", 2)
    monkeypatch.setattr(screening, "CONTROL_SEEDS", (0,))
    monkeypatch.setattr(h7, "few_tasks", lambda subject, steps: few_tasks(subject, 5))
    monkeypatch.setattr(h7, "broken_controls", lambda controls: "")  # two steps show nothing
    found = h7.HYPOTHESIS.decide(investigation)
    assert found.screening
    assert found.verdict is Verdict.INCONCLUSIVE
    assert all(run.state == "finished" for run in found.runs)
    assert [check.passed for check in found.instruments] == [True, True]
    assert {arm.name for arm in found.arms} == {run.arm for run in found.runs}
    assert {curve.figure for curve in found.series} == {figure.key for figure in found.figures}
    rows = {row.code: row for row in found.evidence if row.code != h7.LOSS.code}
    assert isinstance(rows[h7.RETRIEVAL.code].treatment, float)
    rules = [metric.code for metric in unseen_rules.MEASURED.values()]  # a screening asks none
    assert all(isinstance(rows[code].treatment, NotMeasured) for code in rules)
    assert rows[h7.RETRIEVAL.code].note
