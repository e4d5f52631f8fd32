"""The page of a rule as markdown, made from the rule alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diagnostics.causes import Cause
from diagnostics.findings import METRICS
from diagnostics.rules.options import Option
from diagnostics.rules.rule import Rule

_USUAL = {"min_steps": 5.0, "share": 1.0}
"""What the index of all pages says once."""


def page(rule: Rule, short: bool = False) -> str:
    """The page of a rule.

    Args:
        short: Whether to leave out why it matters, the causes, the remedy, bounds and reasons of options, and what
            the index of all pages says once of the usual ones.
    """
    return "\n\n".join([f"# {rule.id}: {rule.title}", *_sections(rule, short)]) + "\n"


_NO_ALARM = "None known"


def _sections(rule: Rule, short: bool) -> Iterator[str]:
    yield _summary(rule, short)
    if rule.what:
        yield rule.what
    if rule.why and not short:
        yield f"**Why.** {rule.why}"
    if rule.causes and not short:
        yield "**Causes**"
        yield "\n".join(_cause_line(cause) for cause in rule.causes)
    if rule.example:
        yield f"**Example.** {rule.example}"
    if rule.false_alarms and not (short and rule.false_alarms.startswith(_NO_ALARM)):
        yield f"**False alarms.** {rule.false_alarms}"
    if not short:
        yield f"**Remedy.** {rule.remedy}"
    listed = list(_short_options(rule.options) if short else _options(rule.options))
    if listed:
        if not short:
            yield "**Options** (`Monitor(options=...)`)"
        yield "\n".join(listed)
    if rule.arguments and not short:
        yield f"**Options.** Arguments of `{rule.arguments}`."


def _cause_line(cause: Cause) -> str:
    own = f"\n  Remedy: {cause.remedy}" if cause.remedy else ""
    return f"- `{cause.code}`: {cause.documented}{own}"


def _summary(rule: Rule, short: bool) -> str:
    """Severity, metric unless it is to be short, and what the rule needs."""
    needs = [what for what, needed in _needs(rule) if needed]
    measured = [] if short else [f"Measures {METRICS.get(rule.metric, rule.metric)}"]
    return ". ".join([rule.severity.label.capitalize(), *measured, *needs]) + "."


def _needs(rule: Rule) -> Iterator[tuple[str, bool]]:
    yield "Needs the optimisers", rule.needs_optimizer
    yield "Needs every step", rule.needs_every_step


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    for name, option in options.items():
        values = f"{option.low:g}..{option.high:g}{', whole' if option.whole else ''}"
        yield f"- `{name}={option.default:g}` ({values}): {option.meaning}{_reason(option)}."


def _short_options(options: Mapping[str, Option]) -> Iterator[str]:
    """A line per option, without bounds and reasons; `min_steps` and `share` share one, unless they are the usual."""
    lasts = {name: option.default for name, option in options.items() if name in _USUAL}
    for name, option in options.items():
        if name not in lasts:
            yield f"- `{name}={option.default:g}`: {option.meaning}."
    if any(value != _USUAL[name] for name, value in lasts.items()):
        yield "- " + ", ".join(f"`{name}={value:g}`" for name, value in lasts.items())


def _reason(option: Option) -> str:
    return f". {option.why[0].upper()}{option.why[1:]}" if option.why else ""
