"""Formulas and rules as text: equal texts are equal formulas, and an error says where and what was expected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.errors import FormulaError
from etrm.symbolic.formula import (
    TRUE,
    Also,
    And,
    Atom,
    Cell,
    Exists,
    ForAll,
    Formula,
    Implies,
    Map,
    Not,
    Or,
    Rule,
    Then,
    Where,
    free_variables,
    has_quantifier,
)
from etrm.symbolic.parser import parse, parse_formula
from tests.errors import raises_code
from tests.symbolic import strategies

X, Y = Cell("x"), Cell("y")
EDGE, INNER, CORNER = (Atom(name, (X,)) for name in ("edge", "inner", "corner"))
DEEP = strategies.formulas(depth=5, quantifiers=3)


@settings(max_examples=80)
@given(DEEP)
def test_a_printed_formula_is_read_back(formula: Formula) -> None:
    assert parse_formula(str(formula)) == formula


@settings(max_examples=80)
@given(strategies.rules(depth=3))
def test_a_printed_rule_is_read_back(rule: Rule) -> None:
    assert parse(str(rule)) == rule


@settings(max_examples=50)
@given(DEEP, DEEP)
def test_equal_texts_are_equal_formulas(one: Formula, other: Formula) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(DEEP, st.sampled_from([" ", "  ", "\n", "\t"]))
def test_white_space_and_spare_parentheses_mean_nothing(formula: Formula, space: str) -> None:
    assert parse_formula(f"({space}{str(formula).replace(' ', space)}{space})") == formula


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("true", TRUE),
        ("edge(x) and inner(x) or corner(x)", Or(And(EDGE, INNER), CORNER)),
        ("edge(x) and (inner(x) or corner(x))", And(EDGE, Or(INNER, CORNER))),
        ("edge(x) implies inner(x) implies corner(x)", Implies(EDGE, Implies(INNER, CORNER))),
        ("(edge(x) implies inner(x)) implies corner(x)", Implies(Implies(EDGE, INNER), CORNER)),
        ("not edge(x) and inner(x)", And(Not(EDGE), INNER)),
        ("not (edge(x) and inner(x))", Not(And(EDGE, INNER))),
        ("exists y: touching(x, y) and edge(x)", Exists("y", And(Atom("touching", (X, Y)), EDGE))),
        ("(forall y: same_row(x, y)) or edge(x)", Or(ForAll("y", Atom("same_row", (X, Y))), EDGE)),
        ("colour(x.offset(1, -2), 3)", Atom("colour", (Cell("x", Map("offset", (1, -2))), 3))),
    ],
)
def test_what_binds_tighter(text: str, formula: Formula) -> None:
    assert parse_formula(text) == formula
    assert str(formula) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("where edge(x) paint 3", Where(EDGE, 3)),
        ("where true paint x.rotate_90", Where(TRUE, Map("rotate_90"))),
        (
            "where edge(x) paint 1 also where inner(x) paint 2 then where corner(x) paint 3",
            Then(Also(Where(EDGE, 1), Where(INNER, 2)), Where(CORNER, 3)),
        ),
        (
            "where edge(x) paint 1 then (where inner(x) paint 2 then where corner(x) paint 3)",
            Then(Where(EDGE, 1), Then(Where(INNER, 2), Where(CORNER, 3))),
        ),
    ],
)
def test_rules_as_text(text: str, rule: Rule) -> None:
    assert parse(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    ("text", "code", "column", "got"),
    [
        ("where edge(x) paint", "formula.unexpected-text", 20, "the end of the text"),
        ("where edge(x) paint y.left", "formula.unexpected-text", 21, "'y'"),
        ("edge(x)", "formula.unexpected-text", 1, "'edge'"),
        ("where edge(x and inner(x) paint 3", "formula.unexpected-text", 14, "'and'"),
        ("where edge(x) paint 3 3", "formula.unexpected-text", 23, "'3'"),
        ("where exists and: edge(x) paint 3", "formula.unexpected-text", 14, "'and'"),
        ("where true paint 1234567890", "formula.unexpected-text", 18, "'1234567890'"),
        ("where edge(x) & inner(x) paint 3", "formula.unknown-character", 15, "'&'"),
        ("where edeg(x) paint 3", "formula.unknown-predicate", 7, "edeg"),
        ("where colour(x) paint 3", "formula.wrong-arguments", 7, "x"),
        ("where edge(3) paint 3", "formula.wrong-arguments", 7, "3"),
        ("where colour(x, 10) paint 3", "formula.wrong-arguments", 7, "x, 10"),
        ("where true paint x.rotate", "formula.unknown-map", 20, "rotate"),
        ("where true paint x.tile(2)", "formula.wrong-numbers", 20, "2"),
        ("where true paint x.part(2, 2, 0, 1)", "formula.wrong-numbers", 20, "2, 2, 0, 1"),
        ("where true paint 10", "formula.no-such-colour", 1, "10"),
        ("where edge(y) paint 3", "formula.free-variables", 1, "y"),
        ("where edge(x) paint x.crop", "formula.guarded-resize", 1, "the guard edge(x)"),
        (
            "where edge(x) paint 3 also where true paint x.crop",
            "formula.resize-beside-another",
            23,
            "where true paint x.crop",
        ),
        (
            "(where true paint 1 then where true paint 2) also where true paint 3",
            "formula.unexpected-text",
            46,
            "'also'",
        ),
        ("where " + "not " * 200 + "true paint 3", "formula.nested-too-deep", 407, "more than 100 levels"),
        (
            "where " + "true and " * 200 + "true paint 3",
            "formula.nested-too-deep",
            907,
            "more than 100 levels",
        ),
    ],
)
def test_an_error_says_where_and_what(text: str, code: str, column: int, got: str) -> None:
    with raises_code(FormulaError, code, f"column {column}", got=got) as caught:
        parse(text)
    assert caught.value.allowed


def test_the_nearest_name_is_offered() -> None:
    with raises_code(FormulaError, "formula.unknown-predicate", "'edge'"):
        parse_formula("edeg(x)")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: Cell("Not a name"), "formula.not-a-variable"),
        (lambda: ForAll("and", TRUE), "formula.not-a-variable"),
        (lambda: Atom("colour", (X, True)), "formula.wrong-arguments"),
        (lambda: Map("offset", (1.0, 2.0)), "formula.wrong-numbers"),  # type: ignore[arg-type]
        (lambda: Where(TRUE, True), "formula.no-such-colour"),
        (lambda: Also(Then(Where(TRUE, 1), Where(TRUE, 2)), Where(TRUE, 3)), "formula.also-of-sequence"),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_be_read_back_is_refused(make: Callable[[], object], code: str) -> None:
    with raises_code(FormulaError, code):
        make()


def test_a_quantifier_binds_its_variable_alone() -> None:
    assert free_variables(parse_formula("(exists y: touching(x, y)) and edge(y)")) == {"x", "y"}
    assert free_variables(parse_formula("exists y: forall x: touching(x, y)")) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edge(x)", False),
        ("not (edge(x) and colour(x, 3))", False),
        ("exists y: touching(x, y)", True),
        ("not (edge(x) and (forall y: same_colour(x, y)))", True),
        ("edge(x) implies (corner(x) or (exists y: same_row(x, y)))", True),
    ],
)
def test_quantifiers_are_found_at_any_depth(text: str, expected: bool) -> None:
    assert has_quantifier(parse_formula(text)) is expected
