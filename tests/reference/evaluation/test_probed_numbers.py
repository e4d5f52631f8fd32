"""The numbers of the probe by the reference: those of a healthy run, and planted changes are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.probed_numbers import compare_probe
from etrm.training.monitoring import observer
from etrm.training.trainer import Trainer
from tests.reference.training.test_step import config_of


def compare(**changes: Any) -> list[Departure]:
    config = config_of(
        **{"monitor": {"enabled": True, "probe_every": 1, "probe_tasks": 5}, "train": {"lr": 1e-2}, **changes}
    )
    trainer = Trainer(config)
    [_, line] = [*trainer.advance(), *trainer.advance()]
    return compare_probe(line, trainer.model.state_dict(), config, trainer.tasks)


@pytest.mark.parametrize(
    "kind", ["standard", "lpn_variational", "trm_style"]
)  # one with noise, one with a state
def test_the_probe_of_an_encoder_is_the_reference(kind: str) -> None:
    assert compare(model={"encoder": {"kind": kind}}) == []


def test_other_contexts_and_rows_are_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = observer._probe_batch
    roll = torch.Tensor.roll

    def roll_by_column(tensor: torch.Tensor, shifts: int, dims: int) -> torch.Tensor:
        return roll(tensor, shifts, dims=dims or 1)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "roll", roll_by_column)
        assert [one.tensor for one in compare()] == ["logged probe.loss_shuffled"]
    monkeypatch.setattr(observer, "_probe_batch", lambda state: probe(state).select(torch.arange(3)))
    found = compare()
    assert {one.stage for one in found} == {PipelineStage.SCORE}
    assert {one.tensor for one in found} >= {"logged probe.loss_true", "logged probe.share"}
