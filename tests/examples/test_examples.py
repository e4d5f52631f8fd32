"""Models that nobody here wrote: healthy ones have nothing above a note, broken ones the right module and rule."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import diagnostics
from diagnostics import Severity, audit

FOLDER = Path(diagnostics.__file__).parent.parent / "docs" / "examples"
NEEDS = {"bert": "transformers", "resnet": "torch", "recursive": "tiny_recursive_model"}

EXPECTED: dict[str, dict[str, list[tuple[str, str]]]] = {
    "bert": {
        "make_case": [],
        "embeddings_detached": [("REACH001", "bert.embeddings")],
        "layer_without_grad": [("GRAD001", "bert.encoder.layer.0")],
        "two_of_32_live": [("COV001", "bert.encoder.layer.0")],
        "head_in_no_group": [("MOVE001", "classifier")],
        "rate_zero": [("MOVE001", "")],
    },
    "resnet": {
        "make_case": [],
        "stem_without_grad": [("GRAD001", "stem")],
        "two_of_32_live": [("COV001", "layer1")],
        "dead_relu": [("REACH002", "layer2")],
        "left_in_eval": [("MODE001", "stem")],
        "head_in_no_group": [("MOVE001", "fc")],
    },
    "recursive": {
        "make_case": [],
        "input_detached": [("GRAD001", "input_embed")],
        "all_without_grad": [("GRAD001", "input_embed"), ("GRAD001", "network")],
        "two_of_32_live": [("COV001", "network")],
        "halting_head_in_no_group": [("MOVE001", "to_halt_pred"), ("HALT001", "")],
        "halting_without_loss": [("GRAD002", "to_halt_pred"), ("HALT001", "")],
    },
}


@pytest.fixture(scope="module", params=list(EXPECTED))
def example(request: pytest.FixtureRequest) -> Any:
    """The file of an example, imported as `etrm audit` does."""
    pytest.importorskip(NEEDS[request.param], reason="the extra `examples` is not installed")
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module(request.param)
    finally:
        sys.path.remove(str(FOLDER))
        del sys.modules[request.param]


@pytest.mark.slow  # `make test-extras` runs all of this folder
@pytest.mark.filterwarnings("default")  # packages warn of their own future
def test_every_case_says_what_is_wrong_and_nothing_else(example: ModuleType) -> None:
    torch.manual_seed(0)
    found = {
        make.__name__: [
            (finding.rule, finding.module)
            for finding in audit(**make(), steps=12).findings
            if finding.severity > Severity.NOTE
        ]
        for make in example.CASES
    }
    assert found == EXPECTED[example.__name__]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_healthy_one_is_quiet_at_every_level_and_learns(example: ModuleType) -> None:
    case = example.make_case()
    case.pop("watch", None)
    for watch in (None, ["*"]):
        report = audit(**case, watch=watch, steps=40)
        assert [f for f in report.findings if f.severity > Severity.NOTE] == []
        assert sum(report.losses[-5:]) < sum(report.losses[:5])


def test_the_page_has_every_case(example: ModuleType) -> None:
    text = (FOLDER / f"{example.__name__}.md").read_text(encoding="utf-8")
    cases = [make.__name__ for make in example.CASES]
    assert re.findall(r"^\|`(\w+)`\|", text, flags=re.MULTILINE) == cases
