"""A model of a library is audited without code, and what cannot be built is refused with the next step."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import UnknownName
from diagnostics.auditing import named_models
from diagnostics.auditing.case_file import artifact_of, audit_file
from diagnostics.auditing.named_models import CLASSES, PIXELS, build_named_case, is_named_model
from tests.diagnostics.refusals import refused


class Small(nn.Module):
    """A classifier with an auxiliary head, as old image models have."""

    def __init__(self, num_classes: int, cut: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(3 * PIXELS * PIXELS, 8), nn.Tanh())
        self.head, self.auxiliary, self.cut = nn.Linear(8, num_classes), nn.Linear(8, num_classes), cut

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.head(features), self.auxiliary(features.detach() if self.cut else features)


def build(name: str, weights: None, num_classes: int, **sizes: int) -> nn.Module:
    if sizes:
        raise TypeError("got an unexpected keyword argument")
    if name == "broken":
        raise RuntimeError("no such layer") from ValueError("the root of it\nand more")
    return Small(num_classes)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    models = SimpleNamespace(list_models=lambda module: ["small", "broken"], get_model=build)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))


@pytest.mark.usefixtures("torchvision")
def test_a_model_learns_random_data_without_code() -> None:
    found = audit_file("torchvision:small", steps=5, ignore=["RULE001"])
    assert found.clean
    assert set(found.last.modules) == {"features", "head", "auxiliary"}
    assert found.last.modules["head"].coverage == 1.0
    assert found.last.modules["auxiliary"].coverage == 1.0  # its loss counts too
    assert len(found.losses) == 5
    case = build_named_case("torchvision:small")
    images, classes = case["batches"][0]
    assert images.shape[0] == len(classes) == case["samples"](None)
    assert int(classes.max()) == CLASSES - 1


@pytest.mark.usefixtures("torchvision")
def test_weights_and_data_are_the_same_in_every_audit() -> None:
    first, again = (build_named_case("torchvision:small") for _ in range(2))
    assert torch.equal(first["model"].head.weight, again["model"].head.weight)
    assert torch.equal(first["batches"][0][0], again["batches"][0][0])


@pytest.mark.usefixtures("torchvision")
def test_what_cannot_be_built_is_refused_with_the_reason() -> None:
    with refused(UnknownName, "models.unknown-model", library="torchvision", got="smal", allowed="small"):
        build_named_case("torchvision:smal")
    with refused(UnknownName, "models.not-buildable", reason="ValueError: the root of it"):
        build_named_case("torchvision:broken")


@pytest.mark.parametrize(("library", "package"), [("hf", "transformers"), ("timm", "timm")])
def test_a_library_that_is_not_installed_is_named_with_the_command(
    library: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(named_models, "import_module", missing)
    with pytest.raises(UnknownName) as caught:
        build_named_case(f"{library}:bert")
    assert caught.value.code == "models.not-installed"
    assert f"pip install '{package}>=" in str(caught.value)


def test_a_file_is_no_named_model() -> None:
    assert is_named_model("hf:bert")
    assert (artifact_of("hf:bert"), artifact_of("train.py:make_case")) == ("", "train.py")
    assert not any(map(is_named_model, ("train.py:make_case", "hf:", "hf", ":x", "hfx:bert")))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "vit", "BertForSequenceClassification"])
def test_models_of_transformers_are_healthy(name: str) -> None:
    pytest.importorskip("transformers")
    found = audit_file(f"hf:{name}", steps=6)
    assert found.clean, str(found)
    assert found.losses[-1] < found.losses[0]
    assert "LOSS003" not in {
        finding.rule for finding in found.findings
    }  # a masked model does not see its labels
    weights = sum(parameter.numel() for parameter in build_named_case(f"hf:{name}")["model"].parameters())
    assert weights < 2_000_000


def test_a_model_of_timm_is_healthy() -> None:
    pytest.importorskip("timm")
    assert audit_file("timm:resnet18", steps=6).clean
