from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from etrm.config import Config, load
from etrm.data import Sample, build_evaluation_samples, load_tasks
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import make_batch, make_predictor
from etrm.training.scoring.run_analysis import fix_context
from etrm.training.scoring.step_trace import is_right, share_right, trace_steps

Smoke = Callable[..., Config]


@pytest.fixture(scope="module")
def config(smoke: Smoke) -> Config:
    return smoke("model.hidden_size=16", "model.halt.max_steps=3", "data.augmentations=1")


@pytest.fixture(scope="module")
def samples(config: Config) -> list[Sample]:
    return build_evaluation_samples(load_tasks(config.evaluate.source, "evaluation"), config.data, 1, 0)


@pytest.fixture
def model(config: Config) -> Variant:
    torch.manual_seed(0)
    model = build_variant(config.model)
    nn.init.normal_(model.core.lm_head.weight)  # type: ignore[union-attr]
    nn.init.normal_(model.core.q_head.weight)  # type: ignore[union-attr]
    return model


def test_the_last_step_is_the_models_answer_and_the_mode_stays(model: Variant, samples: list[Sample]) -> None:
    model.train()
    trace = trace_steps(model, samples, 2)
    assert model.training
    assert (trace.steps, trace.q_halt.shape, trace.moved.shape) == (3, (3, 3), (3, 3))
    for row, expected in enumerate(make_predictor(model)(samples)):
        assert expected is not None
        assert np.array_equal(trace.tokens[-1][row], expected[0])
        assert trace.q_halt[-1, row] == pytest.approx(expected[1], abs=1e-4)


def test_the_move_is_that_of_the_existing_tokens_alone(model: Variant, samples: list[Sample]) -> None:
    """Against one sample at a time, which has no padding."""
    trace = trace_steps(model, samples, 3)
    model.eval()
    with torch.no_grad():
        for row, sample in enumerate(samples):
            batch, carry = make_batch(model, [sample]), model.initial_carry(1)
            before = model.core.H_init.expand(1, model.config.context_tokens + len(sample.tokens), -1)  # type: ignore
            for step in range(3):
                carry, _ = model(carry, batch)
                expected = (carry.z_H - before).norm() / before.norm()
                assert trace.moved[step, row] == pytest.approx(expected.item(), rel=1e-3)
                before = carry.z_H


def test_changes_and_halting_steps(model: Variant, samples: list[Sample]) -> None:
    trace = trace_steps(model, samples, 2)
    changed = trace.changed()
    assert changed[0, 0] == (trace.tokens[0][0] != samples[0].tokens).mean()
    assert changed[2, 1] == (trace.tokens[2][1] != trace.tokens[1][1]).mean()
    for row, step in enumerate(trace.halting_step()):
        positive = [t for t in range(3) if trace.q_halt[t, row] > 0]
        assert step == (positive[0] if positive else 2)


def test_right_is_every_scored_token_in_the_region(samples: list[Sample]) -> None:
    sample = samples[0]
    right = np.where(sample.labels < 0, 0, sample.labels)
    assert is_right(sample, right)
    wrong = right.copy()
    wrong[np.flatnonzero(sample.labels >= 0)[0]] += 1
    assert not is_right(sample, wrong)
    count = int((sample.labels >= 0).sum())
    assert share_right(sample, wrong) == pytest.approx((count - 1) / count)


def test_noise_acts_after_the_first_step_and_is_that_of_its_seed(
    model: Variant, samples: list[Sample]
) -> None:
    plain = trace_steps(model, samples, 3)
    noisy, again, other = (trace_steps(model, samples, 3, noise=0.5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(noisy.q_halt[0], plain.q_halt[0])
    assert not np.array_equal(noisy.q_halt[1], plain.q_halt[1])
    assert np.array_equal(noisy.q_halt, again.q_halt)
    assert not np.array_equal(noisy.q_halt[1:], other.q_halt[1:])


def test_a_policy_gives_the_contexts(model: Variant, samples: list[Sample]) -> None:
    own = model.context_policy
    trace = trace_steps(model, samples, 3, policy=fix_context(torch.zeros(model.context_shape)))
    assert model.context_policy is own
    shown = [Sample(**{**vars(s), "demos": samples[0].demos}) for s in samples]
    blind = trace_steps(model, shown, 3, policy=fix_context(torch.zeros(model.context_shape)))
    assert np.array_equal(trace.q_halt, blind.q_halt)


def test_the_symbolic_solver_has_no_latent_state() -> None:
    symbolic = load("symbolic-rules")
    tasks = load_tasks("rules:recolour", "evaluation", 4, 2)
    given = build_evaluation_samples(tasks, symbolic.data, 1, 0)
    trace = trace_steps(build_variant(symbolic.model), given, 2)
    assert np.isnan(trace.moved).all()
