"""H1 of an own model: loading that is skipped, partial, or with other settings; frozen weights that move."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from etrm.investigation.own_model.hypotheses.own_loading import OwnLoading
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, Pretrained
from tests.investigation.own_model.toy_adapter import factory, make_toy

H1 = OwnLoading()
torch.manual_seed(7)
TRAINED = nn.Sequential(nn.Linear(4, 8), nn.Tanh())


def load(model: Any) -> None:
    model.encoder.load_state_dict(TRAINED.state_dict())


def freeze(model: Any) -> None:
    load(model)
    model.encoder.requires_grad_(False)


def made(load: Any = load, frozen: tuple[str, ...] = (), original: nn.Module = TRAINED) -> ModelFactory:
    pretrained = Pretrained(
        part="encoder",
        load=load,
        original=lambda: copy.deepcopy(original),
        inputs=lambda: (torch.linspace(-1, 1, 12).view(3, 4),),
    )
    return factory(pretrained=pretrained, frozen=frozen)


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in H1.inspect(made, 0).failed}


def test_a_loaded_and_frozen_part_passes_every_row() -> None:
    assert failed(made(freeze, ("encoder",))) == set()
    assert failed(made()) == set()


class WithVersion(nn.Sequential):
    """Its state has an entry that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_a_state_may_have_more_than_tensors() -> None:
    assert failed(made(original=WithVersion(*TRAINED))) == set()


def load_half(model: Any) -> None:
    model.encoder[0].weight.data.copy_(TRAINED[0].weight)


@pytest.mark.parametrize(
    ("broken", "codes"),
    [
        (made(lambda model: None), {"own.tensors-different", "own.loaded-output"}),
        (made(load_half), {"own.tensors-different", "own.loaded-output"}),
        (made(original=nn.Sequential(TRAINED[0], nn.ReLU())), {"own.loaded-output"}),
        (made(original=nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))), {"own.tensors-missing"}),
        (made(load, ("encoder",)), {"own.frozen-moved"}),
    ],
)
def test_each_fault_fails_its_rows(broken: ModelFactory, codes: set[str]) -> None:
    assert codes <= failed(broken)


def test_it_needs_a_pretrained_or_frozen_part() -> None:
    assert H1.find_missing(factory().build(0))
    assert not H1.find_missing(factory(frozen=("encoder",)).build(0))


def test_every_control_is_found() -> None:
    healthy = made(freeze, ("encoder",))
    faults = H1.list_faults(healthy.build(0))
    assert [fault.name for fault in faults] == ["other-weights", "frozen-part-moves"]
    assert all(failed(fault.apply(healthy)) for fault in faults)


def test_a_factory_that_loads_the_weights_itself_has_its_control() -> None:
    def make_loaded(seed: int) -> ModelUnderTest:
        built = make_toy(seed)
        load(built.model)
        pretrained = Pretrained(part="encoder", load=load, original=lambda: copy.deepcopy(TRAINED))
        return replace(built, pretrained=pretrained)

    loaded = ModelFactory(make_loaded, "toy")
    [fault] = H1.list_faults(loaded.build(0))
    assert failed(loaded) == set()
    assert failed(fault.apply(loaded)) == {"own.tensors-different"}
