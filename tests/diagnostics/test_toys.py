"""Runs of the release test's toy that its table has no line for: relatives of its faults, and how they are worded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity, to_markdown
from tests.diagnostics.release.faults import gradients_zeroed, one_live_row
from tests.diagnostics.release.subject import Update, update
from tests.diagnostics.release.toy import BATCH, CYCLES, Toy, ToySubject

STEPS = 24


class Lockstep(Toy):
    """All rows are encoded on every fourth step and cached between: 1, 0, 0, 0, 1, ..."""

    cache: Tensor | None = None
    step = 0

    def encode(self, x: Tensor) -> Tensor:
        now = self.encoder(x) if self.step % 4 == 0 else self.cache
        self.step += 1
        assert now is not None
        self.cache = now.detach()
        return now


class OneLiveRow(Toy):
    """a0."""

    def encode(self, x: Tensor) -> Tensor:
        return one_live_row(self.encoder(x))


class CutCycle(Toy):
    """The first cycle runs with gradients enabled, and its result is detached."""

    def forward(self, x: Tensor) -> Tensor:
        context = self.encode(x)
        return self.decoder(self.core(self.core(context).detach() + context))


class Loop(ToySubject):
    """The toy's training with another model."""

    def __init__(self, model: Callable[[], Toy] = Toy) -> None:
        super().__init__(seed=1)
        self.model = model()
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=1e-2, weight_decay=0.1)]


def train(
    subject: Loop,
    update: Update = update,
    expect_frozen: Sequence[str] = (),
    expect_partial: Sequence[str] = (),
    steps: int = STEPS,
) -> tuple[Monitor, dict[str, Finding]]:
    """Findings above note, by rule and module."""
    monitor = Monitor(
        subject.model, subject.optimizers, expect_frozen=expect_frozen, expect_partial=expect_partial
    )
    for _ in range(steps):
        with monitor.step(samples=BATCH):
            update(subject, subject.loss())
    found = [finding for finding in monitor.findings() if finding.severity > Severity.NOTE]
    return monitor, {f"{finding.rule} {finding.module}": finding for finding in found}


def test_a_finding_has_its_measurement_and_its_steps() -> None:
    _, found = train(Loop(OneLiveRow))
    (finding,) = found.values()
    assert finding.evidence.value == pytest.approx(0.02)
    assert (finding.evidence.first_step, finding.evidence.last_step) == (0, STEPS - 1)
    assert finding.severity is Severity.CRITICAL
    assert finding.code == "samples-cut"
    assert "0.98" in finding.message  # its waste
    assert {each.rule for each in finding.consequences} >= {"WASTE001"}


@pytest.mark.parametrize("steps", [STEPS, STEPS + 1])
def test_a_coverage_of_one_step_in_four(steps: int) -> None:
    """Low on average, though never low five times in a row."""
    _, found = train(Loop(Lockstep), steps=steps)
    assert set(found) == {"COV001 encoder"}
    # from the first low step after two equal intervals
    assert found["COV001 encoder"].evidence.value == pytest.approx(len(range(12, steps, 4)) / (steps - 9))


def test_decay_of_an_undeclared_module_is_movement_without_gradient() -> None:
    _, found = train(Loop(), gradients_zeroed)
    assert found["MOVE002 decoder"].code == "weight-decay"


def test_frozen_parameters_are_counted() -> None:
    _, found = train(Loop(), gradients_zeroed, expect_frozen=["decoder"])
    assert found["FROZEN001 decoder"].evidence.value == 2.0
    assert "2 of 2" in found["FROZEN001 decoder"].message


def test_one_of_four_calls_is_a_warning_and_a_note_where_declared() -> None:
    monitor, found = train(Loop(lambda: Toy(grad_cycles=1)))
    assert set(found) == {"CALL001 core"}
    assert found["CALL001 core"].code == "calls-without-grad"
    assert found["CALL001 core"].evidence.value == 1.0
    assert [call.grad_enabled for call in monitor.calls("core")] == [False, False, False, True]
    assert len(monitor.calls("core")) == CYCLES
    assert monitor.coverage("encoder") == monitor.coverage("core") == 1.0
    monitor, found = train(Loop(lambda: Toy(grad_cycles=1)), expect_partial=["core"])
    assert found == {}
    (note,) = monitor.findings(select=["CALL001"])
    assert (note.module, note.code) == ("core", "calls-without-grad-declared")
    assert re.findall(r"\d+", note.message) == ["1", "4", "3", "0"]  # with gradient, all, disabled, cut


def test_a_call_that_is_cut_is_no_declared_one() -> None:
    _, found = train(Loop(CutCycle), expect_partial=["core"])
    assert found["CALL001 core"].severity is Severity.WARNING
    assert found["CALL001 core"].code == "calls-cut"


def probed(shift: Callable[[int], float], steps: int) -> Monitor:
    """A healthy toy whose encoder is made to drift by `shift`, probed on a fixed batch."""
    subject = Loop()
    monitor = Monitor(subject.model, subject.optimizers)
    for step in range(steps):
        with monitor.step(samples=BATCH):
            update(subject, subject.loss())
        if step % 2 == 0:
            with torch.no_grad():
                monitor.probe("encoder", subject.fixed + shift(step))
    return monitor


def test_a_drift_that_was_never_steady_is_a_note() -> None:
    (early,) = probed(lambda step: 0.1 * step, 60).findings(select=["DRIFT001"])
    assert early.severity is Severity.NOTE
    assert early.code == "under-way"
    (late,) = probed(lambda step: 0.1 * max(step - 30, 0), 60).findings(select=["DRIFT001"])
    assert late.severity is Severity.WARNING
    assert late.evidence.first_step == pytest.approx(30, abs=6)
    assert late.code == "own-weights"


def test_a_drift_rule_without_enough_probes_says_so() -> None:
    monitor = probed(lambda step: 0.0, steps=3)
    (note,) = monitor.findings(select=["RULE001:encoder"])
    assert note.code == "reference-incomplete"
    assert re.findall(r"\d+", note.cause) == ["2", "5"]


def test_a_healthy_toy_has_not_even_a_note() -> None:
    monitor, _ = train(Loop())
    assert monitor.findings(ignore=["RULE001"]) == [], to_markdown(monitor.findings())


def test_a_decoder_that_is_frozen_as_it_should_be() -> None:
    subject = Loop()
    subject.model.decoder.requires_grad_(False)
    before = [parameter.clone() for parameter in subject.model.decoder.parameters()]
    monitor, _ = train(subject, expect_frozen=["decoder"])
    assert monitor.findings(ignore=["RULE001"]) == [], to_markdown(monitor.findings())
    assert all(torch.equal(*pair) for pair in zip(before, subject.model.decoder.parameters(), strict=True))
    assert monitor.coverage("encoder") == 1.0
    assert all(record.modules["encoder"]["moved"] > 0 for record in monitor.history)  # the rest is training
    assert all(late.step == early.step + 1 for early, late in pairwise(monitor.history))


def test_a_module_called_row_by_row_is_counted() -> None:
    """f: its message says how often it ran."""

    class ThroughItem(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.scorer = nn.Linear(8, 1)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x) * torch.tensor([self.scorer(row).item() for row in x])[:, None]

    _, found = train(Loop(ThroughItem))
    assert set(found) == {"GRAD001 scorer"}
    assert found["GRAD001 scorer"].code == "detached"
    assert re.findall(r"\d+", found["GRAD001 scorer"].message) == ["50"]
