"""The symbolic solver as a variant: it answers as the solver alone does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from etrm.batch import Batch
from etrm.config import ModelConfig, SymbolicConfig, TrainConfig
from etrm.data import Task, collate
from etrm.data.augment import list_augmentations
from etrm.data.sample import GridLayout, Sample, build, list_queries
from etrm.data.task import Pair
from etrm.data.tokens import read_grid
from etrm.model.construct import build_variant
from etrm.model.solve import solve
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic import Demonstrations, Grids, SymbolicSolver, parse
from etrm.symbolic.batches import read_demonstrations, read_queries
from etrm.symbolic.search import apply_crisply
from etrm.symbolic.selector import draw_gumbel
from etrm.training.loss import act_loss
from etrm.training.scoring.predictor import make_predictor

RULES = ("where true paint x.transpose", "where colour(x, 2) paint 7", "where true paint x.tile(2, 2)")
SHAPES = ((4, 3), (3, 5), (2, 4), (5, 6))


def task(rule: str, seed: int = 0) -> Task:
    """Three demonstrations and a query of a rule."""
    generator = np.random.default_rng(seed)
    inputs = [generator.integers(0, 4, shape).astype(np.uint8) for shape in SHAPES]
    outputs = [grid.astype(np.uint8) for grid in apply_crisply(parse(rule), inputs)]
    pairs = tuple(map(Pair, inputs, outputs))
    return Task(rule[:20].replace(" ", "-"), pairs[:3], pairs[3:])


def sample(rule: str, canvas: str = "region", translate: int = 0) -> Sample:
    (query,) = list_queries(task(rule), 0)
    augmentation = list_augmentations(query.task.id, 1, 0)[0]
    rng = np.random.default_rng(5) if translate else None
    return build(query, augmentation, GridLayout(canvas, 10, translate), rng, serial=0)


def variant(**settings: Any) -> SymbolicVariant:
    torch.manual_seed(0)
    symbolic = SymbolicConfig(**{"families": ("original", "dihedral"), **settings})
    model = build_variant(ModelConfig(variant="symbolic", halt={"max_steps": 1}, symbolic=symbolic))
    assert isinstance(model, SymbolicVariant)
    return model


def batch(**layout: Any) -> Batch:
    return collate([sample(rule, **layout) for rule in RULES])


@pytest.mark.parametrize("layout", [{}, {"canvas": "published"}, {"translate": 6}], ids=str)
def test_the_grids_of_a_batch_are_those_of_its_tasks(layout: dict[str, Any]) -> None:
    given = batch(**layout)
    tasks = [task(rule) for rule in RULES]
    demos = read_demonstrations(given.demos)
    pairs = [pair for each in tasks for pair in each.demos]
    for found, wanted in zip(demos.inputs.arrays(), pairs, strict=True):
        assert np.array_equal(found, wanted.input)
    for found, wanted in zip(demos.outputs.arrays(), pairs, strict=True):
        assert np.array_equal(found, wanted.output)
    for found, each in zip(read_queries(given).grids.arrays(), tasks, strict=True):
        assert np.array_equal(found, each.tests[0].input)
    assert demos.owner.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("canvas", ["region", "published"])
def test_an_untrained_fit_answers_in_the_tokens_of_the_true_output(canvas: str) -> None:
    samples = [sample(rule, canvas) for rule in RULES]
    for each, (tokens, _) in zip(samples, make_predictor(variant())(samples), strict=True):
        scored = each.labels >= 0
        assert np.array_equal(tokens[scored], each.labels[scored])
        assert np.array_equal(read_grid(tokens.reshape(each.region)), each.target)


def test_a_shifted_query_has_its_answer_at_the_same_shift() -> None:
    samples = [sample(rule, translate=6) for rule in RULES]
    assert any(each.translated != (0, 0) for each in samples)
    for each, (tokens, _) in zip(samples, make_predictor(variant())(samples), strict=True):
        scored = each.labels >= 0
        assert np.array_equal(tokens[scored], each.labels[scored])


@pytest.mark.parametrize("selector", ["fit", "demos", "input"])
@pytest.mark.parametrize("training", [False, True])
def test_it_computes_what_the_solver_computes(selector: str, training: bool) -> None:
    settings: dict[str, Any] = {"families": ("original", "learned"), "guards": 3, "selector": selector}
    model = variant(**settings).train(training)
    alone = SymbolicSolver(model.config.symbolic).train(training)
    alone.core.load_state_dict(model.core.state_dict())
    alone.encoder.load_state_dict(model.encoder.selector.state_dict())
    tasks = [task(rule) for rule in RULES]
    pairs = [pair for each in tasks for pair in each.demos]
    demos = Demonstrations(
        Grids.of([pair.input for pair in pairs]),
        Grids.of([pair.output for pair in pairs]),
        torch.arange(len(tasks)).repeat_interleave(3),
    )
    given = batch()
    _, output = model(model.initial_carry(given.size), given)
    solution = alone(demos, Grids.of([each.tests[0].input for each in tasks]), (30, 30))
    torch.testing.assert_close(output.context[:, 0], solution.weights)
    smoothing = model.config.symbolic.smoothing
    rows, columns = given.positions // 30, given.positions % 30
    for row in range(given.size):
        there = given.valid[row] if given.valid is not None else slice(None)
        wanted = solution.tokens[row, rows[row], columns[row]]
        chances = output.logits[row].exp()
        torch.testing.assert_close(chances[there], ((1 - smoothing) * wanted + smoothing / 12)[there])


def test_the_entropy_of_the_weights_trains_the_selector_through_a_cut_context() -> None:
    model, given = variant(families=("original", "learned"), guards=3).train(), batch()
    policy = model.context_policy
    model.context_policy = lambda *args: replace(
        found := policy(*args), context=found.context.detach().clone()
    )
    _, output = model(model.initial_carry(given.size), given)
    assert output.entropy is not None
    weights = output.context[:, 0]
    torch.testing.assert_close(output.entropy, -(weights * weights.clamp(min=1e-30).log()).sum(1))
    selector = list(model.encoder.selector.parameters())
    loss = act_loss(output, given.labels, "softmax")
    terms = loss.terms(TrainConfig(loss="softmax", q_halt_weight=0.0, entropy_weight=0.01))
    assert all(
        grad is None
        for grad in torch.autograd.grad(terms["lm"], selector, allow_unused=True, retain_graph=True)
    )
    assert any(grad.any() for grad in torch.autograd.grad(terms["entropy"], selector))


def test_noise_draws_templates_by_their_weights() -> None:
    model = variant(temperature=2.0).eval()
    torch.manual_seed(0)
    rows, weights = 1000, torch.tensor([0.5, 0.3, 0.2])
    logits = torch.full((rows, model.core.templates.count), -1e4)
    logits[:, :3] = 2.0 * weights.log()  # the softmax at temperature 2
    drawn = model.draw_noisy((logits / 2.0).softmax(1).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(drawn.sum(1), torch.ones(rows))
    shares = drawn.argmax(1).bincount(minlength=3)[:3] / rows
    by_gumbel = (logits[:, :3] + draw_gumbel(rows, 3)).argmax(1).bincount(minlength=3) / rows
    torch.testing.assert_close(shares, by_gumbel, atol=0.07, rtol=0)


def test_every_row_is_done_after_one_step_and_takes_no_part_of_another() -> None:
    model, given = variant().train(), batch()
    carry, output = model(model.initial_carry(given.size), given)
    assert carry.halted.all()
    assert carry.steps.tolist() == [1] * given.size
    assert output.q_halt.tolist() == [0.0] * given.size
    again, _ = model(carry, given)
    assert again.steps.tolist() == [1] * given.size
    one = given.select(torch.tensor([1]))
    assert one.valid is not None
    _, alone = model(model.initial_carry(1), one)
    length = int(one.valid.sum())
    torch.testing.assert_close(alone.logits[0, :length], output.logits[1, :length])


def test_the_answer_is_that_of_the_best_template_alone_whatever_the_temperature() -> None:
    given = batch()
    answers = [solve(variant(temperature=t).eval(), given).logits for t in (1.0, 50.0)]
    torch.testing.assert_close(*answers)
    soft = variant(temperature=50.0).train()
    assert not torch.allclose(soft(soft.initial_carry(given.size), given)[1].logits, answers[0])


def test_the_temperature_goes_by_equal_factors_from_the_first_to_the_last() -> None:
    model = variant(temperature=4.0, last_temperature=1.0)
    found = []
    for progress in (0.0, 0.5, 1.0):
        model.anneal(progress)
        found.append(model.encoder.temperature)
    assert found == pytest.approx([4.0, 2.0, 1.0])


def test_noise_is_drawn_for_samples_of_templates_alone() -> None:
    assert variant().draw_noise(2, 3) is None
    model = variant(selection="straight_through").train()
    noise = model.draw_noise(3, 3)
    assert noise is not None
    assert noise.shape == (3, model.core.templates.count)
    given = batch()
    noise[:, 0] = 1e4
    given = replace(given, demos=replace(given.demos, noise=noise))
    _, output = model(model.initial_carry(given.size), given)
    assert output.context[:, 0].argmax(1).tolist() == [0, 0, 0]
    _, calm = model.eval()(model.initial_carry(given.size), given)
    assert 0 not in calm.context[:, 0].argmax(1).tolist()
