"""What is declared of several models goes to the monitor of each as far as it matches, and once at least."""

from __future__ import annotations

import pytest
from torch import nn

from diagnostics.auditing.declarations import Declarations
from diagnostics.errors import InvalidValue
from tests.diagnostics.refusals import refused


def models() -> tuple[nn.Module, nn.Module]:
    first = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    return first, nn.ModuleDict({"critic": nn.Sequential(nn.Linear(2, 2), nn.Tanh())})


def test_each_model_is_given_what_matches_in_it() -> None:
    declared = Declarations(["encoder", "critic"], ["head.weight"], ["critic", "encoder"])
    first, second = models()
    assert declared.options(first, None) == {
        "watch": ["encoder"],
        "expect_frozen": ["head.weight"],
        "expect_partial": ["encoder"],
    }
    assert declared.options(second, None) == {
        "watch": ["critic"],
        "expect_frozen": [],
        "expect_partial": ["critic"],
    }
    declared.check()


def test_the_usual_modules_where_nothing_to_watch_matches() -> None:
    _, second = models()
    assert Declarations(["encoder"]).options(second, ["critic.0"])["watch"] == ["critic.0"]
    assert Declarations().options(nn.Linear(2, 2), None)["watch"] is None


@pytest.mark.parametrize("argument", ["watch", "expect_frozen", "expect_partial"])
def test_what_matches_in_no_model_is_refused(argument: str) -> None:
    declared = Declarations(**{argument: ["encodr"]})
    for model in models():
        declared.options(model, None)
    with refused(InvalidValue, "selection.no-match", argument=argument, nearest="encoder"):
        declared.check()
