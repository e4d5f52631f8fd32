"""Halting told from arrays: against closed forms and brute force; silent where it should be."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diagnostics import Absent, Finding, Halting, Halts, Severity, audit, summarise_halts
from tests.diagnostics.refusals import refused

ROWS = 200


def halts(
    steps: list[int] | Tensor,
    logits: list[float] | Tensor,
    correct: list[bool] | Tensor,
    maximum: int = 16,
    **more: Any,
) -> Halts:
    return Halts(torch.as_tensor(steps), maximum, torch.as_tensor(logits), torch.as_tensor(correct), **more)


def findings(observed: Halts, **options: Any) -> list[Finding]:
    return Halting(lambda model, batch: observed, **options).run(nn.Identity(), None)


def codes(observed: Halts, **options: Any) -> list[str]:
    """Those of what is above a note."""
    return [f.code for f in findings(observed, **options) if f.severity > Severity.NOTE]


def test_the_distribution_counts_rows_and_not_their_running_steps() -> None:
    found = summarise_halts(halts([1, 1, 15, 16], [], torch.zeros(0, dtype=torch.bool)))
    assert found.distribution == {1: 0.5, 15: 0.25, 16: 0.25}
    assert (
        found.mean_step == 8.25
    )  # the mean of all running step indices would be (1 + 1 + 120 + 136) / 33 = 7.8
    assert found.forced == 0.25
    assert isinstance(found.correct, Absent)
    assert isinstance(found.phase, Absent)
    assert isinstance(found.held, Absent)


@given(
    pairs=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({right for _, right in pairs}) == 2
    )
)
def test_area_under_the_curve_is_the_share_of_pairs(pairs: list[tuple[int, bool]]) -> None:
    right = [logit for logit, correct in pairs if correct]
    wrong = [logit for logit, correct in pairs if not correct]
    wins = [(r > w) + (r == w) / 2 for r, w in itertools.product(right, wrong)]
    found = summarise_halts(halts([1], [float(logit) for logit, _ in pairs], [c for _, c in pairs]))
    assert found.auroc == pytest.approx(sum(wins) / len(wins))


def test_the_standard_error_is_that_of_shuffled_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, correct = torch.arange(40.0), torch.arange(40) < 12
    shuffled = [correct[torch.randperm(40, generator=generator)] for _ in range(1500)]
    drawn = torch.tensor([summarise_halts(halts([1], logits, each)).auroc for each in shuffled])
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert summarise_halts(halts([1], logits, correct)).auroc_error == pytest.approx(
        float(drawn.std()), rel=0.07
    )


def test_skill_is_zero_for_the_base_rate_one_for_the_truth_and_negative_for_worse() -> None:
    correct = torch.arange(10) < 3
    base = torch.full((10,), math.log(0.3 / 0.7))
    assert summarise_halts(halts([1], base, correct)).skill == pytest.approx(0.0, abs=1e-6)
    sure = torch.where(correct, 50.0, -50.0)
    assert summarise_halts(halts([1], sure, correct)).skill == pytest.approx(1.0)
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    flat = summarise_halts(halts([1], torch.zeros(10), correct)).skill
    assert flat == pytest.approx(1 - math.log(2) / entropy)


@pytest.mark.parametrize(
    ("right", "phase"), [(0, "start"), (9, "start"), (10, "learning"), (90, "learning"), (91, "late")]
)
def test_phase(right: int, phase: str) -> None:
    found = summarise_halts(halts([1], torch.zeros(100), torch.arange(100) < right))
    assert (found.phase, found.correct) == (phase, right / 100)


def test_trend_of_the_loss_is_between_the_medians_of_first_and_last_fifth() -> None:
    losses = torch.tensor([4.0, 4.0, 100.0, *[9.0] * 9, 1.0, 1.0, 0.0])
    assert summarise_halts(halts([1], [0.0], [True], losses=losses)).loss_trend == pytest.approx(-0.75)
    assert isinstance(summarise_halts(halts([1], [0.0], [True], losses=losses[:4])).loss_trend, Absent)


def test_the_share_that_exploration_holds_is_of_all_observations() -> None:
    held = torch.tensor([True, False, False, False])
    assert summarise_halts(halts([2], torch.ones(4), torch.ones(4).bool(), held=held)).held == 0.25


LATE = torch.arange(ROWS) < 190
HALF = torch.arange(ROWS) < 100
NONE = torch.arange(ROWS) < 2
KNOWS = torch.where(HALF, 1.0, -1.0)


@pytest.mark.parametrize(
    ("observed", "code"),
    [
        (halts([16] * ROWS, torch.where(HALF, -1.0, -2.0), HALF), "never-positive"),
        (halts([16] * ROWS, torch.where(LATE, -1.0, -2.0), LATE), "never-positive"),
        (halts([16] * ROWS, KNOWS, HALF), "held"),
        (halts([16] * ROWS, torch.full((ROWS,), -5.0), NONE), ""),  # what a run looks like at its start
        (halts([16] * 190 + [3] * 10, KNOWS, HALF), ""),
        (halts([1] * ROWS, torch.zeros(ROWS), NONE), "starts-positive"),
        (halts([1] * ROWS, torch.where(LATE, 2.0, 1.0), LATE), ""),  # an easy task, solved at once
        (halts([1] * ROWS, torch.where(HALF, 2.0, 1.0), HALF, maximum=1), ""),
        (halts([5, 9] * 100, -KNOWS, HALF), "logit-uninformed"),
        (halts([5, 9] * 300, torch.sin(1e3 * torch.arange(600)), HALF.repeat(3)), "logit-uninformed"),
        (halts([5, 9] * 100, torch.sin(1e3 * torch.arange(ROWS)), HALF), ""),
        (halts([5, 9] * 100, KNOWS, HALF), ""),
    ],
    ids=[
        "stuck",
        "stuck late",
        "held",
        "start",
        "few early",
        "at once",
        "easy",
        "one step",
        "turned",
        "noise",
        "noise of few",
        "sound",
    ],
)
def test_what_it_finds(observed: Halts, code: str) -> None:
    assert codes(observed) == [code] * bool(code)


def test_few_rows_are_not_judged() -> None:
    assert not codes(halts([16] * 29, KNOWS[85:114] - 2, HALF[85:114]))
    assert codes(halts([16] * 30, KNOWS[85:115] - 2, HALF[85:115]))
    noise = torch.sin(1e3 * torch.arange(20.0))
    assert not codes(halts([5, 9] * 10, noise, torch.arange(20) % 2 == 0))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (lambda: halts([], [], torch.zeros(0)), "steps-out-of-range"),
        (lambda: halts([0], [1.0], [True]), "steps-out-of-range"),
        (lambda: halts([17], [1.0], [True]), "steps-out-of-range"),
        (lambda: halts([1], [1.0], [True, False]), "lengths-differ"),
        (lambda: halts([1], [1.0], [True], held=torch.zeros(2)), "lengths-differ"),
    ],
    ids=["no row", "step 0", "beyond the maximum", "correct", "held"],
)
def test_arrays_that_do_not_belong_together_are_refused(wrong: Any, code: str) -> None:
    with refused(ValueError, f"halting.{code}"):
        wrong()


class Halter(nn.Module):
    """Adds its input up until a logit says enough; right when the sum is above 2."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.bias = bias

    def forward(self, x: Tensor, maximum: int = 16) -> Halts:
        steps, logits, correct = [], [], []
        for value in x:
            for step in range(1, maximum + 1):
                logit = float(value * step - 2.0 + self.bias)
                logits.append(logit)
                correct.append(bool(value * step > 2.0))
                if logit > 0 or step == maximum:
                    steps.append(step)
                    break
        return halts(steps, logits, correct, maximum)


@pytest.mark.parametrize(
    ("logits", "trained", "maximum", "fires"),
    [
        ([-50.0] * 8, True, 4, True),
        ([-50.0] * 8, False, 4, False),  # the zero weights of a fresh head
        ([-50.0] * 8, True, 1, False),  # nothing to decide
        ([-50.0] * 7 + [-49.9], True, 4, False),
        ([-50.0], True, 4, False),
    ],
)
def test_a_logit_that_is_the_same_for_every_row_after_training(
    logits: list[float], trained: bool, maximum: int, fires: bool
) -> None:
    seen = halts([maximum] * len(logits), logits, [False] * len(logits), maximum)
    found = Halting(lambda model, batch: seen, trained=trained).run(nn.Identity(), None)
    assert [f.rule for f in found] == ["HALT001", "HALT002"][not fires :]
    if fires:
        assert (found[0].code, found[0].evidence.metric) == ("logit-constant", "halting_logit_range")
        assert "-50" in found[0].message


@pytest.mark.parametrize(("bias", "wrong"), [(0.0, False), (-1000.0, True)], ids=["sound", "stuck"])
def test_an_audit_asks_it(bias: float, wrong: bool) -> None:
    batch = torch.rand(64, generator=torch.Generator().manual_seed(0))
    report = audit(
        Halter(bias),
        lambda model, x: model.scale(x[:, None]).square().sum(),
        [batch],
        probes=[Halting(lambda model, x: model(x))],
        select=["HALT*"],
    )
    assert [finding.rule for finding in report.findings] == ["HALT001", "HALT002"][not wrong :]
    note = report.findings[-1]
    assert note.evidence.metric == "mean_halt_step"
    assert (note.evidence.value == 16.0) == wrong
    assert ("16: 100%" in note.message) == wrong
    assert "learning" in note.message
