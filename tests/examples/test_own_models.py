"""Adapters of models that nobody here wrote: a healthy one fails no check, and each fault fails its own hypothesis."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from etrm.investigation.own_model.check_adapter import check_adapter
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import InspectedHypothesis
from etrm.investigation.own_model.investigate_model import OWN_HYPOTHESES
from etrm.investigation.own_model.model_factory import ModelFactory

FOLDER = Path(__file__).parents[2] / "examples" / "own-models"
NEEDS = {
    "recursive": "tiny_recursive_model",
    "in_context": "transformers",
    "generator": "diffusers",
    "meta_learner": "higher",
}
INSPECTED = {id: one for id, one in OWN_HYPOTHESES.items() if isinstance(one, InspectedHypothesis)}
pytestmark = pytest.mark.filterwarnings("default")  # packages warn of their own future


@pytest.fixture(scope="module", params=list(NEEDS))
def example(request: pytest.FixtureRequest) -> ModuleType:
    """The file of an example."""
    pytest.importorskip(NEEDS[request.param], reason="the extra `examples` is not installed")
    spec = importlib.util.spec_from_file_location(f"own_{request.param}", FOLDER / f"{request.param}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def validated(make: Any, until: str = "H3") -> list[str]:
    """The hypotheses up to one that the inspections validate and no other one of them explains, in order."""
    factory = ModelFactory(make, make.__name__)
    subject = check_adapter(factory)
    ids = list(INSPECTED)
    wanted = [id for id in ids[: ids.index(until) + 1] if not INSPECTED[id].find_missing(subject)]
    found = {id: INSPECTED[id].inspect(factory, 0) for id in wanted}
    failed = [id for id, inspected in found.items() if inspected.failed]
    return [id for id in failed if found[id].explained_by not in failed]


def test_a_healthy_model_fails_nothing(example: ModuleType) -> None:
    assert validated(example.make_model) == []


def test_each_fault_fails_its_hypothesis_first(example: ModuleType) -> None:
    expected = {name: id for name, id in example.FAULTS.items() if id in INSPECTED}
    assert {name: validated(getattr(example, name), id)[:1] for name, id in expected.items()} == {
        name: [id] for name, id in expected.items()
    }


@pytest.mark.parametrize("name", list(NEEDS))
def test_the_adapter_is_short(name: str) -> None:
    """From the first function to the end of the healthy adapter: under 60 lines of code."""
    text = (FOLDER / f"{name}.py").read_text("utf-8")
    code = text[text.index("\ndef ") : text.index("\n    )\n", text.index("    return ModelUnderTest(")) + 7]
    own = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(own) < 60
