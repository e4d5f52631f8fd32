"""The settings of the symbolic solver: what cannot be meant is refused under a code."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from etrm.config import SymbolicConfig, load, with_settings
from etrm.errors import ConfigError
from tests.errors import raises_code


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"families": ()}, "config.empty-library"),
        ({"families": ("original", "orignal")}, "config.unknown-family"),
        ({"families": ("original", "original")}, "config.repeated-family"),
        ({"exponent": 2.0}, "config.exponent-without-mean"),
        ({"guards": 3}, "config.learned-setting-without-family"),
        ({"width": 3}, "config.learned-setting-without-family"),
        ({"reach": 3}, "config.learned-setting-without-family"),
        ({"cycles": 2}, "config.recursion-without-encoder"),
        ({"pairwise": True, "selector": "demos"}, "config.pairwise-without-fit"),
        ({"cycle_grad": "last"}, "config.recursion-without-encoder"),
        ({"inject": "start"}, "config.recursion-without-encoder"),
        ({"hidden_size": 64}, "config.recursion-without-encoder"),
        ({"selection": "hard", "temperature": 0.1}, "config.temperature-without-softmax"),
        ({"selection": "hard", "last_temperature": 0.1}, "config.temperature-without-softmax"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SymbolicConfig(**settings)
    assert [error["type"] for error in caught.value.errors()] == [code]


def test_learned_settings_have_their_effect_with_the_family() -> None:
    config = SymbolicConfig(families=("learned",), guards=3, quantifier="mean", exponent=2)
    assert (config.guards, config.exponent) == (3, 2)


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("model.layers=3", "config.recursive-settings-of-symbolic"),
        ("model.encoder.layers=3", "config.recursive-settings-of-symbolic"),
        ("model.halt.max_steps=2", "config.steps-of-symbolic"),
        ("train.loss=stablemax", "config.training-of-symbolic"),
        ("train.q_halt_weight=0.5", "config.training-of-symbolic"),
        ("train.compile=true", "config.training-of-symbolic"),
        ("train.decoder=somewhere", "config.training-of-symbolic"),
        ("model.variant=etrm", "config.symbolic-settings-of-other-variant"),
    ],
)
def test_settings_that_cannot_act_on_the_symbolic_solver_are_refused(setting: str, code: str) -> None:
    with raises_code(ConfigError, code):
        load("symbolic-rules", overrides=(setting,))


@pytest.mark.parametrize(
    ("preset", "changes", "label"),
    [
        ("smoke", {}, "etrm, standard"),
        ("overfit", {"variant": "trm"}, "trm"),
        ("symbolic-rules", {}, "symbolic, fit"),
        ("symbolic-rules", {"symbolic": {"selector": "demos"}}, "symbolic, demos"),
    ],
)
def test_a_model_is_labelled_by_what_reads_its_demonstrations(
    preset: str, changes: dict[str, Any], label: str
) -> None:
    assert with_settings(load(preset), model=changes).model.label == label
