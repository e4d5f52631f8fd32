"""The planted faults of the toolkit's release test, and two healthy runs on which it must keep still.

Encoder, a core that is called four times, a decoder; batch 50.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity, to_markdown

BATCH, WIDTH, CLASSES, CYCLES, STEPS = 50, 16, 3, 4, 24


class Toy(nn.Module):
    """`encode` turns the encoder's output into the context; `grad_cycles` of the cycles have gradient."""

    def __init__(self, grad_cycles: int = CYCLES) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.core = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.decoder = nn.Linear(WIDTH, CLASSES)
        self.grad_cycles = grad_cycles

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        context = self.encode(x)
        state = torch.zeros_like(context)
        for cycle in range(CYCLES):
            with torch.set_grad_enabled(cycle >= CYCLES - self.grad_cycles):
                state = self.core(state + context)
        return self.decoder(state)


def live_row() -> Tensor:
    mask = torch.zeros(BATCH, 1, dtype=torch.bool)
    mask[0] = True
    return mask


class Detached(Toy):
    """a0: one row of the encoder's output is live."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.where(live_row(), self.encoder(x), self.encoder(x).detach())


class Cached(Toy):
    """a: one row is computed now, the others come from a cache of earlier outputs."""

    cache: Tensor | None = None

    def encode(self, x: Tensor) -> Tensor:
        now = self.encoder(x)
        before = now.detach() if self.cache is None else self.cache
        self.cache = torch.where(live_row(), now, before).detach()
        return torch.where(live_row(), now, before)


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


class BeforeTheCut(Toy):
    """e1: the encoder runs only before gradients are enabled."""

    def encode(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.encoder(x)


class ThroughItem(Toy):
    """f: a scorer called in a Python loop, whose result goes through `.item()`."""

    def __init__(self) -> None:
        super().__init__()
        self.scorer = nn.Linear(8, 1)

    def encode(self, x: Tensor) -> Tensor:
        scores = torch.tensor([self.scorer(row).item() for row in x])
        return self.encoder(x) * scores[:, None]


class Altered(Toy):
    """b1, b2, c2: the encoder's output as `alter` (step, output) leaves it."""

    def __init__(self, alter: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.step = -1
        self.encoder.register_forward_hook(lambda module, args, output: alter(self.step, output))

    def encode(self, x: Tensor) -> Tensor:
        self.step += 1
        return self.encoder(x)


def same(output: Tensor) -> Tensor:
    return output.mean(0) + 1e-3 * output


Loop = Callable[[Toy, torch.optim.Optimizer, Tensor], None]


def plain(model: Toy, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def zeroed(model: Toy, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """d1: "freezing" by clearing the gradients."""
    loss.backward()
    for parameter in model.decoder.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    optimizer.step()
    optimizer.zero_grad()


def stale(model: Toy, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """d2: requires_grad is switched off after a backward pass, and .grad is never cleared."""
    loss.backward()
    model.decoder.requires_grad_(False)
    optimizer.step()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = None


def train(
    model: Toy,
    loop: Loop = plain,
    expect_frozen: Sequence[str] = (),
    steps: int = STEPS,
    expect_partial: Sequence[str] = (),
) -> tuple[Monitor, dict[str, Finding]]:
    """Findings above note, by rule and module; learnable labels."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    monitor = Monitor(model, optimizer, expect_frozen=expect_frozen, expect_partial=expect_partial)
    truth = torch.randn(8, CLASSES)
    for _ in range(steps):
        x = torch.randn(BATCH, 8)
        with monitor.step(samples=BATCH):
            loop(model, optimizer, nn.functional.cross_entropy(model(x), (x @ truth).argmax(1)))
    found = [finding for finding in monitor.findings() if finding.severity > Severity.NOTE]
    return monitor, {f"{finding.rule} {finding.module}": finding for finding in sorted(found, key=_last_step)}


def _last_step(finding: Finding) -> int:
    return finding.evidence.last_step


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("model", [Detached, Cached])
def test_a_coverage_of_one_row(model: type[Toy]) -> None:
    monitor, found = train(model())
    assert set(found) == {"COV001 encoder", "WASTE001 encoder"}
    evidence = found["COV001 encoder"].evidence
    assert evidence.value == pytest.approx(0.02)
    assert (evidence.first_step, evidence.last_step) == (0, STEPS - 1)
    assert found["COV001 encoder"].severity is Severity.CRITICAL
    assert "waste 0.98" in found["COV001 encoder"].message
    assert monitor.coverage("core") == monitor.coverage("decoder") == 1.0


def test_coverage_that_comes_and_goes_is_found_with_its_mean() -> None:
    _, findings = train(Lockstep())
    found = findings["COV001 encoder"]
    assert found.severity is Severity.CRITICAL
    steps = found.evidence.last_step - found.evidence.first_step + 1
    full = sum(step % 4 == 0 for step in range(found.evidence.first_step, found.evidence.last_step + 1))
    assert found.evidence.value == pytest.approx(full / steps)


@pytest.mark.parametrize("start", [0, 10])
def test_b_collapse_with_its_step(start: int) -> None:
    _, found = train(Altered(lambda step, output: same(output) if step >= start else output))
    assert set(found) == {"COLLAPSE001 encoder"}
    assert found["COLLAPSE001 encoder"].evidence.first_step == start


def test_c2_spikes_in_the_encoder_not_downstream() -> None:
    _, found = train(Altered(lambda step, output: output * (40 if step % 25 == 13 else 1)), steps=100)
    assert set(found) == {"SPIKE001 encoder"}
    assert "on 4 steps (13, 38, 63, 88)" in found["SPIKE001 encoder"].message


def test_d1_weight_decay_moves_frozen_decoder() -> None:
    _, found = train(Toy(), zeroed, expect_frozen=["decoder"])
    assert set(found) == {"FROZEN001 decoder"}
    assert found["FROZEN001 decoder"].cause.startswith("weight decay")
    assert "2 of 2 parameters" in found["FROZEN001 decoder"].message


def test_d1_undeclared_is_movement_without_gradient() -> None:
    _, found = train(Toy(), zeroed)
    assert found["MOVE002 decoder"].cause.startswith("weight decay")


def test_d2_stale_gradients_move_frozen_decoder() -> None:
    _, found = train(Toy(), stale, expect_frozen=["decoder"])
    causes = {finding.cause.split(":")[0] for finding in found.values()}
    assert {finding.rule for finding in found.values()} == {"FROZEN001"}
    # the freeze comes after the first backward pass, whose gradient is a true one
    assert "stale gradients" in causes
    assert "weight decay" not in causes
    assert any(
        f.evidence.last_step == STEPS - 1 and "requires_grad is False" in f.cause for f in found.values()
    )


def test_e1_module_before_the_no_grad_cut() -> None:
    _, found = train(BeforeTheCut())
    assert set(found) == {"GRAD001 encoder"}
    assert found["GRAD001 encoder"].cause.startswith("no_grad")


def test_e2_one_of_four_calls_is_a_warning_and_a_note_where_declared() -> None:
    monitor, found = train(Toy(grad_cycles=1))
    assert set(found) == {"CALL001 core"}
    assert "1 of 4 calls received gradient; 3 ran with gradients disabled" in found["CALL001 core"].message
    assert [call.grad_enabled for call in monitor.calls("core")] == [False, False, False, True]
    assert monitor.coverage("encoder") == monitor.coverage("core") == 1.0
    monitor, found = train(Toy(grad_cycles=1), expect_partial=["core"])
    assert found == {}
    assert [note.message for note in monitor.findings(select=["CALL001"])] == [
        "core: 1 of 4 calls received gradient; 3 ran with gradients disabled, 0 were cut later"
    ]


class CutCycle(Toy):
    """The first cycle runs with gradients enabled, and its result is detached."""

    def forward(self, x: Tensor) -> Tensor:
        context = self.encode(x)
        return self.decoder(self.core(self.core(context).detach() + context))


def test_a_call_that_is_cut_is_no_declared_one() -> None:
    _, found = train(CutCycle(), expect_partial=["core"])
    assert found["CALL001 core"].severity is Severity.WARNING
    assert "cut on the way" in found["CALL001 core"].cause


def probed(shift: Callable[[int], float], steps: int = 100) -> tuple[Monitor, list[Finding]]:
    """Findings of a healthy toy whose encoder is made to drift by `shift`, probed on a fixed batch."""
    torch.manual_seed(1)
    model = Altered(lambda step, output: output + shift(step))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer)
    truth, fixed = torch.randn(8, CLASSES), torch.randn(BATCH, 8)
    for step in range(steps):
        x = torch.randn(BATCH, 8)
        with monitor.step(samples=BATCH):
            plain(model, optimizer, nn.functional.cross_entropy(model(x), (x @ truth).argmax(1)))
        if step % 2 == 0:
            with torch.no_grad():
                monitor.probe("encoder", model.encoder(fixed))
    return monitor, [finding for finding in monitor.findings() if finding.severity > Severity.NOTE]


def test_c1_slow_drift_of_the_encoder_with_its_steps() -> None:
    monitor, (found,) = probed(lambda step: 3.0 * min(max((step - 30) / 40, 0), 1))
    assert (found.rule, found.module) == ("DRIFT001", "encoder")
    assert found.evidence.first_step == pytest.approx(30, abs=8)
    assert found.evidence.last_step == pytest.approx(70, abs=8)
    assert f"from step {found.evidence.first_step} to {found.evidence.last_step}" in found.message
    assert not monitor.findings(select=["RULE001"])


def test_a_healthy_training_does_not_drift() -> None:
    monitor, found = probed(lambda step: 0.0)
    assert found == []
    assert monitor.findings() == []


def test_a_drift_rule_without_enough_probes_says_so() -> None:
    monitor, _ = probed(lambda step: 0.0, steps=3)
    causes = [note.cause for note in monitor.findings(select=["RULE001:encoder"])]
    assert causes == ["drift: the reference has 2 of 5 probes"]


def test_f_graph_cut_at_item() -> None:
    _, found = train(ThroughItem())
    assert set(found) == {"GRAD001 scorer"}
    message = found["GRAD001 scorer"].message
    assert "no gradient; called 50 times with grad enabled, its outputs never reach the loss" in message
    assert ".item()" in found["GRAD001 scorer"].cause


def test_healthy_control_has_no_finding() -> None:
    monitor, found = train(Toy())
    assert found == {}
    assert monitor.findings(ignore=["RULE001"]) == [], to_markdown(monitor.findings())


def test_healthy_control_with_frozen_decoder_has_no_finding() -> None:
    model = Toy()
    model.decoder.requires_grad_(False)
    before = [parameter.clone() for parameter in model.decoder.parameters()]
    monitor, _ = train(model, expect_frozen=["decoder"])
    assert monitor.findings(ignore=["RULE001"]) == [], to_markdown(monitor.findings())
    assert all(torch.equal(*pair) for pair in zip(before, model.decoder.parameters(), strict=True))
    assert monitor.coverage("encoder") == 1.0
    moved = [record.modules["encoder"]["moved"] for record in monitor.history]
    assert all(value > 0 for value in moved)  # the rest is training
    assert all(late.step == early.step + 1 for early, late in pairwise(monitor.history))
