"""H1 finds by its effect what a fault does to the decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.config import Config, with_settings
from etrm.errors import CheckpointError
from etrm.investigation.hypotheses import h1_decoder_loading as h1
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Verdict
from etrm.investigation.session import Investigation
from etrm.model.construct import VARIANTS
from etrm.model.recursive import RecursiveModel
from etrm.training import faults
from etrm.training.faults import Fault
from tests.errors import raises_code


def test_a_healthy_subject_arrives_as_it_was(subject: Config, decoder: Path) -> None:
    facts = h1.compare_with_checkpoint(subject, decoder)
    assert not facts.holds
    assert (facts.matched, facts.total, facts.missing, facts.settings) == (10, 10, 0, ())
    assert facts.logits <= h1.LOGIT_TOLERANCE
    assert facts.other_weights_matched == 2  # H_init and L_init never train


@pytest.mark.parametrize(
    "changes", [{"halt": {"max_steps": 1}}, {"halt": {"exploration": 1}}, {"variant": "etrm_fct"}]
)
def test_how_long_a_subject_thinks_is_no_matter_of_loading(
    changes: dict[str, Any], subject: Config, decoder: Path
) -> None:
    facts = h1.compare_with_checkpoint(with_settings(subject, model=changes), decoder)
    assert facts.logits <= h1.LOGIT_TOLERANCE


def test_how_a_variant_uses_its_core_is_no_matter_of_loading(
    subject: Config, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Twice(RecursiveModel):
        def step(self, carry: Any, *rest: Any) -> Any:
            return super().step(super().step(carry, *rest)[0], *rest)

    monkeypatch.setitem(VARIANTS, subject.model.variant, Twice)  # type: ignore[arg-type]
    assert h1.compare_with_checkpoint(subject, decoder).logits <= h1.LOGIT_TOLERANCE


def test_a_decoder_that_is_not_loaded_is_seen_in_the_weights(subject: Config, decoder: Path) -> None:
    facts = h1.compare_with_checkpoint(with_settings(subject, faults=("decoder-not-loaded",)), decoder)
    assert facts.holds
    assert facts.matched < facts.total
    assert facts.logits > h1.LOGIT_TOLERANCE


def test_other_cycles_are_seen_although_every_weight_matches(subject: Config, decoder: Path) -> None:
    facts = h1.compare_with_checkpoint(with_settings(subject, faults=("decoder-cycles-mismatch",)), decoder)
    assert facts.holds
    assert facts.matched == facts.total
    assert facts.settings == (("L_cycles", 1, 3),)
    assert facts.logits > h1.LOGIT_TOLERANCE


def test_raw_weights_where_ema_is_meant_are_seen(subject: Config, decoder: Path) -> None:
    raw = with_settings(subject, train={"decoder_weights": "raw"})
    meant = h1.compare_with_checkpoint(raw, decoder)
    assert not meant.holds  # raw is what this config means

    def load_raw(recipe: faults.Recipe) -> faults.Recipe:
        def load(model: object, config: Config) -> None:
            recipe.load_decoder(model, raw)  # type: ignore[arg-type]

        return faults.replace(recipe, load_decoder=load)

    with pytest.MonkeyPatch.context() as patch:
        planted = Fault("planted", "raw weights in place of EMA", "H1", "a test", load_raw)
        patch.setitem(faults.FAULTS, "planted", planted)
        facts = h1.compare_with_checkpoint(with_settings(subject, faults=("planted",)), decoder)
    assert facts.holds
    assert facts.matched == 2


def test_a_fault_that_no_list_knows_is_seen_by_its_effect(subject: Config, decoder: Path) -> None:
    def nudge(recipe: faults.Recipe) -> faults.Recipe:
        def change(model: torch.nn.Module) -> None:
            with torch.no_grad():
                model.core.lm_head.weight[3, 5] += 2e-5

        def load(model: torch.nn.Module, config: Config) -> None:
            recipe.load_decoder(model, config)  # type: ignore[arg-type]
            change(model)

        return faults.replace(recipe, load_decoder=load)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(faults.FAULTS, "planted", Fault("planted", "one weight", "H1", "a test", nudge))
        facts = h1.compare_with_checkpoint(with_settings(subject, faults=("planted",)), decoder)
    assert facts.holds
    assert facts.matched == facts.total - 1


def test_the_verdict_has_both_controls_and_its_numbers(investigation: Investigation) -> None:
    found = h1.HYPOTHESIS.decide(investigation)
    assert found.verdict is Verdict.INVALIDATED
    assert found.codes == (h1.LoadingReason.TENSORS_EQUAL, h1.LoadingReason.LOGITS_EQUAL)
    assert {row.code: row.treatment for row in found.evidence}["h1.tensors-equal"] == 10
    assert {c.name: c.got for c in found.controls} == {
        "healthy": Verdict.INVALIDATED,
        "decoder-not-loaded": Verdict.VALIDATED,
        "decoder-raw-for-ema": Verdict.VALIDATED,
        "decoder-moves": Verdict.VALIDATED,
        "decoder-cycles-mismatch": Verdict.VALIDATED,
    }
    assert all(c.behaved for c in found.controls)
    differ, moved = h1.LoadingReason.TENSORS_DIFFER, h1.LoadingReason.FROZEN_TENSORS_MOVED
    settings = h1.LoadingReason.SETTINGS_DIFFER
    named = {c.name: set(c.codes) & {differ, moved, settings} for c in found.controls}
    assert named == {
        "healthy": set(),
        "decoder-not-loaded": {differ},
        "decoder-raw-for-ema": {differ},
        "decoder-moves": {moved},
        "decoder-cycles-mismatch": {settings},
    }
    assert all(check.passed for check in found.instruments)


def test_a_control_that_does_not_behave_makes_the_verdict_an_error(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless = Fault("decoder-not-loaded", "nothing", "H1", "a test", lambda recipe: recipe)
    monkeypatch.setitem(faults.FAULTS, "decoder-not-loaded", harmless)
    found = h1.HYPOTHESIS.decide(investigation)
    assert (found.verdict, found.codes) == (Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,))
    assert [control.name for control in found.controls if not control.behaved] == ["decoder-not-loaded"]


def test_a_decoder_of_another_size_is_an_error_that_says_why(subject: Config, decoder: Path) -> None:
    wide = with_settings(subject, model={"hidden_size": 64})
    with raises_code(CheckpointError, "decoder.does-not-fit"):
        h1.compare_with_checkpoint(wide, decoder)


def test_a_trm_that_starts_from_no_other_has_nothing_to_load(investigation: Investigation) -> None:
    found = h1.HYPOTHESIS.decide(
        replace(
            investigation,
            subject=with_settings(
                investigation.subject,
                model={"variant": "trm"},
                data={"augmentations": 1},
                train={"decoder": None},
            ),
        )
    )
    assert (found.verdict, found.codes) == (Verdict.NOT_RUN, (CommonReason.NOT_APPLICABLE,))


def test_another_core_takes_no_decoder(investigation: Investigation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Investigation, "takes_decoder", False)
    variant = {"variant": "own_variant.py:Own"}
    own = replace(investigation, subject=with_settings(investigation.subject, model=variant))
    found = h1.HYPOTHESIS.decide(own)
    assert (found.verdict, found.codes) == (Verdict.NOT_RUN, (CommonReason.NOT_APPLICABLE,))


def test_a_halting_logit_that_never_moves_is_no_matter_of_loading(
    investigation: Investigation, decoder: Path
) -> None:
    stuck = with_settings(investigation.subject, faults=("halting-stuck",))
    assert not h1.compare_with_checkpoint(stuck, decoder).holds
