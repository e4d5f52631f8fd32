"""H3: the context followed through sound and broken models, and the rule of the scale sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from etrm.batch import Batch
from etrm.config import SIDE, Config, ModelConfig, load, with_settings
from etrm.data import Episodes
from etrm.errors import DataError
from etrm.evaluation import paired_t_interval
from etrm.investigation.comparison import context_scale
from etrm.investigation.comparison.context_scale import SizeReason
from etrm.investigation.comparison.frozen_arms import TRAINED, TRAINED_LONGER, plan_jobs
from etrm.investigation.hypotheses import h3_context_interface as h3
from etrm.investigation.measurements.context_path import ContextReason, ContextTrace, DemoPart, trace_context
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.session import Investigation
from etrm.model.act import Carry, EncoderState
from etrm.model.encoders import ENCODERS, Encoded, StandardEncoder, mean_of_set
from etrm.model.recursive import Given, RecursiveModel, encode_every_step
from etrm.model.variant import StepOutput, Variant
from etrm.training.recipe import Recipe, build_model
from tests.errors import raises_code
from tests.investigation.planted import planted

KINDS = (
    "standard",
    "hybrid_standard",
    "lpn_standard",
    "lpn_variational",
    "hybrid_variational",
    "recurrent",
    "trm_style",
)


def smoke(**settings: Any) -> Config:
    return with_settings(with_settings(load("smoke"), train={"threads": 1}), **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_context_passes_whatever_the_encoder(kind: str) -> None:
    seen = trace_context(smoke(model={"encoder": {"kind": kind}}))
    assert not seen.holds
    assert (seen.same, seen.scale, seen.aligned) == (0, pytest.approx(1), pytest.approx(1))
    assert seen.used > 0.1


@pytest.mark.parametrize(
    "fault",
    ["context-detached", "encoder-no-grad", "cached-context", "encoder-frozen", "freeze-skips-optimizer"],
)
def test_what_cuts_gradients_alone_is_not_accused(fault: str) -> None:
    assert not trace_context(smoke(faults=(fault,))).holds


@pytest.mark.parametrize(
    "settings", [{"train": {"batch_size": 1}}, {"train": {"batch_size": 2}}, {"data": {"max_tasks": 2}}]
)
def test_a_batch_of_one_task_is_not_accused(settings: dict[str, Any]) -> None:
    seen = trace_context(smoke(**settings))
    assert not seen.holds
    assert seen.used > 0.1


def test_one_task_alone_cannot_be_asked() -> None:
    with raises_code(DataError, "investigate.single-task", 1):
        trace_context(smoke(data={"max_tasks": 1}))


def test_a_mean_over_the_batch_is_still_used() -> None:
    seen = trace_context(smoke(faults=("context-collapsed",)))
    assert seen.holds
    assert not seen.unused
    assert seen.others > 0.01


def test_a_scale_is_measured() -> None:
    seen = trace_context(smoke(faults=("context-scale",)))
    assert seen.scale == pytest.approx(30)
    assert seen.holds
    assert not seen.unused
    assert seen.codes == (ContextReason.CHANGED,)


def test_a_context_that_is_not_finite() -> None:
    seen = trace_context(smoke(faults=("context-nan",)))
    assert not seen.finite
    assert seen.codes == (ContextReason.NOT_FINITE,)


def test_an_unused_context() -> None:
    seen = trace_context(smoke(faults=("context-ignored",)))
    assert seen.unused
    assert ContextReason.UNUSED in seen.codes
    assert seen.others == 0


Policy = Callable[[RecursiveModel, Carry, Batch], Given]


def _rolled(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    return replace(given, context=given.context.roll(1, dims=0))


def _noisy(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    return replace(given, context=given.context + 0.01)


def _one_token_less(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    last = given.context.new_zeros(given.context.shape[1], 1)
    last[-1] = 1
    return replace(given, context=given.context * (1 - last))


def _at_the_beginning_alone(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    return replace(given, context=given.context * carry.halted[:, None, None])


def _larger_later(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    return replace(given, context=given.context * (1 + 29 * ~carry.halted[:, None, None]))


def _rolled_in_training(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    return (_rolled if model.training else encode_every_step)(model, carry, batch)


def _silent_in_training(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    given = encode_every_step(model, carry, batch)
    return replace(given, context=given.context * (not model.training))


@pytest.mark.parametrize(
    ("policy", "lost"),
    [
        (_rolled_in_training, False),
        (_silent_in_training, True),
        (_rolled, False),
        (_noisy, False),
        (_one_token_less, False),
        (_larger_later, False),
        (_at_the_beginning_alone, True),  # so that no gradient could come back from the later steps
    ],
)
def test_faults_that_nobody_listed(policy: Policy, lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = build_model(config, episodes)
        model.context_policy = policy
        return model

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(build_model=build))
    seen = trace_context(smoke())
    assert (seen.holds, seen.lost) == (True, lost)


@pytest.mark.parametrize(("policy", "holds"), [(_noisy, False), (_rolled, True)])
def test_the_policy_of_a_variant_from_outside_is_its_own(
    policy: Policy, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a row must not depend on other rows."""

    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = build_model(with_settings(config, model={"variant": "etrm"}), episodes)
        model.config, model.context_policy = config.model, policy
        return model  # type: ignore[return-value]

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(build_model=build))
    assert trace_context(smoke(model={"variant": "own_variant.py:Own"})).holds is holds


class _Reader(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(12, width), nn.Linear(width, 12)

    def forward(self, context: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.tokens(inputs) + context.mean(1, keepdim=True))
        return logits


class _Unnamed(_Reader):
    def forward(self, given: Tensor, inputs: Tensor) -> Tensor:
        return super().forward(given, inputs)


class _Swapped(Variant):
    """A variant with a core of its own, which gets the context of another row in every step, or its own."""

    def __init__(self, config: ModelConfig, core: nn.Module, shift: int) -> None:
        super().__init__()
        self.config, self.core, self.shift = config, core, shift
        self.encoder, self.puzzle_table = StandardEncoder(config, SIDE), None
        self.context_policy = encode_every_step

    def step(
        self, carry: Carry, batch: Batch, context: Tensor, minimum: Tensor | None = None
    ) -> tuple[Carry, StepOutput]:
        logits = self.core(context.roll(self.shift, 0), batch.inputs)
        return carry, StepOutput(logits, logits.new_zeros(batch.size), context)


@pytest.mark.parametrize(
    ("core", "shift", "holds", "compared"),
    [(_Reader, 0, False, True), (_Reader, 1, True, True), (_Unnamed, 0, False, False)],
)
def test_the_context_of_another_core_is_its_argument_of_this_name(
    core: type[_Reader], shift: int, holds: bool, compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(config: Config, episodes: Episodes) -> Variant:
        return _Swapped(config.model, core(config.model.hidden_size), shift)

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(build_model=build))
    seen = trace_context(smoke(model={"variant": "own_variant.py:Own"}))
    assert (seen.holds, seen.compared) == (holds, compared)


class _Coarse(StandardEncoder):
    """Each token of the context is one of a few codes, so that one change of colours may leave it as it is."""

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        codes = mean_of_set(pairs, mask).view(len(pairs), 4, -1).argmax(-1)
        return Encoded(one_hot(codes, pairs.shape[-1]).to(pairs.dtype))


class _LastDropped(StandardEncoder):
    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        kept = mask & (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True) - 1)
        return super().read(pairs, torch.where(kept.any(1, keepdim=True), kept, mask), carried)


@pytest.mark.parametrize(("encoder", "unread"), [(_Coarse, ()), (_LastDropped, (DemoPart.LAST,))])
def test_a_demonstration_is_unread_if_no_other_colours_of_it_change_the_context(
    encoder: type[StandardEncoder], unread: tuple[DemoPart, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODERS, "standard", encoder)
    assert trace_context(smoke()).unread == unread


def test_a_last_layer_may_begin_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no demonstration matters in a new model."""

    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = build_model(config, episodes)
        model.encoder.output_proj.weight.data.zero_()  # type: ignore[union-attr, union-attr, operator]
        return model  # type: ignore[return-value]

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(build_model=build))
    seen = trace_context(smoke(model={"encoder": {"kind": "lpn_standard"}}))
    assert not seen.holds
    assert seen.rms == 0


# -- the rule ---------------------------------------------------------------------------------------------

SOUND = ContextTrace(True, (4, 32), (4, 32), 0.0, 1.0, 1.0, 2.0, 0.0, 1.0, (), False)


def sweep(differences: list[float], use: float = 0.4) -> context_scale.Sweep:
    interval = paired_t_interval(differences, context_scale.LEVEL)
    losses = {1.0: 2.0, 0.1: 2.0 - interval.mean}
    return context_scale.Sweep(losses, 0.1, tuple(differences), interval, use)


def verdict(
    seen: ContextTrace, sizes: context_scale.Sizes | None = None, found: context_scale.Sweep | None = None
) -> Verdict:
    return h3.judge_context(seen, "", sizes, found, (), 3).verdict


def test_a_size_alike_needs_no_sweep() -> None:
    assert verdict(SOUND, context_scale.Sizes(1.0, 1.9, 4)) is Verdict.INVALIDATED
    assert not context_scale.Sizes(1.0, 2.1, 4).alike
    assert not context_scale.Sizes(1.0, 0.4, 4).alike
    assert context_scale.Sizes(0.0, 1.0, 4).ratio == math.inf


def test_another_size_needs_a_sweep_that_says_it_costs() -> None:
    far = context_scale.Sizes(1.0, 30.0, 4)
    assert verdict(SOUND, far, sweep([0.5, 0.52, 0.51, 0.5, 0.49])) is Verdict.VALIDATED
    assert verdict(SOUND, far, sweep([0.5, 0.52, 0.51])) is Verdict.INCONCLUSIVE
    assert sweep([0.5, 0.52, 0.51]).decision.candidate
    assert verdict(SOUND, far, sweep([-0.1, -0.11, -0.12])) is Verdict.INVALIDATED
    assert verdict(SOUND, far, None) is Verdict.ERROR


def test_the_sweep_says_what_its_numbers_decide() -> None:
    costs, open_, free = (sweep(d) for d in ([0.5, 0.52, 0.51], [-0.2, 0.3, 0.1], [-0.1, -0.11, -0.12]))
    assert [found.decision.ruled_out for found in (costs, open_, free)] == [False, None, True]
    assert [found.codes for found in (costs, open_, free)] == [
        (SizeReason.COSTS,),
        (SizeReason.UNDECIDED,),
        (SizeReason.COSTS_NOTHING,),
    ]
    assert "0.1" in costs.words  # the scale that does best
    assert "1.490" in costs.words  # its loss


def test_a_small_context_is_made_larger_and_a_large_one_smaller() -> None:
    """A small one was made smaller still, and ruled out because that did not help."""
    small, large = (context_scale.Sizes(1.0, size, 4).scales for size in (0.1, 30.0))
    assert min(small) > 1 > max(large)
    assert len(small) == len(large)


def test_a_context_that_says_nothing_at_the_better_scale_is_no_matter_of_scale() -> None:
    far = context_scale.Sizes(1.0, 30.0, 4)
    silent = sweep([0.5, 0.52, 0.51, 0.5, 0.49], use=0.04)
    assert verdict(SOUND, far, silent) is Verdict.INCONCLUSIVE
    assert not silent.decision.candidate
    assert silent.codes == (SizeReason.UNDECIDED, SizeReason.NOT_USED)
    assert verdict(SOUND, far, sweep([-0.1, -0.11, -0.12], use=0.0)) is Verdict.INVALIDATED


def test_a_broken_passage_is_enough() -> None:
    assert verdict(replace(SOUND, used=0.0)) is Verdict.VALIDATED


def test_the_sweep_finds_the_scale_that_a_frozen_decoder_was_made_for(investigation: Investigation) -> None:
    """Every scale is evaluated on the same weights and queries, and 1 is what the model does as it is."""
    investigation.root.mkdir(exist_ok=True)
    runs = investigation.run("H3", plan_jobs(investigation, TRAINED))
    found = context_scale.sweep_scales(runs, context_scale.LARGER)
    assert found is not None
    assert found.losses[1.0] == pytest.approx(runs[0].final["loss_end"])
    assert set(found.losses) == {1.0, *context_scale.LARGER}
    assert abs(found.use) < 1
    assert found.losses[found.scale] == min(loss for scale, loss in found.losses.items() if scale != 1)


def test_verdict_and_controls(investigation: Investigation) -> None:
    found = h3.HYPOTHESIS.decide(investigation)
    assert [control.name for control in found.controls] == ["healthy", *h3.HYPOTHESIS.controls]
    assert all(control.behaved for control in found.controls)
    assert found.verdict in (Verdict.INVALIDATED, Verdict.INCONCLUSIVE)
    assert {row.code: row.passed for row in found.evidence}["h3.finite"]


@pytest.mark.parametrize(
    ("later", "verdict"),
    [([-0.1, -0.11, -0.12], Verdict.INVALIDATED), ([0.5, 0.52, 0.51], Verdict.INCONCLUSIVE)],
)
def test_a_scale_that_gains_must_gain_after_longer_training_too(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch, later: list[float], verdict: Verdict
) -> None:
    sweeps = {TRAINED: sweep([0.5, 0.52, 0.51]), TRAINED_LONGER: sweep(later)}
    monkeypatch.setattr(h3, "measure_sizes", lambda *args: context_scale.Sizes(1.0, 30.0, 4))
    monkeypatch.setattr(h3, "inspect_controls", lambda *args: [])
    monkeypatch.setattr(h3, "train_with_frozen_decoder", lambda *args: planted(TRAINED, [1.0]))
    monkeypatch.setattr(h3, "train_longer", lambda *args: planted(TRAINED_LONGER, [1.0]))
    monkeypatch.setattr(h3, "sweep_scales", lambda runs, scales: sweeps[runs[0].arm])
    found = h3.HYPOTHESIS.decide(investigation)
    assert (found.verdict, found.candidate) == (verdict, verdict is Verdict.INCONCLUSIVE)


def test_runs_without_gradient_leave_the_size_undecided(investigation: Investigation) -> None:
    """A detached encoder is H2's finding: the sweep of H3 cannot train, and that is no error of H3."""
    investigation.subject = with_settings(investigation.subject, faults=("context-detached",))
    investigation.root.mkdir(exist_ok=True)
    runs = investigation.run("H3", plan_jobs(investigation, TRAINED))
    assert h3._nothing_trains(runs)
    assert not h3._nothing_trains([])
    far = context_scale.Sizes(1.0, 30.0, 4)
    found = h3.judge_context(SOUND, "", far, None, (), 3, nothing_trains=True)
    assert (found.verdict, found.codes[-1]) == (Verdict.INCONCLUSIVE, SizeReason.NOTHING_TRAINS)


def test_why_no_run_of_the_sweep_finished_is_shown() -> None:
    far = context_scale.Sizes(1.0, 30.0, 4)
    found = h3.judge_context(SOUND, "", far, None, (), 3, failure="a gradient of nan in encoder.spread")
    assert (found.verdict, found.codes[-1]) == (Verdict.ERROR, SizeReason.NO_SWEEP)
    assert "encoder.spread" in found.sentence


def test_what_was_not_measured_passes_nothing() -> None:
    rows = h3._make_rows(replace(SOUND, used=math.nan, finite=False), None, None, 1)
    assert {row.code: row.passed for row in rows} == {
        "h3.finite": False,
        "h3.change-on-its-way": True,
        "h3.change-with-other-rows": True,
        "h3.change-of-logits": None,
        "h3.unread-parts": True,
    }
    (lost,) = (row for row in h3._make_rows(replace(SOUND, same=math.inf), None, None, 1) if not row.passed)
    assert (lost.code, lost.passed) == ("h3.change-on-its-way", False)
    assert isinstance(lost.treatment, NotMeasured)


@pytest.mark.parametrize("fault", [None, "context-scale"])
def test_a_trace_that_shows_a_fault_needs_no_long_run(
    fault: str | None, investigation: Investigation
) -> None:
    faulty = with_settings(investigation.subject, faults=() if fault is None else (fault,))
    one = replace(investigation, subject=faulty)
    assert h3.HYPOTHESIS.is_short(one) == (fault is not None)
