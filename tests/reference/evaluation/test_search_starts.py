"""The first contexts of searches: what they start from, and noise that each of them has of its own."""

from __future__ import annotations

import pytest
import torch

from etrm.config import with_settings
from etrm.data import build_evaluation_samples
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.reference.evaluation.search_starts import SearchedRow, start_contexts
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer
from tests.reference.training.test_step import config_of


def starts_of(start: str, noise: float, hold_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Two first contexts (2, 2, P, D) of each of two training tasks, and the contexts (2, P, D) that a model reads."""
    config = with_settings(
        config_of(data={"max_tasks": 2}),
        evaluate={"search": {"restarts": 2, "start": start, "noise": noise, "hold_out": hold_out}},
    )
    trainer = Trainer(config)
    samples = build_evaluation_samples(trainer.tasks, config.data, 1, 0)
    rows = [SearchedRow(sample.name, plain_row(sample)) for sample in samples][:2]
    found = start_contexts(trainer.model.state_dict(), config, trainer.tasks, rows)
    model = trainer.model.eval()
    batch = make_batch(model, samples[:2])
    read = model.context_policy(model, model.initial_carry(2), batch).context.detach()
    return found.unflatten(0, (2, 2)), read


def test_without_noise_a_search_starts_from_what_the_setting_names() -> None:
    encoder, read = starts_of("encoder", 0.0)
    mean, _ = starts_of("mean", 0.0)
    nothing, _ = starts_of("noise", 0.0)
    torch.testing.assert_close(encoder, read[:, None].expand_as(encoder), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean, read.mean(0).expand_as(mean), rtol=1e-4, atol=1e-5)
    assert not nothing.any()


def test_a_demonstration_that_is_left_out_is_not_encoded() -> None:
    whole, _ = starts_of("encoder", 0.0)
    held, _ = starts_of("encoder", 0.0, hold_out=True)
    assert not torch.allclose(whole, held)
    assert not torch.allclose(held[:, 0], held[:, 1])


@pytest.mark.parametrize(("start", "first"), [("noise", True), ("mean", False)])
def test_each_search_has_its_own_noise_as_large_as_contexts_differ(start: str, first: bool) -> None:
    (found, read), (mean, _) = starts_of(start, 2.0), starts_of("mean", 0.0)
    noise = found - (mean if start == "mean" else 0)
    assert bool(noise[:, 0].any()) is first
    assert not torch.allclose(noise[0, 1], noise[1, 1])
    assert noise[:, 1].std() == pytest.approx(2 * float(read.std()), rel=0.2)
