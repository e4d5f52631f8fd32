"""Answers of a second call: the same of a sound model, others of one that draws anything."""

from __future__ import annotations

import pytest
import torch

from etrm.config import load, with_settings
from etrm.investigation.measurements.repeated_answers import count_changed
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.variant import ContextPolicy, with_noise
from etrm.training.trainer import Trainer


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(with_settings(load("smoke"), train={"threads": 1}, monitor={"enabled": False}))


@pytest.fixture
def policy(trainer: Trainer) -> ContextPolicy:
    return trainer.model.context_policy


def test_a_sound_model_repeats_itself(trainer: Trainer) -> None:
    assert count_changed(trainer.model, training_queries(trainer)) == 0


def test_a_few_changed_answers_are_counted(
    trainer: Trainer, policy: ContextPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core answers the first three queries otherwise at every second call."""
    calls: list[int] = []

    def alternate(head: torch.nn.Module, given: object, logits: torch.Tensor) -> torch.Tensor:
        calls.append(len(logits))
        changed = torch.arange(len(logits)) < 3
        steps = trainer.config.model.halt.max_steps
        return torch.where(changed[:, None, None] & (len(calls) > steps), -logits, logits)

    hook = trainer.model.core.lm_head.register_forward_hook(alternate)
    queries = training_queries(trainer)
    found = count_changed(trainer.model, queries)
    hook.remove()
    assert found == 3 < len(queries)


def test_noise_changes_answers_and_torch_is_left_as_it_was(
    trainer: Trainer, policy: ContextPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.model, "context_policy", with_noise(policy))
    assert count_changed(trainer.model, training_queries(trainer)) > 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert trainer.model.training
