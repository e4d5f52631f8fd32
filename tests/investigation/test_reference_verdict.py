"""What a departure from the reference means for each hypothesis."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from etrm.config import Config, check_request, load, with_settings
from etrm.investigation import reference_verdict
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import Verdict
from etrm.investigation.reference_comparison.reference_check import ReferenceFacts
from etrm.investigation.reference_verdict import (
    HYPOTHESES,
    ReferenceReason,
    compare_course,
    compare_loading,
    compare_recorded,
    course_job,
    decide_from_reference,
    explain_departure,
    judge_reference,
    with_reference,
)
from etrm.investigation.result import CauseCode, HypothesisResult, ReferenceResult
from etrm.investigation.root_cause import find_root_cause
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.stages.before_model import FROZEN_PART
from etrm.training.monitoring.step_check import ComparedStep
from etrm.training.trainer import train
from tests.investigation.planted import inline, planted

SMOKE = load("smoke")
REFERENCE_CHECK = "etrm.investigation.reference_comparison.reference_check"


@pytest.fixture(autouse=True)
def control(monkeypatch: pytest.MonkeyPatch) -> None:
    """The healthy control departs at the stage ``data`` alone."""
    found = ReferenceFacts(others=(Departure(PipelineStage.DATA, "tasks", 1.0, 0.0),))
    monkeypatch.setattr(reference_verdict, "check_start", lambda config: found)


def test_every_stage_that_departs_is_listed_with_its_largest_difference() -> None:
    """A figure drew a stage beyond the tenth departure as one without a difference."""
    gradients = [Departure(PipelineStage.GRADIENT, f"encoder.{n}", n, 0.5) for n in range(1, 15)]
    update = Departure(PipelineStage.UPDATE, "encoder.1", 1.0, 0.5)
    listed = judged(*gradients, update).departures
    assert [found.tensor for found in listed] == [
        *(f"encoder.{n}" for n in range(1, 11)),
        "encoder.14",
        "encoder.1",
    ]


def judged(*departures: Departure, subject: Config = SMOKE) -> ReferenceResult:
    step = ComparedStep(3, 0, departures, len(departures))
    return judge_reference(ReferenceFacts((ComparedStep(1, 0), step)), subject)


def decided(id: str, verdict: Verdict, **more: object) -> HypothesisResult:
    found = all_hypotheses()[id].statement.decided(Judgement(verdict, ("any.planted",), "planted"))
    return found.replace(**more)


def test_every_stage_belongs_to_a_known_hypothesis_or_to_none() -> None:
    assert set(HYPOTHESES) == set(PipelineStage)
    assert {id for id in HYPOTHESES.values() if id} <= set(all_hypotheses())


def test_nothing_departs() -> None:
    found = judged()
    assert found.codes == (ReferenceReason.EQUAL,)
    assert (found.stage, found.hypothesis, found.steps) == (None, None, (1, 3))


def test_the_first_stage_names_the_hypothesis_and_the_control_whose_code_it_is() -> None:
    shared = judged(
        Departure(PipelineStage.DATA, "labels", 0.5, 0.0), Departure(PipelineStage.GRADIENT, "x", 1.0, 0.1)
    )
    assert (shared.stage, shared.hypothesis, shared.shared) == (PipelineStage.DATA, "H5", True)
    assert shared.codes == (ReferenceReason.IN_SHARED_CODE,)
    own = judged(Departure(PipelineStage.CONTEXT, "context", math.inf, 0.1))
    assert (own.hypothesis, own.shared) == ("H3", False)
    assert ReferenceResult.model_validate_json(own.model_dump_json()) == own


@pytest.mark.parametrize(
    ("names", "unmoved", "hypothesis"),
    [
        (("encoder.a", "encoder.b"), True, "H2"),
        (("encoder.a", "encoder.b"), False, "H4"),
        (("core.a", "encoder.b"), False, "H4"),
        (("core.a",), True, "H4"),
    ],
)
@pytest.mark.parametrize("stage", [PipelineStage.CLIPPING, PipelineStage.UPDATE])
def test_an_encoder_that_does_not_move_is_its_gradient_path(
    stage: PipelineStage, names: tuple[str, ...], unmoved: bool, hypothesis: str
) -> None:
    departures = (Departure(stage, name, 1.0, 0.0, unmoved=unmoved) for name in names)
    assert judged(*departures).hypothesis == hypothesis


@pytest.mark.parametrize(
    ("stage", "hypothesis"), [(PipelineStage.CLIPPING, "H4"), (PipelineStage.UPDATE, "H2")]
)
def test_without_any_update_the_encoder_does_not_move(stage: PipelineStage, hypothesis: str) -> None:
    """Without any clipped gradient it decays."""
    still = [Departure(stage, name, 1.0, 0.0, unmoved=True) for name in ("core.a", "encoder.b")]
    assert judged(*still).hypothesis == hypothesis
    unfrozen = Departure(PipelineStage.SCHEDULE, FROZEN_PART, 1.0, 0.0)
    assert judged(unfrozen, *still).hypothesis == hypothesis
    assert judged(Departure(PipelineStage.SCHEDULE, "rate of encoder.b", 1.0, 0.0), *still).hypothesis == "H4"


@pytest.mark.parametrize(("unmoved", "hypothesis"), [(True, "H2"), (False, "H3")])
def test_a_context_without_a_call_of_the_encoder_is_its_gradient_path(unmoved: bool, hypothesis: str) -> None:
    departure = Departure(PipelineStage.CONTEXT, "context", 1.0, 0.0, unmoved=unmoved)
    assert judged(departure).hypothesis == hypothesis


def test_what_departs_later_does_not_change_the_hypothesis() -> None:
    first = Departure(PipelineStage.UPDATE, "encoder.a", 1.0, 0.0, step=80, unmoved=True)
    later = Departure(PipelineStage.UPDATE, "core.a", 1.0, 0.0, step=90)
    steps = tuple(ComparedStep(found.step or 0, 0, (found,), 1) for found in (first, later))
    assert judge_reference(ReferenceFacts(steps[:1]), SMOKE).hypothesis == "H2"
    assert judge_reference(ReferenceFacts(steps), SMOKE).hypothesis == "H2"


def test_a_halting_logit_belongs_to_no_hypothesis_and_the_end_of_a_row_to_the_data() -> None:
    assert judged(Departure(PipelineStage.HALTING, "q", 1.0, 0.0)).hypothesis is None
    assert judged(Departure(PipelineStage.HALTING, "halted", 1.0, 0.0)).hypothesis == "H5"


@pytest.mark.parametrize(("name", "hypothesis"), [("core.lm_head.weight", "H1"), ("encoder.z_init", "H7")])
def test_a_weight_that_the_settings_do_not_have_is_that_of_its_part(name: str, hypothesis: str) -> None:
    assert judged(Departure(PipelineStage.MODEL, name, 1.0, 0.0)).hypothesis == hypothesis


def test_of_a_late_departure_the_control_says_nothing() -> None:
    late = ComparedStep(90, 0, (Departure(PipelineStage.LOSS, "loss", 1.0, 0.0, step=90),), 1)
    found = judge_reference(ReferenceFacts((late,)), SMOKE)
    assert (found.shared, found.codes) == (None, (ReferenceReason.LATE,))


def test_a_model_without_encoder_has_no_encoder_gradient() -> None:
    trm = with_settings(SMOKE, model={"variant": "trm"}, data={"augmentations": 1})
    assert judged(Departure(PipelineStage.GRADIENT, "core.a", 1.0, 0.0), subject=trm).hypothesis == "H4"


def test_the_reference_decides_its_hypothesis_and_explains_errors_of_others() -> None:
    reference = judged(Departure(PipelineStage.CLIPPING, "core.a", 1.0, 0.0))
    found = {
        id: with_reference(decided(id, verdict), reference)
        for id, verdict in (("H5", Verdict.ERROR), ("H1", Verdict.INVALIDATED), ("H4", Verdict.INVALIDATED))
    }
    assert found["H5"].explained_by == "H4"
    assert found["H1"] == decided("H1", Verdict.INVALIDATED)
    assert found["H4"].verdict is Verdict.VALIDATED
    assert [row.item for row in found["H4"].evidence] == ["clipping"]
    cause = find_root_cause(found)
    assert (cause.id, cause.confidence) == ("H4", "proven")


def test_a_departure_counts_where_the_own_check_of_its_hypothesis_does_not_apply() -> None:
    reference = judged(Departure(PipelineStage.CORE, "z_H", 1.0, 0.0))
    inapplicable = all_hypotheses()["H1"].not_run(CommonReason.NOT_APPLICABLE, "nothing is loaded")
    assert with_reference(inapplicable, reference).verdict is Verdict.VALIDATED
    skipped = all_hypotheses()["H1"].not_run(CommonReason.NOT_SELECTED, "not selected")
    assert with_reference(skipped, reference) == skipped
    other = all_hypotheses()["H2"].not_run(CommonReason.NOT_APPLICABLE, "no encoder")
    assert with_reference(other, reference) == other


def test_what_a_hypothesis_proves_itself_stands() -> None:
    reference = judged(Departure(PipelineStage.CONTEXT, "context", 1.0, 0.0))
    own = with_reference(decided("H2", Verdict.VALIDATED), reference)
    assert own == decided("H2", Verdict.VALIDATED)
    statistical = with_reference(decided("H7", Verdict.VALIDATED), reference)
    assert statistical.explained_by == "H3"


@pytest.mark.parametrize(
    ("departure", "owner"),
    [
        (Departure(PipelineStage.HALTING, "q_halt of the step", 1.0, 0.0), None),
        (Departure(PipelineStage.CLIPPING, "core.a", 1.0, 0.0), "H4"),
    ],
)
def test_a_departure_that_no_tested_hypothesis_explains_is_told(
    departure: Departure, owner: str | None
) -> None:
    reference = judged(departure)
    assert reference.hypothesis == owner
    shown = explain_departure(reference)
    assert shown is not None
    assert shown[0] is CauseCode.DEPARTS
    assert reference.sentence in shown[1]
    assert (owner in shown[1]) if owner else all(id not in shown[1] for id in all_hypotheses())
    assert explain_departure(judged()) is None


def test_a_hypothesis_is_decided_by_the_reference_alone() -> None:
    reference = judged(Departure(PipelineStage.AVERAGE, "core.a", 1.0, 0.0))
    found = decide_from_reference(all_hypotheses()["H6"], reference)
    assert (found.verdict, found.codes) == (Verdict.VALIDATED, reference.codes)


def test_a_recorded_run_that_departs_is_judged_by_what_it_recorded(tmp_path: Path) -> None:
    config = with_settings(
        SMOKE, data={"max_tasks": 6, "max_side": 3}, train={"steps": 3, "batch_size": 4, "threads": 1}
    )
    train(config, tmp_path / "healthy")
    assert compare_recorded(tmp_path / "healthy", config, 100) is None
    train(with_settings(config, faults=("context-detached",)), tmp_path / "faulty")
    found = compare_recorded(tmp_path / "faulty" / "checkpoints" / "step_00000003", config, 100)
    assert found is not None
    assert found.stage is PipelineStage.GRADIENT


EQUAL = ReferenceResult(codes=(ReferenceReason.EQUAL,), sentence="start", steps=(1,))


def investigate(root: Path, *faults: str) -> Investigation:
    subject = with_settings(
        SMOKE,
        data={"max_tasks": 6, "max_side": 3},
        train={"steps": 3, "batch_size": 4, "threads": 1},
        faults=faults,
    )
    return Investigation(root, subject, (0,), inline(), lambda phase, done, total: None)


@pytest.mark.parametrize("until_departure", [False, True])
def test_a_whole_run_is_compared_and_may_stop_where_it_departs(tmp_path: Path, until_departure: bool) -> None:
    one = investigate(tmp_path, "context-detached")
    found = compare_course(one, EQUAL, until_departure=until_departure)
    assert (found.stage, found.hypothesis) == (PipelineStage.GRADIENT, "H2")
    assert found.departures[0].step == 1
    assert found.steps == ((1,) if until_departure else (1, 2, 3))


def test_a_whole_run_has_a_checkpoint_in_the_middle(tmp_path: Path) -> None:
    one = investigate(tmp_path)
    one.subject = with_settings(
        one.subject, train={"steps": 9, "checkpoint_every": 200, "keep_checkpoints": 1}
    )
    train = course_job(one).config.train
    assert (train.steps, train.checkpoint_every, train.keep_checkpoints) == (9, 4, 2)


def test_of_a_long_run_the_first_steps_are_trained(tmp_path: Path) -> None:
    one = investigate(tmp_path)
    stages = {"curriculum": ((2, 500), (3, 500)), "replay": 0.2}
    long = {"steps": 1000, "warmup_steps": 600, "freeze_decoder_steps": 500, "encoder_lr_scale": 0.0}
    one.subject = with_settings(one.subject, data=stages, train=long)
    short = check_request(course_job(one).config)
    train = short.train
    assert (train.steps, train.warmup_steps, train.freeze_decoder_steps) == (400, 400, 399)
    assert (short.data.curriculum, short.data.replay) == (((2, 400),), 0.0)


FAILED = planted(ArmId("reference", "as-given"), [None])[0]


@pytest.mark.parametrize(("ended", "reason"), [(FAILED, FAILED.reason), (None, "stopped")])
def test_a_run_that_does_not_finish_is_not_equal(
    ended: LoadedRun | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Investigation, "try_run", lambda *args: ended)
    found = compare_course(investigate(tmp_path), EQUAL)
    assert (found.codes, found.steps) == ((ReferenceReason.ENDED_EARLY,), EQUAL.steps)
    assert reason in found.sentence


def test_a_start_that_ended_early_is_not_equal_after_the_whole_run() -> None:
    start = judge_reference(ReferenceFacts((ComparedStep(1, 0),), error="KeyError: evaluator"), SMOKE)
    found = judge_reference(ReferenceFacts((ComparedStep(3, 0),)), SMOKE, start, None)
    assert found == start.replace(steps=(1, 3))


def test_what_a_finished_run_leaves_is_compared_where_no_step_departs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Departure(PipelineStage.WEIGHTS, "newest checkpoint", 1.0, 0.0)
    for name in ("check_evaluated", "compare_resumed", "compare_requested"):
        monkeypatch.setattr(f"{REFERENCE_CHECK}.{name}", lambda path: [left])
    healthy = compare_course(investigate(tmp_path / "healthy"), EQUAL)
    assert (healthy.hypothesis, healthy.shared) == ("H6", None)  # the control leaves no run
    faulty = compare_course(investigate(tmp_path / "faulty", "context-detached"), EQUAL)
    assert {found.stage for found in faulty.departures} >= {PipelineStage.GRADIENT}
    assert PipelineStage.WEIGHTS not in {found.stage for found in faulty.departures}


@pytest.mark.parametrize("fault", ["decoder-not-loaded", "decoder-raw-for-ema", None])
def test_a_decoder_is_loaded_where_the_config_names_none(
    fault: str | None, tmp_path: Path, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Investigation, "brief_decoder", decoder)
    monkeypatch.setattr(Investigation, "control_decoder", decoder)
    subject = with_settings(SMOKE, train={"threads": 1}, faults=(fault,) if fault else ())
    one = Investigation(tmp_path, subject, (0,), inline(), lambda phase, done, total: None)
    found = compare_loading(one, EQUAL)
    if fault is None:
        assert found == EQUAL
    else:
        assert (found.stage, found.hypothesis) == (PipelineStage.LOADING, "H1")
        assert (found.shared, found.codes) == (False, (ReferenceReason.IN_THE_RUN,))


@pytest.mark.parametrize("has_encoder", [True, False])
def test_a_decoder_that_cannot_be_trained_or_has_no_use_is_not_loaded(
    has_encoder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(investigation: Investigation) -> Path:
        assert has_encoder
        raise ZeroDivisionError

    monkeypatch.setattr(Investigation, "brief_decoder", property(fail))
    trm = with_settings(SMOKE, model={"variant": "trm"}, data={"augmentations": 1})
    subject = SMOKE if has_encoder else trm
    one = Investigation(tmp_path, subject, (0,), inline(), lambda phase, done, total: None)
    assert compare_loading(one, EQUAL) == EQUAL
