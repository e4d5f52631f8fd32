"""The solver end to end, untrained: what it knows of a task, and what its answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from etrm.config import SymbolicConfig
from etrm.config.symbolic import FAMILIES
from etrm.device import to_device, to_host
from etrm.symbolic import Grids, Semantics, apply_rule, loop_evaluator, parse, tensor_evaluator
from etrm.symbolic.search import apply_crisply
from etrm.symbolic.solver import Demonstrations, SymbolicSolver
from tests.devices.simulated import simulated_device

GENERATOR = np.random.default_rng(0)
INPUTS = [GENERATOR.integers(0, 4, shape) for shape in ((4, 4), (3, 5), (5, 4))]
QUERY = GENERATOR.integers(0, 4, (5, 6))
REGION = (7, 8)


def demos(*texts: str) -> Demonstrations:
    """Three demonstrations of each rule."""
    outputs = [grid for text in texts for grid in apply_crisply(parse(text), INPUTS)]
    owner = torch.arange(len(texts)).repeat_interleave(len(INPUTS))
    return Demonstrations(Grids.of(INPUTS * len(texts)), Grids.of(outputs), owner)


def queries(count: int) -> Grids:
    return Grids.of([QUERY] * count)


def solver(**settings: Any) -> SymbolicSolver:
    torch.manual_seed(0)
    return SymbolicSolver(SymbolicConfig(**settings)).eval()


def grids_of(tokens: torch.Tensor) -> Sequence[Any]:
    """The grids that tokens mean: colours, EOS right of them and below, PAD further out."""
    found = []
    for canvas in tokens.argmax(-1).numpy():
        colour = canvas >= 2
        height, width = colour[:, 0].sum(), colour[0].sum()
        assert (canvas[height, :width] == 1).all()
        assert (canvas[:height, width] == 1).all()
        assert colour.sum() == height * width
        found.append(canvas[:height, :width] - 2)
    return found


@pytest.mark.parametrize("selection", ["soft", "straight_through"])
def test_an_untrained_fit_applies_the_rule_that_explains_the_demonstrations(selection: str) -> None:
    texts = (
        "where true paint x.transpose",
        "where true paint x.flip_rows",
        "where colour(x, 2) and (exists y: touching(x, y) and colour(y, 1)) paint 7",
        "where not colour(x, 0) and edge(x) paint 5",
    )
    model = solver(families=("original", "dihedral", "relational"), selection=selection)
    with torch.no_grad():
        solution = model(demos(*texts), queries(len(texts)), REGION)
    for answer, text in zip(grids_of(solution.tokens), texts, strict=True):
        assert answer.tolist() == apply_crisply(parse(text), [QUERY])[0].tolist(), text
    assert str(model.rule(int(solution.weights[3].argmax()))) == texts[3]


def test_cells_are_counted_exactly_whatever_the_precision_of_products_is() -> None:
    """bfloat16 has 8 bits, and grids have more than 256 cells."""
    grid = GENERATOR.integers(0, 2, (30, 30))
    made = apply_crisply(parse("where colour(x, 1) and size(x, 1) paint 3"), [grid])
    given = Demonstrations(Grids.of([grid]), Grids.of(made), torch.zeros(1, dtype=torch.long))
    model = solver(families=("counting",), pairwise=True)
    with torch.no_grad():
        exact = model(given, Grids.of([grid]), (31, 31))
        with torch.autocast("cpu", torch.bfloat16):
            low = model(given, Grids.of([grid]), (31, 31))
    torch.testing.assert_close(low.logits, exact.logits)
    torch.testing.assert_close(low.tokens, exact.tokens)


@pytest.mark.parametrize("selector", ["fit", "demos", "input"])
@pytest.mark.parametrize("training", [False, True])
def test_an_answer_is_a_distribution_over_tokens(selector: str, training: bool) -> None:
    model = solver(families=("original", "learned"), selector=selector).train(training)
    solution = model(demos("where true paint x.flip_rows"), queries(1), REGION)
    assert solution.tokens.shape == (1, *REGION, 12)
    assert (solution.tokens >= -1e-6).all()
    torch.testing.assert_close(solution.tokens.sum(-1), torch.ones(1, *REGION))
    torch.testing.assert_close(solution.weights.sum(1), torch.ones(1))


@pytest.mark.parametrize(
    ("selector", "knows_demos", "knows_query"),
    [("fit", True, False), ("demos", True, False), ("input", False, True)],
)
def test_what_a_selector_knows(selector: str, knows_demos: bool, knows_query: bool) -> None:
    model = solver(families=("original", "learned"), selector=selector)
    flip, turn = demos("where true paint x.flip_rows"), demos("where true paint x.rotate_90")
    other = Grids.of([QUERY[::-1] % 3])
    before = model.rate(flip, queries(1)).logits
    assert torch.equal(model.rate(turn, queries(1)).logits, before) != knows_demos
    assert torch.equal(model.rate(flip, other).logits, before) != knows_query


@pytest.mark.parametrize("selector", ["fit", "demos"])
def test_tasks_know_nothing_of_each_other_and_demonstrations_have_no_order(selector: str) -> None:
    model = solver(families=("original", "learned"), selector=selector)
    texts = ("where true paint x.flip_rows", "where true paint x.rotate_90")
    together = model.rate(demos(*texts), queries(2)).logits
    for row, text in enumerate(texts):
        torch.testing.assert_close(model.rate(demos(text), queries(1)).logits[0], together[row])
    one = demos(texts[0])
    order = [2, 0, 1]
    shuffled = Demonstrations(
        *(Grids.of([grids.arrays()[place] for place in order]) for grids in (one.inputs, one.outputs)),
        one.owner,
    )
    torch.testing.assert_close(model.rate(shuffled, queries(1)).logits[0], together[0])


def test_the_loss_of_an_answer_reaches_every_guard_and_the_scale() -> None:
    model = solver(families=("learned",)).train()
    solution = model(demos("where edge(x) paint 5"), queries(1), REGION)
    (solution.tokens[..., 7] + 0.01).log().sum().backward()
    assert model.core.predicates.guards is not None
    assert all(weight.grad is not None and weight.grad.any() for weight in model.core.predicates.parameters())
    assert model.encoder.log_scale.grad is not None


def test_everything_that_learns_is_in_the_state_and_known_by_its_module() -> None:
    model = solver(families=("original", "learned"), selector="demos")
    names = {".".join(name.split(".")[:3]) for name in model.state_dict()}
    assert {
        "core.predicates.guards",
        "core.predicates.pairs",
        "encoder.encoder.layers",
        "encoder.heads.weight",
    } <= names
    assert {name for name in names if name.startswith("core")} == {
        "core.predicates.guards",
        "core.predicates.pairs",
    }


@pytest.mark.parametrize("selector", ["fit", "demos", "input"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_works_alone(family: str, selector: str) -> None:
    model = solver(families=(family,), selector=selector)
    solution = model(demos("where true paint x.flip_rows"), queries(1), REGION)
    assert solution.weights.shape == (1, model.core.templates.count)


def test_sequences_are_templates_where_they_are_wanted() -> None:
    sizes = [
        len(solver(families=("original",), composites=flag).core.templates.rules) for flag in (False, True)
    ]
    assert sizes == [30 + 7, 30 + 7 + 25]  # the 90 recolourings are among the factored ones


@pytest.mark.parametrize("composites", [False, True])
def test_no_template_stands_twice(composites: bool) -> None:
    model = solver(families=("original", "topological"), composites=composites)
    rules = [model.rule(index) for index in range(model.core.templates.count)]
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize(
    ("selector", "pairwise"),
    [
        ("fit", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("fit", "demos", "input")),
    ],
)
def test_nothing_is_left_on_the_host_where_the_model_is_on_a_device(selector: str, pairwise: bool) -> None:
    """Products over cells are left out: their gradient is made of tensors that the simulation takes for the host's."""
    model = solver(families=FAMILIES, selector=selector, pairwise=pairwise, quantifier="mean").train()
    given, asked = demos("where colour(x, 1) paint 2"), queries(1)
    with torch.no_grad():
        expected = model(given, asked, REGION).tokens
    rule = parse("where ray(x, x.left) or size(x, 2) paint x.left then where true paint x.crop_to(2)")
    painted = apply_rule(rule, asked, model.core.predicates, Semantics()).arrays()
    with simulated_device() as device:
        model = to_device(model, device)
        there = to_device(asked, device)
        tokens = model(to_device(given, device), there, REGION).tokens
        tokens.square().sum().backward()
        torch.testing.assert_close(to_host(tokens), expected)
        for evaluator in (tensor_evaluator, loop_evaluator):
            (found,) = evaluator.apply_rule(rule, there, model.core.predicates, Semantics()).arrays()
            assert found.tolist() == painted[0].tolist()
