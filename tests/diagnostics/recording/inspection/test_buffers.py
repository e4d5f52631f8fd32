"""Buffers of what is declared frozen must not change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from diagnostics import Finding, Monitor


def model(buffer: torch.Tensor | None = None, persistent: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    if buffer is not None:
        encoder.register_buffer("held", buffer, persistent=persistent)
    return nn.Sequential(encoder, nn.Linear(4, 2))


def frozen(
    net: nn.Sequential,
    expect: list[str],
    during: Callable[[nn.Sequential], object] = lambda net: None,
) -> list[Finding]:
    monitor = Monitor(net, torch.optim.SGD(net[1].parameters(), lr=0.1), expect_frozen=expect)
    with monitor.step(samples=8):
        net(torch.randn(8, 3)).square().sum().backward()
        during(net)
    return [finding for finding in monitor.findings() if finding.rule == "FROZEN001"]


def test_running_statistics_in_training_mode_move() -> None:
    (finding,) = frozen(model(), ["0"])
    assert finding.module == "0"
    assert finding.evidence.value == 3.0  # mean, variance, number of batches
    assert "0.1.running_mean" in finding.message
    assert finding.code == "running-statistics"


def test_in_evaluation_mode_they_do_not() -> None:
    net = model()
    net[0].eval()
    assert frozen(net, ["0"]) == []


def test_a_declaration_of_parameters_is_none_of_buffers() -> None:
    assert frozen(model(), ["0.*.weight", "0.*.bias"]) == []
    assert frozen(model(), ["1"]) == []  # parameters do not move without an optimiser's step


def test_a_copy_into_a_buffer_is_seen_and_a_rebinding_too() -> None:
    for change in (
        lambda net: net[0].held[:1].add_(1.0),
        lambda net: setattr(net[0], "held", torch.ones(5)),
        lambda net: setattr(net[0], "held", None),
    ):
        net = model(torch.zeros(2))
        net[0].eval()
        (finding,) = frozen(net, ["0"], change)
        assert "(0.held)" in finding.message
        assert finding.code == "written-buffer"


def test_nan_that_stays_nan_and_caches_do_not_count() -> None:
    net = model(torch.full((2,), torch.nan))
    net[0].eval()
    assert frozen(net, ["0"]) == []
    net = model(torch.zeros(2), persistent=False)
    net[0].eval()
    assert frozen(net, ["0"], lambda net: net[0].held.add_(1.0)) == []
