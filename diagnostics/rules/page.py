"""The page of a rule as markdown, made from the rule alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diagnostics.findings import METRICS
from diagnostics.rules.options import Option
from diagnostics.rules.rule import ODD_BATCH, Rule


def page(rule: Rule) -> str:
    """The page of a rule."""
    return "\n\n".join([f"# {rule.id}: {rule.title}", *_sections(rule)]) + "\n"


def _sections(rule: Rule) -> Iterator[str]:
    yield _summary(rule)
    if rule.what:
        yield rule.what
    if rule.why:
        yield f"**Why.** {rule.why}"
    if rule.causes:
        yield "**Causes**"
        yield "\n".join(f"- `{cause.code}`: {cause.documented}" for cause in rule.causes)
    if rule.example:
        yield f"**Example.** {rule.example}"
    if rule.false_alarms:
        yield f"**False alarms.** {rule.false_alarms}"
    yield f"**Remedy.** {rule.remedy}"
    if rule.options:
        yield "**Options**"
        yield "\n".join(_options(rule.options))
    if rule.arguments:
        yield f"**Options.** Arguments of `{rule.arguments}`."


def _summary(rule: Rule) -> str:
    """Severity, metric, and what the rule needs."""
    needs = [what for what, needed in _needs(rule) if needed]
    sentences = [rule.severity.label.capitalize(), f"Measures {METRICS.get(rule.metric, rule.metric)}"]
    return ". ".join([*sentences, *needs]) + "."


def _needs(rule: Rule) -> Iterator[tuple[str, bool]]:
    yield "Needs the optimisers", rule.needs_optimizer
    yield "Needs every step", rule.needs_every_step


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    """A line per option; `min_steps` and `share`, which the index explains, share the last one."""
    patience = {name: option for name, option in options.items() if name in ("min_steps", "share")}
    for name, option in options.items():
        if name not in patience:
            values = f"{option.low:g}..{option.high:g}{', whole' if option.whole else ''}"
            yield f"- `{name}={option.default:g}` ({values}): {option.meaning}{_reason(option)}."
    if patience:
        reasons = (_reason(option)[2:] for option in patience.values() if option.why != ODD_BATCH)
        listed = ", ".join(f"`{name}={option.default:g}`" for name, option in patience.items())
        text = ". ".join(reason for reason in reasons if reason)
        yield f"- {listed}{f': {text}.' if text else ''}"


def _reason(option: Option) -> str:
    return f". {option.why[0].upper()}{option.why[1:]}" if option.why else ""
