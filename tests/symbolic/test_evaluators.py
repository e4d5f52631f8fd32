"""The vectorised evaluator against the loop: values, gradients, and which tensors a gradient reaches."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from etrm.errors import FormulaError
from etrm.symbolic import loop_evaluator, tensor_evaluator
from etrm.symbolic.formula import Formula, Rule
from etrm.symbolic.grids import Grids
from etrm.symbolic.parser import parse, parse_formula
from etrm.symbolic.predicates import Predicates
from etrm.symbolic.semantics import Semantics
from tests.errors import raises_code
from tests.symbolic import strategies

SEMANTICS = st.builds(
    Semantics,
    tnorm=st.sampled_from(["product", "goedel", "lukasiewicz"]),
    quantifier=st.sampled_from(["product", "minimum", "mean"]),
)
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def gradients(output: Tensor, grids: Grids, predicates: Predicates) -> dict[str, Tensor | None]:
    """Of a fixed weighting of the output, with respect to the colours and every weight."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    sources = {"colours": grids.colours, **dict(predicates.named_parameters())}
    if not output.requires_grad:
        return dict.fromkeys(sources)
    found = torch.autograd.grad((output * weights).sum(), list(sources.values()), allow_unused=True)
    return dict(zip(sources, found, strict=True))


def assert_equal(fast: Tensor, slow: Tensor, grids: Grids, predicates: Predicates) -> None:
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    ours, theirs = gradients(fast, grids, predicates), gradients(slow, grids, predicates)
    for name, reference in theirs.items():
        mine = ours[name]
        if reference is None or not reference.any():
            assert mine is None or mine.abs().max() < 1e-9, name
        else:
            assert mine is not None, name
            assert (mine - reference).norm() <= 1e-4 * reference.norm() + 1e-9, name


@RELAXED
@given(strategies.formulas(), strategies.grids(soft=True), SEMANTICS)
def test_both_evaluators_agree_on_formulas(formula: Formula, grids: Grids, semantics: Semantics) -> None:
    predicates = strategies.predicates()
    grids = Grids(grids.colours.requires_grad_(), grids.heights, grids.widths)
    fast = tensor_evaluator.evaluate_formula(formula, grids, predicates, semantics)
    slow = loop_evaluator.evaluate_formula(formula, grids, predicates, semantics)
    assert_equal(fast, slow, grids, predicates)


@settings(RELAXED, max_examples=40)
@given(strategies.formulas(("x", "y"), depth=2), strategies.grids(most=1, side=2, soft=True), SEMANTICS)
def test_each_free_variable_is_an_axis(formula: Formula, grids: Grids, semantics: Semantics) -> None:
    predicates = strategies.predicates()
    fast = tensor_evaluator.evaluate_formula(formula, grids, predicates, semantics, ("y", "x"))
    slow = loop_evaluator.evaluate_formula(formula, grids, predicates, semantics, ("y", "x"))
    assert_equal(fast, slow, Grids(grids.colours.requires_grad_(), grids.heights, grids.widths), predicates)


@settings(RELAXED, max_examples=20)
@given(strategies.formulas(depth=3, quantifiers=2), strategies.grids(side=2, soft=True), SEMANTICS)
def test_both_evaluators_agree_on_nested_quantifiers(
    formula: Formula, grids: Grids, semantics: Semantics
) -> None:
    predicates = strategies.predicates()
    grids = Grids(grids.colours.requires_grad_(), grids.heights, grids.widths)
    fast = tensor_evaluator.evaluate_formula(formula, grids, predicates, semantics)
    slow = loop_evaluator.evaluate_formula(formula, grids, predicates, semantics)
    assert_equal(fast, slow, grids, predicates)


@RELAXED
@given(strategies.rules(), strategies.grids(soft=True), SEMANTICS)
def test_both_evaluators_agree_on_rules(rule: Rule, grids: Grids, semantics: Semantics) -> None:
    predicates = strategies.predicates()
    grids = Grids(grids.colours.requires_grad_(), grids.heights, grids.widths)
    fast = tensor_evaluator.apply_rule(rule, grids, predicates, semantics)
    slow = loop_evaluator.apply_rule(rule, grids, predicates, semantics)
    assert torch.equal(fast.heights, slow.heights)
    assert torch.equal(fast.widths, slow.widths)
    assert_equal(fast.colours, slow.colours, grids, predicates)


@RELAXED
@given(strategies.rules(), strategies.grids(soft=True), SEMANTICS)
def test_a_painted_grid_is_a_distribution(rule: Rule, grids: Grids, semantics: Semantics) -> None:
    painted = tensor_evaluator.apply_rule(rule, grids, strategies.predicates(), semantics)
    assert (painted.colours > -1e-9).all()
    torch.testing.assert_close(painted.colours.sum(-1), torch.ones_like(painted.colours[..., 0]))


@pytest.mark.parametrize("evaluator", [tensor_evaluator, loop_evaluator])
@pytest.mark.parametrize("quantifier", ["product", "minimum", "mean"])
@pytest.mark.parametrize("text", ["learned(x, 1)", "exists y: related(x, y, 0) and learned(y, 1)"])
def test_the_gradient_reaches_every_weight_of_the_predicates_in_use(
    evaluator: ModuleType, quantifier: str, text: str
) -> None:
    predicates = strategies.predicates()
    semantics = Semantics.of(strategies.config(quantifier=quantifier))
    truth = evaluator.evaluate_formula(
        parse_formula(text), Grids.of([[[0, 1], [2, 0]]], torch.float64), predicates, semantics
    )
    truth.sum().backward()
    assert predicates.guards is not None
    assert predicates.pairs is not None
    used = [predicates.guards] + [predicates.pairs] * ("related" in text)
    for module in used:
        assert all(weight.grad is not None and weight.grad.any() for weight in module.parameters())


@pytest.mark.parametrize("evaluator", [tensor_evaluator, loop_evaluator])
def test_a_guard_keeps_its_gradient_where_an_implication_to_a_true_assignment_loses_it(
    evaluator: ModuleType,
) -> None:
    """The truth of `guard implies true` is 1 - p + p; painting weighs the value by p itself."""
    grids, semantics = Grids.of([[[0, 1, 2]]], torch.float64), Semantics()
    tautology, guard = parse_formula("learned(x, 0) implies true"), parse("where learned(x, 0) paint 3")
    predicates = strategies.predicates()
    evaluator.evaluate_formula(tautology, grids, predicates, semantics).sum().backward()
    assert not any(weight.grad.any() for weight in predicates.parameters() if weight.grad is not None)
    evaluator.apply_rule(guard, grids, predicates, semantics).colours[..., 3].sum().backward()
    assert predicates.guards is not None
    assert all(weight.grad is not None and weight.grad.any() for weight in predicates.guards.parameters())


@pytest.mark.parametrize("evaluator", [tensor_evaluator, loop_evaluator])
def test_a_variable_without_a_value_is_refused(evaluator: ModuleType) -> None:
    grids, predicates = Grids.of([[[0]]]), Predicates()
    with raises_code(FormulaError, "formula.unbound-variable", got="y"):
        evaluator.evaluate_formula(parse_formula("touching(x, y)"), grids, predicates, Semantics())


@pytest.mark.parametrize("evaluator", [tensor_evaluator, loop_evaluator])
def test_what_is_not_learned_is_refused(evaluator: ModuleType) -> None:
    grids, semantics = Grids.of([[[0]]], torch.float64), Semantics()
    with raises_code(FormulaError, "formula.nothing-learned", "learned"):
        evaluator.evaluate_formula(parse_formula("learned(x, 0)"), grids, Predicates(), semantics)
    with raises_code(FormulaError, "formula.no-such-guard", got="2"):
        evaluator.evaluate_formula(parse_formula("learned(x, 2)"), grids, strategies.predicates(), semantics)


def test_quantifiers_range_over_the_true_grid_alone() -> None:
    """Beside a 3x3 grid, a 1x1 grid has eight cells of the canvas that do not exist."""
    grids = Grids.of([[[1]], [[1, 1, 1], [1, 1, 1], [1, 1, 0]]])
    all_blue = tensor_evaluator.evaluate_formula(
        parse_formula("forall y: colour(y, 1)"), grids, Predicates(), Semantics()
    )
    assert all_blue[:, 0].tolist() == [1, 0]
    some_black = tensor_evaluator.evaluate_formula(
        parse_formula("exists y: colour(y, 0)"), grids, Predicates(), Semantics()
    )
    assert some_black[:, 0].tolist() == [0, 1]
    assert not all_blue[0, 1:].any()
