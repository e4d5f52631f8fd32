"""Records of several real processes, each with a share of the batch, against those of one that has all of it."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Absent, Monitor
from diagnostics.recording.calls import unknown_rows
from diagnostics.recording.process_group import ModuleFacts, OutputSums, StepFacts, _merge_outputs, merge
from diagnostics.records import CallRecord
from tests.diagnostics.recording.group_script import train_share
from tests.diagnostics.refusals import refused
from tests.forked import forking


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By size and rank."""
    folder = tmp_path_factory.mktemp("group")
    running = [forking().Process(target=train_share, args=(rank, 2, folder)) for rank in range(2)]
    for process in running:
        process.start()
    train_share(0, 1, folder)
    for process in running:
        process.join()
        assert process.exitcode == 0
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def close(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            close(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for place, (a, b) in enumerate(zip(first, second, strict=True)):
            close(a, b, f"{where}[{place}]")
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-6), where
    else:
        assert first == second, where


def test_every_process_records_what_one_would_have(records: dict[str, Any]) -> None:
    for rank in ("2-0", "2-1"):
        close(records["1-0"]["steps"], records[rank]["steps"])


def test_findings_are_those_of_one_process(records: dict[str, Any]) -> None:
    assert {rule for rule, *_ in records["1-0"]["findings"]} >= {"COV001", "MODE001"}
    for rank in ("2-0", "2-1"):
        close(records["1-0"]["findings"], records[rank]["findings"])


def test_the_toy_does_what_the_comparison_needs(records: dict[str, Any]) -> None:
    steps = records["1-0"]["steps"]
    assert [step["modules"]["encoder"]["coverage"] for step in steps[:5]] == [1.0, 2 / 6, 0.0, 2 / 6, 1 / 6]
    assert steps[2]["modules"]["encoder"]["state"] == "not called"
    assert "encoder" not in steps[2]["order"]
    assert steps[0]["reach"]["unused.weight"][0] == "none"
    assert steps[0]["reach"]["dead.weight"][0] == "zero"
    assert all(step["modules"]["core"]["calls"] == 2 for step in steps)
    assert (
        steps[0]["modules"]["core"]["grad_norm_pre_clip"] > steps[0]["modules"]["core"]["grad_norm_post_clip"]
    )


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    whole = torch.randn(7, 5, dtype=torch.float64) * 3 + 1

    def sums(rows: torch.Tensor) -> OutputSums:
        mean = rows.mean(0)
        variance, square = (rows - mean).square().mean(), rows.square().mean()
        return OutputSums(len(rows), 5, float(variance), float(square), float(rows.mean()), mean)

    merged, expected = _merge_outputs([sums(part) for part in whole.split([1, 4, 2])]), sums(whole)
    assert not isinstance(merged, Absent)
    for name in ("rows", "variance", "mean_square", "mean"):
        assert getattr(merged, name) == pytest.approx(getattr(expected, name)), name


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([False, False], False),
        ([False, True], True),
        ([Absent("unknown"), True], True),
        ([False, Absent("unknown")], Absent("unknown")),
    ],
)
def test_inputs_are_the_same_if_they_are_known_to_be_on_every_process(
    parts: list[bool | Absent], whole: bool | Absent
) -> None:
    outputs = [OutputSums(2, 5, 1.0, 1.0, 0.0, torch.zeros(5), part) for part in parts]
    merged = _merge_outputs(outputs)
    assert isinstance(merged, OutputSums)
    assert merged.inputs_differ == whole


def test_no_field_of_a_call_is_lost() -> None:
    call = CallRecord(
        grad_enabled=True,
        requires_grad=True,
        reached=True,
        gradient=True,
        rows=2,
        samples=torch.arange(2),
        row_gradients=torch.ones(2),
        recomputed=True,
        unknown=unknown_rows.NESTED,
        checkpointed=True,
        raw=True,
        in_sampling=True,
        perturbed=True,
        passes=frozenset({0, 2}),
        largest=1.0,
    )
    facts = StepFacts(2, {"core": ModuleFacts((call,), [], Absent("none"))}, (), frozenset(), None, {})
    (merged,) = merge([facts]).modules["core"].calls
    for item in fields(CallRecord):
        whole, own = getattr(merged, item.name), getattr(call, item.name)
        assert torch.equal(whole, own) if isinstance(own, torch.Tensor) else whole == own, item.name
        assert item.default is MISSING or own != item.default, item.name  # a lost one would be the default


def test_a_process_that_began_no_backward_pass_takes_from_others_what_was_left_and_who_feeds_whom() -> None:
    unseen = {name: ModuleFacts((), [], Absent("not called")) for name in ("encoder", "core", "head")}
    idle = StepFacts(2, unseen, (), frozenset(), None, {"core": frozenset()})
    busy = StepFacts(
        3,
        unseen,
        ("core",),
        frozenset({1}),
        {1: 0.5},
        {"core": frozenset({"encoder"}), "head": frozenset({"core"})},
    )
    for facts in ([idle, busy], [busy, idle]):
        merged = merge(facts)
        assert merged.leftover == {1: 0.5}
        assert merged.flow == {"encoder": set(), "core": {"encoder"}, "head": {"core"}}
    assert merge([idle, idle]).leftover is None


def test_gradients_that_were_never_reduced_are_not_taken_for_those_of_the_group(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        model = nn.Sequential(nn.Linear(2, 2))
        monitor = Monitor(model, group=torch.distributed.group.WORLD)
        with refused(RuntimeError, "monitor.gradients-not-reduced"), monitor.step(samples=3):
            model(torch.randn(3, 2)).sum().backward()
        with monitor.step(samples=3):
            model(torch.randn(3, 2)).sum().backward()
            monitor.gradients_reduced()
        assert monitor.coverage("0") == 1.0
    finally:
        torch.distributed.destroy_process_group()
