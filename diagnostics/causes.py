"""Causes that findings name: a stable code, and a sentence for people.

A finding is identified by rule, module and code. A sentence may be reworded at any time; a code never changes its
meaning. Each family of rules defines its own causes next to its checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from string import Formatter


@dataclass(frozen=True)
class Cause:
    """A possible cause. Two causes are equal if code and facts are equal; the wording does not count.

    Attributes:
        code: Stable name in lower case, unique within a rule.
        sentence: The text; fields in braces are filled from the facts.
        facts: Measured values, by field.
        addition: Text after the sentence, "" for none.
        together: Whether one line of code is the cause in every module that has it: the findings become one.
        remedy: Instruction to the user where the rule's does not fit this cause, "" where it does.
    """

    code: str
    sentence: str = field(compare=False)
    facts: tuple[tuple[str, object], ...] = ()
    addition: str = field(default="", compare=False)
    remedy: str = field(default="", compare=False)
    together: bool = field(default=False, compare=False)

    def of(self, **facts: object) -> Cause:
        """This cause with the facts that its sentence needs."""
        return replace(self, facts=tuple(facts.items()))

    def adding(self, text: str) -> Cause:
        """This cause with a text after its sentence."""
        return replace(self, addition=text)

    @property
    def documented(self) -> str:
        """The sentence for documentation, with each field as its name in capitals."""
        parts = Formatter().parse(self.sentence)
        return "".join(text + (name.upper() if name else "") for text, name, _, _ in parts)

    def __str__(self) -> str:
        return self.sentence.format(**dict(self.facts)) + self.addition


UNKNOWN = Cause("unknown", "not known")
ZERO_AT_START = Cause(
    "zero-at-start",
    "zero at initialisation: gradient arrives as soon as the weights have moved",
    remedy="Nothing, if it starts at zero on purpose; else initialise the weight that multiplies it away from zero.",
)
"""An assertion names it for modules and for parameters."""
