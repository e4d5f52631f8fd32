"""Every case that users report is named and its fix is quiet; healthy loops are quiet and unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from diagnostics import Finding, Monitor, Severity, audit
from tests.diagnostics.cases import programs
from tests.diagnostics.cases.case import Answer, Case, Verdict, judge, run_audit, run_monitor
from tests.diagnostics.cases.faults import reported
from tests.diagnostics.cases.healthy import variations
from tests.diagnostics.cases.healthy.training_loops import run_use
from tests.diagnostics.cases.report import (
    GROUPS,
    HEALTHY,
    PROGRAMS,
    RESULTS,
    UNLISTED,
    better,
    load_folder,
    render,
    run_case,
    run_uses,
)
from tests.diagnostics.rules.trainings import Cases, Training
from tests.sampled import one_in

ALL = {case.name: case for cases in GROUPS.values() for case in cases}
WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*use_reentrant"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean'"),
    pytest.mark.filterwarnings("ignore:.torch.jit"),
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.filterwarnings("ignore:.parameters. is an empty generator"),
    pytest.mark.filterwarnings("ignore:.*RNN module weights are not part of single contiguous"),
]
pytestmark = WARNINGS


def trained(name: str, broken: bool, audited: bool = False) -> Training:
    """A case as a training with options of rules, which returns the rules that fired."""

    def run(**given: Any) -> set[str]:
        made = ALL[name].make(broken)
        findings = audit(**made, **given).findings if audited else run_monitor(made, **given)
        return {each.rule for finding in findings for each in (finding, *finding.consequences)}

    return run


SHOWN: set[str] = set()
"""Cases that the tests of all rules run, broken and fixed; here they are slow tests."""


def both(name: str, audited: bool = False) -> tuple[Training, Training]:
    SHOWN.add(name)
    return trained(name, True, audited), trained(name, False, audited)


CASES: Cases = {
    "GRAD007": both("fake-detached"),
    "REACH006": both("eps-underflows"),
    "REACH007": both("router-normalised"),
    "MOVE006": both("decayed-to-zero"),
    "MODE002": both("frozen-statistics"),
    "SHARE002": both("tie-copied-apart"),
    "SHARE003": both("second-is-first"),
    "COLLAPSE002": both("latent-ignored"),
    "LOSS003": both("softmax-twice", audited=True),
    "SOFTMAX001": both("softmax-over-samples", audited=True),
    "STATE001": both("state-kept-between-batches", audited=True),
    "MODE004": both("dropout-in-evaluation", audited=True),
    "LINEAR001": both("activation-forgotten", audited=True),
    "UNITS002": both("inputs-unscaled", audited=True),
    "MOVE007": both("clipped-after-step", audited=True),
    "LOSS004": both("loss-negated", audited=True),
    "LOSS005": both("loss-on-padding", audited=True),
    "LOSS006": both("penalty-without-graph", audited=True),
    "INPUT001": both("input-used-twice", audited=True),
    "INPUT002": both("masked-in-place", audited=True),
    "GRAD008": both("changed-under-autograd", audited=True),
    "GRAD009": both("upstream-forgotten", audited=True),
    "LEAK002": both("mask-inverted", audited=True),
    "LEAK003": both("answer-in-input", audited=True),
    "ROWS001": both("one-position", audited=True),
    "ROWS002": both("padding-hit", audited=True),
    "DROP001": both("dropout-keeps-little", audited=True),
    "ROUND001": both("places-in-bfloat16", audited=True),
    "REACH008": both("adapter-not-inserted"),
    "LOSS007": both("boxes-in-pixels"),
    "INPUT003": both("scaled-twice", audited=True),
    "ROWS003": both("edges-not-offset", audited=True),
    "ROWS004": both("all-in-one-molecule", audited=True),
    "ROWS005": both("unlabelled-is-last", audited=True),
    "METRIC001": both("accuracy-broadcast", audited=True),
    "RANDOM001": both("seeded-in-each-step", audited=True),
    "INPUT004": both("observation-stays", audited=True),
    "INPUT005": both("degree-of-zero"),
    "STATE002": both("state-not-passed", audited=True),
    "SHARE004": both("slow-weights-by-reference", audited=True),
}
"""For the tests of all rules."""


EVERY = 12
"""One of so many cases of a group is a fast test: each rule has fast tests of its own besides."""


def mark(cases: Sequence[Case]) -> list[Any]:
    """Cases as parameters."""
    rest = [case.name for case in cases if case.name not in SHOWN]
    return [
        pytest.param(case, id=case.name, marks=[] if case.name in rest[::EVERY] else [pytest.mark.slow])
        for case in cases
    ]


@pytest.mark.parametrize("case", mark(reported.CASES))
def test_it_is_named_and_its_fix_is_quiet(case: Case) -> None:
    row = run_case(case)
    assert better(row) == "named"
    assert (row["fixed audit"], row["fixed monitor"]) == ("quiet", "quiet")


OTHERS = [name for name in HEALTHY if name not in variations.USES]


@pytest.mark.parametrize("name", one_in(6, [*OTHERS, *variations.USES]))
def test_a_healthy_loop_is_quiet_and_unchanged(name: str) -> None:
    findings, same = run_use(HEALTHY[name])
    assert same
    assert [each for each in findings if each.severity > Severity.NOTE] == []


ACCUSED = {
    # need expect_partial
    "gradient of the last step of a fixed point",
    "recursion with deep supervision",
    # looks like a dropout that was not told the mode
    "dropout for uncertainty",
    # need expect_tied
    "towers that are one encoder",
}


HALF_NAMED = {
    "blocks-are-one",  # a note: a list may repeat a block on purpose
    "updates-rounded-away",  # the monitor names it
}


@pytest.mark.parametrize("name", one_in(8, sorted(PROGRAMS.keys() - ACCUSED)))
@pytest.mark.parametrize("run", [run_audit, pytest.param(run_monitor, marks=pytest.mark.slow)])
def test_a_healthy_program_is_quiet(run: Callable[..., Sequence[Finding]], name: str) -> None:
    """An audit has a monitor too, for fewer steps."""
    findings = run(PROGRAMS[name]())
    assert [each for each in findings if each.severity > Severity.NOTE] == []


@pytest.mark.parametrize("case", mark(GROUPS["questions"]))
def test_what_users_ask_about_has_a_quiet_fix(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []


@pytest.mark.parametrize("case", mark(GROUPS["scripts"]))
def test_a_script_is_named_and_its_fix_is_quiet(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []
    verdict = judge(run_audit(case.make(True)), case.answers)
    assert verdict in (("partly",) if case.name in HALF_NAMED else ("named",))


@pytest.mark.parametrize("case", mark(GROUPS["loops"]))
def test_a_loop_is_named_and_its_fix_is_quiet(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []
    assert judge(run_audit(case.make(True)), case.answers) == "named"


@pytest.mark.parametrize("case", mark(GROUPS["forum"]))
def test_a_question_of_a_forum_is_named_and_its_fix_is_quiet(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []
    verdict = judge(run_audit(case.make(True)), case.answers)
    assert verdict == ("missed" if case.name in UNSEEN_BY_AN_AUDIT else "named")


@pytest.mark.parametrize("case", mark(GROUPS["kept"]))
def test_a_kept_program_has_a_quiet_fix(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []


@pytest.mark.parametrize("case", mark(GROUPS["planted"]))
def test_a_planted_fault_is_named_and_its_fix_is_quiet(case: Case) -> None:
    assert [each for each in run_monitor(case.make(False)) if each.severity > Severity.NOTE] == []
    verdict = judge(run_monitor(case.make(True)), case.answers)
    assert verdict == ("named" if case.answers else "missed")


@pytest.mark.parametrize("case", mark(GROUPS["variations"]))
def test_a_variation_is_named_and_its_fix_is_quiet(case: Case) -> None:
    assert [each for each in run_audit(case.make(False)) if each.severity > Severity.NOTE] == []
    missed = case.name in UNSEEN_BY_AN_AUDIT
    assert judge(run_audit(case.make(True)), case.answers) == ("missed" if missed else "named")


UNSEEN_BY_AN_AUDIT = {
    "sum-so-far",  # each pass is another sum
    "noise-of-one-step",  # the intention alone tells
    "plateau-of-accuracy",  # 20 steps are too few
}


@pytest.mark.parametrize("case", mark(programs.CASES))
def test_a_whole_script_is_named_and_its_fix_is_quiet(case: Case) -> None:
    fixed = programs.audit_program(case.make(False), to_end=False)
    assert [each for each in fixed if each.severity > Severity.NOTE] == []
    verdict = judge(programs.audit_program(case.make(True), to_end=False), case.answers)
    assert verdict == ("missed" if case.name in UNSEEN_IN_20_STEPS else "named")


UNSEEN_IN_20_STEPS = {
    "code-copied",  # the divergence trains the encoder, and has hardly begun to count
    "losses-of-both",  # several losses may be meant to train both
}


@pytest.mark.parametrize("case", mark([*GROUPS["libraries"], *GROUPS["retried"]]))
def test_a_report_to_a_library_is_named_and_its_fix_is_quiet(case: Case) -> None:
    def run(made: dict[str, Any]) -> Sequence[Finding]:
        return programs.audit_program(made, to_end=True) if "script" in made else run_audit(made)

    assert [each for each in run(case.make(False)) if each.severity > Severity.NOTE] == []
    verdict = judge(run(case.make(True)), case.answers)
    assert verdict == ("missed" if case.name in UNSEEN_IN_LIBRARIES else "named")


@pytest.mark.parametrize("case", mark([*GROUPS["threads"], *GROUPS["reread"], *GROUPS["fields"]]))
def test_a_report_in_public_is_named_and_its_fix_is_quiet(case: Case) -> None:
    def run(made: dict[str, Any]) -> Sequence[Finding]:
        return programs.audit_program(made, to_end=False) if "script" in made else run_audit(made)

    assert [each for each in run(case.make(False)) if each.severity > Severity.NOTE] == []
    verdict = judge(run(case.make(True)), case.answers)
    assert verdict == UNSEEN_IN_THREADS.get(case.name, "named")


UNSEEN_IN_THREADS: dict[str, Verdict] = {
    "weights-stacked-apart": "partly",  # a finding for each of its members
    "clouds-multiplied-to-one": "missed",
    # may be meant
    "slope-of-each-pixel": "missed",
    "one-draw-for-all": "missed",
    "frames-not-hidden": "missed",
    "ends-unread": "missed",
    "end-is-padding": "missed",
    "prototypes-by-position": "missed",
    "fields-share-rows": "missed",
    "queue-stays": "missed",
    "noise-by-column": "missed",  # batches of another size raise an error
    "capacity-by-score": "partly",  # next to what follows from it
}


UNSEEN_IN_LIBRARIES = {
    "twin-is-neighbour",  # in a sequence the next frame may be the twin
    "rounding-minus-itself",  # its terms have no names
    "own-adam-with-exchanged-factors",  # its settings may mean anything
    "average-of-one",
}


@pytest.mark.parametrize("name", one_in(4, programs.HEALTHY))
def test_a_healthy_script_is_quiet_and_unchanged(name: str) -> None:
    findings, same = programs.run_healthy_program(programs.HEALTHY[name])
    assert same
    assert [each for each in findings if each.severity > Severity.NOTE] == []


@pytest.mark.parametrize("case", mark(GROUPS["domains"]))
def test_a_program_of_another_domain_has_a_quiet_fix(case: Case) -> None:
    assert [each for each in run_monitor(case.make(False)) if each.severity > Severity.NOTE] == []


def test_the_kept_results_are_of_these_cases_and_the_page_shows_them() -> None:
    results = json.loads((RESULTS / "cases.json").read_text("utf-8"))
    for part in ("before", "now"):
        assert set(results[part]["unlisted"]) == {case.name for case in UNLISTED}
    assert set(results["now"]["reported"]) == {case.name for case in reported.CASES}
    assert set(results["now"]["healthy"]) == {*HEALTHY, *PROGRAMS, *programs.HEALTHY}
    assert set(results["now"]["programs"]) == {case.name for case in programs.CASES}
    assert (RESULTS / "cases.md").read_text("utf-8") == render(results)


def test_a_finding_next_to_others_is_half_an_answer() -> None:
    found = list(run_audit(ALL["second-is-first"].make(True)))
    right = Answer("SHARE003", "first", "alias")
    assert judge(found, [right]) == "named"
    assert judge(found, [Answer("SHARE003", "second")]) == "missed"
    assert judge(found, [Answer("MOVE001", "first")]) == "partly"
    assert judge([], [right]) == "missed"


OUTSIDE = """
'''a layer that is frozen'''
import torch
from torch import nn

def make(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model[0].parameters() if frozen else model.parameters(), 0.1)
    step = lambda model, batch: model(batch).square().mean()
    return {"model": model, "optimizer": optimizer, "batches": list(torch.randn(4, 8, 4)), "step": step}

def broken(): return make(True)
def fixed(): return make(False)

def use():
    made = make(False)
    def step():
        made["step"](made["model"], torch.randn(8, 4)).backward()
        made["optimizer"].step(); made["optimizer"].zero_grad()
    return made["model"], made["optimizer"], 8, step
USES = {}
USES["plain"] = use
"""


def test_a_folder_of_others_cases(tmp_path: Path) -> None:
    (tmp_path / "forgotten.py").write_text(OUTSIDE, "utf-8")
    (tmp_path / "answers.json").write_text('{"forgotten": [["MOVE001", "2", "in-no-group"]]}', "utf-8")
    (case,) = load_folder(tmp_path, tmp_path / "answers.json")
    assert run_case(case)["audit"] == "named"
    (unanswered,) = load_folder(tmp_path, None)
    assert run_case(unanswered)["audit"] == "missed"
    assert run_uses(tmp_path) == {"plain": "quiet"}


def test_a_monitor_of_a_case_is_detached() -> None:
    made = ALL["second-is-first"].make(False)
    run_monitor(made)
    assert not made["model"].first._forward_hooks
    Monitor(made["model"]).detach()
