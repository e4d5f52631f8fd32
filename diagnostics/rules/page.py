"""The page of a rule as markdown, made from the rule alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from diagnostics.causes import Cause
from diagnostics.findings import METRICS
from diagnostics.rules.options import Option
from diagnostics.rules.rule import ODD_BATCH, Rule


def page(rule: Rule, short: bool = False, known: Mapping[Cause, str] = MappingProxyType({})) -> str:
    """The page of a rule.

    Args:
        short: Whether to leave out why it matters, the bounds of options, and what the index of all pages says once
            of the usual ones.
        known: Causes that the page of another rule explains, with its id.
    """
    return "\n\n".join([f"# {rule.id}: {rule.title}", *_sections(rule, short, known)]) + "\n"


def _sections(rule: Rule, short: bool, known: Mapping[Cause, str]) -> Iterator[str]:
    yield _summary(rule)
    if rule.what:
        yield rule.what
    if rule.why and not short:
        yield f"**Why.** {rule.why}"
    if rule.causes:
        yield "**Causes**"
        yield "\n".join(_cause_line(cause, short, known) for cause in rule.causes)
    if rule.example:
        yield f"**Example.** {rule.example}"
    if rule.false_alarms:
        yield f"**False alarms.** {rule.false_alarms}"
    yield f"**Remedy.** {rule.remedy}"
    listed = list(_short_options(rule.options) if short else _options(rule.options))
    if listed:
        yield "**Options**" if short else "**Options** (`Monitor(options=...)`)"
        yield "\n".join(listed)
    if rule.arguments:
        yield f"**Options.** Arguments of `{rule.arguments}`."


def _cause_line(cause: Cause, short: bool, known: Mapping[Cause, str]) -> str:
    own = f"\n  Remedy: {cause.remedy}" if cause.remedy and not short else ""
    return f"- `{cause.code}`: {known.get(cause, cause.documented)}{own}"


def _summary(rule: Rule) -> str:
    """Severity, metric, and what the rule needs."""
    needs = [what for what, needed in _needs(rule) if needed]
    sentences = [rule.severity.label.capitalize(), f"Measures {METRICS.get(rule.metric, rule.metric)}"]
    return ". ".join([*sentences, *needs]) + "."


def _needs(rule: Rule) -> Iterator[tuple[str, bool]]:
    yield "Needs the optimisers", rule.needs_optimizer
    yield "Needs every step", rule.needs_every_step


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    for name, option in options.items():
        values = f"{option.low:g}..{option.high:g}{', whole' if option.whole else ''}"
        yield f"- `{name}={option.default:g}` ({values}): {option.meaning}{_reason(option)}."


def _short_options(options: Mapping[str, Option]) -> Iterator[str]:
    """A line per option, without bounds; `min_steps` and `share` share the last one, if one of them is not usual."""
    usual = {name: option for name, option in options.items() if name in ("min_steps", "share")}
    for name, option in options.items():
        if name not in usual:
            yield f"- `{name}={option.default:g}`: {option.meaning}{_reason(option)}."
    if any(option.why not in ("", ODD_BATCH) for option in usual.values()):
        reasons = [_reason(option)[2:] for option in usual.values() if option.why != ODD_BATCH]
        text = ". ".join(filter(None, reasons))
        values = ", ".join(f"`{name}={option.default:g}`" for name, option in usual.items())
        yield f"- {values}{f': {text}.' if text else ''}"


def _reason(option: Option) -> str:
    return f". {option.why[0].upper()}{option.why[1:]}" if option.why else ""
