"""The loss of rows that are solved, which a new model does not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from etrm.batch import IGNORE
from etrm.config import load, with_settings
from etrm.data.tokens import EOS, FIRST_COLOUR, PAD
from etrm.investigation.reference_comparison import known_losses
from etrm.investigation.reference_comparison.known_losses import compare_known_losses
from etrm.model.variant import StepOutput
from etrm.reference.departure import PipelineStage
from etrm.training import loss
from etrm.training.trainer import Trainer


def start(**changes: Any) -> Trainer:
    small = {"data": {"max_tasks": 6, "max_side": 3}, "monitor": {"enabled": False}}
    return Trainer(with_settings(with_settings(load("smoke"), **small), **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train": {"loss": "softmax", "q_halt_weight": 0.1}},
        {"model": {"encoder": {"kind": "lpn_variational"}}, "train": {"kl_weight": 0.01}},
        {"model": {"encoder": {"kind": "hybrid_variational"}}},
    ],
)
def test_the_loss_is_that_of_the_reference(changes: dict[str, Any]) -> None:
    trainer = start(**changes)
    random = torch.get_rng_state()
    assert compare_known_losses(trainer) == []
    assert torch.equal(torch.get_rng_state(), random)


def test_two_rows_are_solved_and_some_but_for_a_token() -> None:
    labels, output = known_losses._make_output(start())
    wrong = (output.logits.argmax(-1) != labels) & (labels != -100)
    assert wrong.sum(1)[:-3].tolist() == [0, 0, 1, 1, 1, 1]
    assert min(wrong.sum(1)[[-3, -1]].tolist()) > 1
    assert bool((labels[-2] == -100).all())
    kinds = {
        tuple(pair)
        for pair in zip(labels[wrong].tolist(), output.logits.argmax(-1)[wrong].tolist(), strict=True)
    }
    assert {(EOS, FIRST_COLOUR), (FIRST_COLOUR, EOS), (FIRST_COLOUR, PAD)} <= kinds
    assert {bool(q > 0) for q in output.q_halt} == {True, False}


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_answers_are_right_and_wrong_at_every_confidence(kind: str) -> None:
    labels, output = known_losses._make_output(start())
    probability, answer = loss.LOG_PROBABILITIES[kind](output.logits.detach()).exp().max(-1)
    for right in (answer == labels, (answer != labels) & (labels != -100)):
        assert float(probability[right].min()) < 0.6
        assert float(probability[right].max()) > 0.97


def test_tokens_that_count_less_once_they_are_sure_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loss.log_stablemax

    def unsure(logits: torch.Tensor) -> torch.Tensor:
        found = plain(logits)
        return torch.where(found.exp() < 0.5, found, torch.zeros_like(found))

    monkeypatch.setitem(loss.LOG_PROBABILITIES, "stablemax", unsure)
    found = compare_known_losses(start())
    assert found[0].stage is PipelineStage.LOSS


def test_a_halting_target_of_another_row_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loss.F.binary_cross_entropy_with_logits

    def rolled(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
        return plain(logits, target.roll(1), **options)

    monkeypatch.setattr(loss.F, "binary_cross_entropy_with_logits", rolled)
    found = compare_known_losses(start())
    assert [departure.stage for departure in found] == [PipelineStage.LOSS, PipelineStage.GRADIENT]


@pytest.mark.parametrize("share", [0.9, 0.995])
def test_rows_that_count_as_solved_with_some_wrong_tokens_depart(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    plain = loss.act_loss

    def nearly_solved(output: StepOutput, labels: torch.Tensor, kind: str) -> loss.Loss:
        found = plain(output, labels, kind)
        solved = (found.token_accuracy >= share).float()
        q_halt = loss.F.binary_cross_entropy_with_logits(output.q_halt, solved, reduction="none")
        return replace(found, q_halt=q_halt * found.scored)

    monkeypatch.setattr(known_losses, "act_loss", nearly_solved)
    assert compare_known_losses(start())[0].stage is PipelineStage.LOSS


@pytest.mark.parametrize(("label", "answer"), [(EOS, None), (None, PAD), (None, EOS)])
def test_rows_that_count_as_solved_with_a_wrong_token_of_one_kind_depart(
    monkeypatch: pytest.MonkeyPatch, label: int | None, answer: int | None
) -> None:
    plain = loss.act_loss

    def forgiving(output: StepOutput, labels: torch.Tensor, kind: str) -> loss.Loss:
        found, answers = plain(output, labels, kind), output.logits.argmax(-1)
        right = (answers == labels) | (labels == IGNORE) | (labels == label) | (answers == answer)
        solved = (right.all(1) & found.scored).float()
        q_halt = loss.F.binary_cross_entropy_with_logits(output.q_halt, solved, reduction="none")
        return replace(found, q_halt=q_halt * found.scored)

    monkeypatch.setattr(known_losses, "act_loss", forgiving)
    assert compare_known_losses(start())[0].stage is PipelineStage.LOSS


def test_a_gradient_that_is_not_the_slope_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loss._TargetLogProbability.backward

    def halved(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return 0.5 * plain(ctx, grad)[0], None, None

    monkeypatch.setattr(loss._TargetLogProbability, "backward", staticmethod(halved))
    [found] = compare_known_losses(start())
    assert (found.stage, found.tensor) == (PipelineStage.GRADIENT, "gradient of the logits of known answers")
