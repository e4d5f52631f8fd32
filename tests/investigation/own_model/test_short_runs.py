"""Short runs: gains are shares of the best reduction; H4 and H7 decide by them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.investigation.judgement import Judgement
from etrm.investigation.own_model.context_edits import captured_inputs
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import OwnHypothesis, OwnModelSession
from etrm.investigation.own_model.hypotheses.own_capacity import (
    FreeContextReason,
    OwnCapacity,
    find_ceiling,
    free_contexts,
    leave_open_without_pairs,
    same_contexts,
)
from etrm.investigation.own_model.hypotheses.own_dynamics import (
    OwnDynamics,
    describe_scale,
    judge_changes,
    list_changes,
    run_changes,
)
from etrm.investigation.own_model.short_runs import (
    LONGER,
    MUCH_LONGER,
    PATIENT,
    ShortRun,
    ShortRuns,
    describe_gain,
    frame_losses,
)
from etrm.investigation.own_model.training_trial import TrainingChange, TrainingTrial
from etrm.investigation.records import Verdict
from tests.investigation.own_model.toy_adapter import Toy, batch, factory, losses, read_samples, with_model

RATES = ["rate-x0.01", "rate-x0.1", "rate-x10", "rate-x100"]


def make_runs(arms: dict[str, list[tuple[float, float]]]) -> ShortRuns:
    runs = ShortRuns(factory(), None, "s", (0, 1))
    for name, ends in arms.items():
        runs.made[name] = [
            ShortRun(name, seed, (), start, end, 0.0) for seed, (start, end) in enumerate(ends)
        ]
    return runs


def test_a_gain_is_the_share_of_the_best_reduction_of_its_seed() -> None:
    runs = make_runs(
        {"one": [(2.0, 1.5), (4.0, 3.0)], "other": [(2.0, 1.0), (4.0, 2.5)], "best": [(2.0, 0.0)] * 2}
    )
    found = runs.contrast("x", "", runs.made["one"], runs.made["other"])
    assert found.effects == pytest.approx(((1.5 - 1.0) / 2.0, (3.0 - 2.5) / 4.0))
    assert (found.control, found.treatment) == (2.25, 1.75)


def test_losses_below_zero_and_runs_that_diverge_are_compared_too() -> None:
    runs = make_runs({"one": [(1.0, math.inf), (0.0, -1.0)], "other": [(1.0, 0.0), (0.0, -2.0)]})
    assert runs.contrast("x", "", *runs.made.values()).effects == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_gains_do_not_depend_on_the_scale_of_the_loss(scale: float) -> None:
    runs = make_runs({"one": [(scale, 0.8 * scale)] * 2, "other": [(scale, 0.6 * scale)] * 2})
    assert runs.contrast("x", "", *runs.made.values()).effects == pytest.approx((0.5, 0.5))


def test_where_nothing_learns_no_change_gains() -> None:
    runs = make_runs({"one": [(1.0, 1.0)] * 2, "other": [(1.0, 0.9999)] * 2})
    assert max(runs.contrast("x", "", *runs.made.values()).effects) == pytest.approx(0.01, rel=0.01)


def test_a_loss_that_falls_less_is_described_by_positive_numbers() -> None:
    runs = make_runs({"one": [(2.0, 1.0), (2.0, 1.0)], "other": [(2.0, 2.0), (2.0, 1.5)]})
    worse = runs.contrast("x", "", runs.made["one"], runs.made["other"])
    better = runs.contrast("x", "", runs.made["other"], runs.made["one"])
    assert re.findall(r"-?[\d.]+", describe_gain(worse)) == re.findall(r"-?[\d.]+", describe_gain(better))
    assert describe_gain(worse) != describe_gain(better)


def curve(*losses: float) -> ShortRun:
    return ShortRun("a", 0, losses, losses[0], losses[-1], 0.0)


def test_losses_that_fit_are_all_shown_and_those_of_runs_that_diverge_are_cut_off() -> None:
    assert frame_losses([curve(2.0, 1.0), curve(2.0, 2.9, 1.5)]).y_range is None
    assert frame_losses([]).y_range is None
    framed = frame_losses([curve(2.0, 1.0), curve(2.0, 1.5), curve(2.0, 1e9, math.inf)])
    assert framed.y_range is not None
    assert framed.y_range[0] < 1.0
    assert framed.y_range[1] == 3.0
    mostly_lost = frame_losses([curve(2.0, 1.0), curve(2.0, 50.0), curve(2.0, 1e9)])
    assert mostly_lost.y_range is not None
    assert mostly_lost.y_range[1] == 50.0


@pytest.mark.parametrize("hypothesis", [OwnDynamics(), OwnCapacity()], ids=["H4", "H7"])
def test_one_seed_leaves_it_undecided_and_is_no_error(hypothesis: OwnHypothesis, tmp_path: Path) -> None:
    session = OwnModelSession(factory(), factory().build(0), tmp_path, (0,), (0,), lambda *_: None)
    found = hypothesis.decide(session)
    assert (found.verdict, found.controls) == (Verdict.INCONCLUSIVE, ())


def test_runs_are_made_once_and_their_losses_are_files(tmp_path: Path) -> None:
    runs = ShortRuns(factory(), tmp_path, "short", (0, 1))
    first = runs.run(length=LONGER)
    assert runs.run(length=LONGER) is first
    assert [len(run.losses) for run in first] == [6 * LONGER] * 2
    lines = (tmp_path / first[1].record().folder / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == list(first[1].losses)
    again = ShortRuns(factory(), None, "short", (0, 1)).run(length=LONGER)
    assert [run.losses for run in again] == [run.losses for run in first]


def test_a_rate_that_is_far_too_low_is_a_candidate_by_a_higher_one() -> None:
    def slow(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), 1e-4)

    runs = ShortRuns(factory(optimizer=slow), None, "short", (0, 1, 2))
    found = judge_changes(run_changes(runs, [TrainingChange("rate-x100", "", rate=100.0)])[1])
    assert (found.verdict, found.candidate) == (Verdict.INCONCLUSIVE, True)
    healthy = ShortRuns(factory(), None, "short", (0, 1, 2))
    assert not judge_changes(run_changes(healthy, [TrainingChange("rate-x0.1", "", rate=0.1)])[1]).candidate


def test_a_rate_with_which_a_model_only_learns_slowly_is_no_fault() -> None:
    def patient(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), 0.05)

    runs = ShortRuns(factory(optimizer=patient), None, "short", (0, 1, 2))
    faster = [TrainingChange("rate-x10", "", rate=10.0)]
    (short, higher, longest), found = run_changes(runs, faster)
    assert runs.contrast("", "", short, higher).lower  # in the usual steps it gains
    assert [len(run.losses) for run in longest] == [6 * MUCH_LONGER] * 3
    assert not judge_changes(found).candidate


def test_changes_are_those_that_the_adapter_allows() -> None:
    names = [change.name for change in list_changes(factory().build(0))]
    assert names == [*RATES, "clip-1", "batch-x2", "context-rate-x0.1"]
    allowed = factory(clip_norm=1.0, schedule=lambda optimizer: None, context_module="").build(0)
    assert [change.name for change in list_changes(allowed)][-2:] == ["no-schedule", "no-clipping"]


@pytest.mark.parametrize(("factor", "shown"), [(1.0, ""), (1.5, ""), (-0.1, ""), (1 / 32, "0.031")])
def test_a_loss_of_another_size_than_its_rows_is_described(factor: float, shown: str) -> None:
    made = factory(step=lambda model, rows: factor * losses(model, rows).mean(), sample_losses=losses)
    found = describe_scale(made.build(0))
    assert shown in found
    assert bool(shown) is bool(found)


def test_batches_of_other_lengths_are_not_joined() -> None:
    def pad(index: int) -> dict[str, Any]:
        return {**batch(index), "mask": torch.ones(8, 1 + index)}

    assert "batch-x2" not in [change.name for change in list_changes(factory(batch=pad).build(0))]


class Narrow(Toy):
    """Its context is nothing but noise of the right shape, the same for every row."""

    def pass_on(self, context: Tensor) -> Tensor:
        return context

    def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
        return super().forward(torch.ones_like(demos), queries)


def test_free_contexts_fit_what_a_blind_module_cannot() -> None:
    blind = ShortRuns(with_model(Narrow, steps=60), None, "short", (0, 1, 2))
    own, free = blind.run(length=LONGER), blind.run(around=free_contexts, name="free")
    assert blind.contrast("free", "", own, free).lower
    seeing = ShortRuns(factory(steps=20), None, "short", (0, 1, 2))
    own, same = seeing.run(length=LONGER), seeing.run(around=same_contexts, name="same", length=LONGER)
    assert seeing.contrast("own", "", same, own).lower


def test_contexts_are_replaced_in_batches_of_any_number_of_rows() -> None:
    """As where the data ends with a short batch."""

    def read(index: int) -> dict[str, Any]:
        return read_samples(torch.arange(8 - index % 4))

    trial = TrainingTrial(factory(batch=read), 0)
    with free_contexts(trial) as choose:
        for number in range(4):
            choose(number)
            trial.loss(0, trial.batch(number)).backward()
        free = trial.optimizers[-1].param_groups[0]["params"]
        assert all(table.grad is not None and bool(table.grad.any()) for table in free)
    assert trial.model.get_submodule("encoder")._forward_hooks == {}
    with same_contexts(trial) as choose, captured_inputs(trial.model, "decoder", 5) as seen:
        choose(3)
        trial.loss(0, trial.batch(3))
    assert torch.allclose(seen[0][:, :8], seen[0][:1, :8].expand(5, 8))


@pytest.mark.parametrize(("end", "gains"), [(0.1, False), (1.2, True)])
def test_a_module_that_learns_more_slowly_than_a_free_context_is_not_too_weak(
    end: float, gains: bool
) -> None:
    ends = {"s-unchanged": 1.5, f"s-{PATIENT}": end, "s-free-context": 0.0}
    runs = make_runs({arm: [(2.0, last)] * 5 for arm, last in ends.items()})
    arms, found = find_ceiling(runs)
    assert arms == [runs.made[arm] for arm in ("s-unchanged", "s-free-context", f"s-{PATIENT}")]
    assert found.gained is gains


def test_a_free_context_that_gains_nothing_needs_no_longer_run() -> None:
    runs = make_runs({"s-unchanged": [(2.0, 0.1)] * 5, "s-free-context": [(2.0, 0.0)] * 5})
    assert len(find_ceiling(runs)[0]) == 2


def test_a_gain_of_free_contexts_proves_nothing_where_pairs_are_not_checked() -> None:
    gain = Judgement(Verdict.VALIDATED, (FreeContextReason.FREE_GAINS,), "A gain.")
    for changes, proven in (
        ({}, True),
        ({"sample": None}, False),
        ({"demonstrations": ("demos", "id")}, False),
    ):
        found = leave_open_without_pairs(gain, factory(**changes).build(0))
        assert (found.verdict is Verdict.VALIDATED) is proven
        assert found.candidate is not proven
    suffices = Judgement(Verdict.INVALIDATED, (FreeContextReason.CONTEXT_SUFFICES,), "None.")
    assert leave_open_without_pairs(suffices, factory(sample=None).build(0)) is suffices
