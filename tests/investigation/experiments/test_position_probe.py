"""The probe for position: planted features, and encoders that must or cannot know where a cell is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etrm.config import SIDE, load
from etrm.investigation.experiments.position_probe import FOLDS, GRID, explained, position_skill
from etrm.model.encoders.standard import GridEncoder


def planted(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(400, 2, generator=generator, dtype=torch.float64)
    mixing = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    features = wanted @ mixing + noise * torch.randn(400, 10, generator=generator, dtype=torch.float64)
    return features, wanted, torch.arange(400) % FOLDS


def test_a_linear_code_is_read_and_noise_is_not() -> None:
    assert explained(*planted(0.0)) == pytest.approx(1.0, abs=1e-3)
    assert explained(*planted(0.0)) > explained(*planted(0.5)) > 0.2
    features, wanted, folds = planted(0.0)
    assert explained(torch.randn(400, 10, dtype=torch.float64), wanted, folds) < 0.1
    assert explained(torch.ones_like(features), wanted, folds) < 0.01  # the mean place of the other folds


def encoder() -> GridEncoder:
    torch.manual_seed(0)
    return GridEncoder(load("smoke").model, SIDE)


def test_what_has_no_positions_knows_none() -> None:
    """Without layers every cell is alone: its token knows its colour and not its place, and so does their mean."""
    blind = encoder()
    for block in blind.layers:
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
    skill = position_skill(blind)
    assert skill.before < 0.01
    assert skill.after < 0.01


def test_an_encoder_that_writes_positions_down_keeps_them() -> None:
    """One channel of every coloured token holds its row, another its column: the mean over tokens has both."""
    knows = encoder()
    plain = knows.embed

    def embed(demos: object) -> Tensor:
        h = torch.zeros_like(plain(demos))  # type: ignore[arg-type]
        tokens, place = demos.tokens, demos.positions  # type: ignore[attr-defined]
        coloured = tokens > tokens.min()
        h[..., 0], h[..., 1] = coloured * (place // SIDE), coloured * (place % SIDE)
        return h

    knows.embed = embed  # type: ignore[method-assign]
    knows.layers = torch.nn.ModuleList([torch.nn.Identity()])
    knows.layers[0].forward = lambda h, rotation, mask: h  # type: ignore[method-assign]
    skill = position_skill(knows)
    assert skill.before > 0.99
    assert skill.after > 0.99
    assert GRID * GRID % FOLDS == 0


def test_probing_changes_nothing() -> None:
    probed = encoder()
    before = {name: value.clone() for name, value in probed.state_dict().items()}
    position_skill(probed)
    assert all(torch.equal(before[name], value) for name, value in probed.state_dict().items())
    assert all(parameter.grad is None for parameter in probed.parameters())
    assert not probed.layers[-1]._forward_hooks
