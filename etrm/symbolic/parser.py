"""Reads formulas and rules from text.

rule     := step ("then" step)*           step  := "(" rule ")" | paint ("also" paint)*
paint    := "where" formula "paint" value  value := COLOUR | "x." map
formula  := ("forall" | "exists") VARIABLE ":" formula | implies
implies  := or ("implies" implies)?       or    := and ("or" and)*       and := unary ("and" unary)*
unary    := "not" unary | "(" formula ")" | atom
atom     := NAME ("(" argument ("," argument)* ")")?
argument := NUMBER | VARIABLE ("." map)?  map   := NAME ("(" NUMBER ("," NUMBER)* ")")?
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from etrm.errors import FormulaError
from etrm.symbolic.formula import (
    CELL,
    KEYWORDS,
    MAPS,
    PREDICATES,
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
)

_TOKEN = re.compile(r"\s*(?:(?P<word>[a-z][a-z0-9_]*)|(?P<number>-?[0-9]+)|(?P<sign>[():,.]))")
_DEEPEST = 100
"""Nesting at which a text is refused, well before Python's own limit."""
Read = TypeVar("Read")
Joined = TypeVar("Joined")
Operand = TypeVar("Operand")


def parse(text: str) -> Rule:
    """The rule that a text says.

    Raises:
        FormulaError: the text is not a rule; the error names the column and what was expected there.
    """
    return _Parser(text).whole(lambda parser: parser.rule())


def parse_formula(text: str) -> Formula:
    """The formula that a text says.

    Raises:
        FormulaError: the text is not a formula; the error names the column and what was expected there.
    """
    return _Parser(text).whole(lambda parser: parser.formula())


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def _tokens(text: str) -> list[_Token]:
    found, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            column = place + len(text[place:]) - len(text[place:].lstrip()) + 1
            raise FormulaError(
                "formula.unknown-character",
                f"column {column}: a character that no formula has",
                got=repr(text[column - 1]),
                allowed="lower-case words, whole numbers and ( ) : , .",
                next_step="help(etrm.symbolic.parser) describes the language",
            )
        assert match.lastgroup is not None
        found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1))
        place = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0

    def whole(self, read: Callable[[_Parser], Read]) -> Read:
        """What ``read`` finds, if it is all of the text."""
        found = read(self)
        if self._next.kind != "end":
            raise self._unexpected("the end of the text, or a word that joins")
        return found

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _unexpected(self, expected: str) -> FormulaError:
        token = self._next
        return FormulaError(
            "formula.unexpected-text",
            f"column {token.column}: expected {expected}",
            got=repr(token.text) if token.text else "the end of the text",
            allowed=expected,
            next_step="help(etrm.symbolic.parser) describes the language",
        )

    def _take(self, kind: str, expected: str) -> _Token:
        token = self._next
        if token.kind != kind or (kind == "word" and token.text in KEYWORDS):
            raise self._unexpected(expected)
        self._place += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._next.text != text:
            return False
        self._place += 1
        return True

    def _require(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(repr(text))

    def _build(self, column: int, make: Callable[[], Read]) -> Read:
        """A part whose types are checked as it is made; an error says where the part begins."""
        try:
            return make()
        except FormulaError as error:
            hint = _nearest(error.got) if error.code in _UNKNOWN_NAMES else ""
            what = f"column {column}: {error.what}{hint}"
            raise FormulaError(error.code, what, got=error.got, allowed=error.allowed) from None

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise FormulaError(
                "formula.nested-too-deep",
                f"column {self._next.column}: the text is nested too deep",
                got=f"more than {_DEEPEST} levels",
                allowed=f"{_DEEPEST} levels",
                next_step="split the formula into several rules",
            )

    def _nested(self, read: Callable[[], Read]) -> Read:
        self._deeper()
        found = read()
        self._depth -= 1
        return found

    def _chain(
        self, word: str, found: Joined, read: Callable[[], Operand], join: Callable[[Joined, Operand], Joined]
    ) -> Joined:
        """Operands that a word joins to the first one, from left to right; each makes the result a level deeper."""
        depth = self._depth
        while self._next.text == word:
            column = self._next.column
            self._place += 1
            self._deeper()
            left, right = found, read()
            found = self._build(column, partial(join, left, right))
        self._depth = depth
        return found

    # -- rules ----------------------------------------------------------------------------------

    def rule(self) -> Rule:
        return self._chain("then", self._step(), self._step, Then)

    def _step(self) -> Rule:
        if self._accept("("):
            inner = self._nested(self.rule)
            self._require(")")
            return inner
        first: Where | Also = self._paint()
        return self._chain("also", first, self._paint, Also)

    def _paint(self) -> Where:
        column = self._next.column
        self._require("where")
        guard = self.formula()
        self._require("paint")
        value: int | Map
        if self._next.kind == "number":
            value = self._number()
        else:
            expected = f"a colour, or {CELL}. and a map"
            if self._take("word", expected).text != CELL:
                self._place -= 1
                raise self._unexpected(expected)
            self._require(".")
            value = self._map()
        return self._build(column, lambda: Where(guard, value))

    # -- formulas -------------------------------------------------------------------------------

    def formula(self) -> Formula:
        return self._nested(self._formula)

    def _formula(self) -> Formula:
        for word, kind in (("forall", ForAll), ("exists", Exists)):
            if self._accept(word):
                variable = self._take("word", "a variable")
                self._require(":")
                return kind(variable.text, self.formula())
        return self._implies()

    def _implies(self) -> Formula:
        left = self._or()
        return Implies(left, self._nested(self._implies)) if self._accept("implies") else left

    def _or(self) -> Formula:
        return self._chain("or", self._and(), self._and, Or)

    def _and(self) -> Formula:
        return self._chain("and", self._unary(), self._unary, And)

    def _unary(self) -> Formula:
        if self._accept("not"):
            return Not(self._nested(self._unary))
        if self._accept("("):
            inner = self.formula()
            self._require(")")
            return inner
        return self._atom()

    def _atom(self) -> Atom:
        name = self._take("word", "a predicate, 'not' or '('")
        arguments: tuple[Cell | int, ...] = ()
        if self._accept("("):
            arguments = self._list(self._argument)
        return self._build(name.column, lambda: Atom(name.text, arguments))

    def _argument(self) -> Cell | int:
        if self._next.kind == "number":
            return self._number()
        variable = self._take("word", "a variable or a number")
        mapping = self._map() if self._accept(".") else None
        return Cell(variable.text, mapping)

    def _map(self) -> Map:
        name = self._take("word", "a map")
        numbers = self._list(self._number) if self._accept("(") else ()
        return self._build(name.column, lambda: Map(name.text, numbers))

    def _number(self) -> int:
        token = self._take("number", "a number")
        if len(token.text) > 9:
            self._place -= 1
            raise self._unexpected("a number of at most 9 characters")
        return int(token.text)

    def _list(self, read: Callable[[], Read]) -> tuple[Read, ...]:
        found = [read()]
        while self._accept(","):
            found.append(read())
        self._require(")")
        return tuple(found)


_UNKNOWN_NAMES = ("formula.unknown-predicate", "formula.unknown-map")


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, [*PREDICATES, *MAPS], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
