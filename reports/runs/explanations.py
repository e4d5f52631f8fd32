"""The words for an explained answer of the symbolic solver."""

from __future__ import annotations

from etrm.symbolic.formula import Also, Rule, Then, Where
from etrm.symbolic.rated_rules import RatedRule
from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask
from reports.markdown import count

LEARNED = (
    "`learned(x, k)` and `related(x, y, k)` are guard k of this run: small networks that training shaped."
)

INDENT = "    "
"""Start of a step after the first one."""
ALONE = "no other template has a weight above 0"


def describe_task(explained: ExplainedTask) -> str:
    """Name a task, and what the run knows of it."""
    seen = "trained on" if explained.trained else "held out"
    return f"{explained.task.id}, {seen}, step {explained.step}"


def describe_choice(templates: int) -> str:
    """Say which of the templates answers, and what a weight is."""
    templates_words = count(templates, "template")
    return f"The template with the largest weight answers; the weights of all {templates_words} sum to 1."


def describe_outcome(query: ExplainedQuery) -> str:
    """Say whether an answer is right."""
    return {True: "solved", False: "wrong", None: "true output unknown"}[query.solved]


def describe_rules(query: ExplainedQuery) -> list[str]:
    """List the best rules for a query, each with its weight and its fit to the demonstrations."""
    lines = []
    for name, rated in name_rules(query):
        first, *others = list_steps(rated.rule)
        lines += [f"{name}: {first}", *(f"{INDENT}{step}" for step in others), describe_rating(rated)]
    return lines if len(query.rules) > 1 and query.rules[1].weight else [*lines, ALONE]


def list_steps(rule: Rule) -> list[str]:
    """Return the steps of a rule, one a line; joined by spaces they are the rule."""
    if isinstance(rule, Where):
        return [str(rule)]
    word = "also" if isinstance(rule, Also) else "then"
    nested = isinstance(rule.second, Then)  # a sequence within a sequence is one step
    second, *others = [f"({rule.second})"] if nested else list_steps(rule.second)
    return [*list_steps(rule.first), f"{word} {second}", *others]


def shorten_rule(rule: Rule) -> str:
    """Return a rule in one line; of more than two steps, the first one and the number of the others."""
    first, *others = list_steps(rule)
    return str(rule) if len(others) < 2 else f"{first} … and {len(others)} more steps"


def name_rules(query: ExplainedQuery) -> list[tuple[str, RatedRule]]:
    """Return the best rules for a query with their places, without a runner-up of weight 0."""
    places = zip(("chosen", "runner-up"), query.rules, strict=False)
    return [(place, rated) for place, rated in places if place == "chosen" or rated.weight]


def describe_rating(rated: RatedRule) -> str:
    """Return the weight of a rule and its fit to the demonstrations."""
    fits = ", ".join(f"{fit:.0%}" for fit in rated.fits)
    return f"weight {rated.weight:.3g}; right cells per demonstration: {fits}"


def describe_guard(query: ExplainedQuery) -> str:
    """Return in how many cells of the query the guard holds; empty for a rule without a guard."""
    guarded = query.guarded
    return "" if guarded is None else f"guard holds in {guarded.sum()} of {count(guarded.size, 'cell')}"


def has_learned_guard(explained: ExplainedTask) -> bool:
    """Return whether a shown formula has a learned guard."""
    rules = (str(rated.rule) for query in explained.queries for rated in query.rules)
    return any("learned(" in rule or "related(" in rule for rule in rules)
