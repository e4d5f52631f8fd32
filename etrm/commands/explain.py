"""The command `etrm explain`: the meaning of a rule, a hypothesis, an error code, or a code in a result."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import INVESTIGATE, app
from etrm.errors import ConfigError

if TYPE_CHECKING:
    from diagnostics.reference.explanations import Groups, Topic


@app.command(rich_help_panel=INVESTIGATE)
def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="A rule, a hypothesis, an error code or a code in a result. Default: list all of them."
        ),
    ] = None,
) -> None:
    """Explain a rule (COV001), a hypothesis (H2), or the code of an error or in a result (h2.no-gradient).

    Name your own rule as my_code.py:MY_RULE. Exit code: 0, or 2 if the code does not exist.
    """
    from diagnostics.errors import UnknownName
    from diagnostics.reference.explanations import explain_code, list_groups

    if code and ":" in code:
        _show(_own_rule(code))
        return
    groups = all_groups()
    try:
        text = explain_code(code, groups) if code else list_groups(groups)
    except UnknownName as error:
        raise ConfigError(
            "explain.unknown-code",
            "this code does not exist",
            got=str(error.facts["got"]),
            allowed=f"nearest: {error.facts['nearest']}",
            next_step="etrm explain, which lists all codes",
        ) from error
    _show(text)


def _own_rule(name: str) -> str:
    """Return the page of a rule that the user named as code."""
    from diagnostics.rules.page import page
    from etrm.commands.chosen_config import allow_named
    from etrm.training.monitoring.own_rules import find_rule

    allow_named([name])
    return page(find_rule(name))


@cache
def all_groups() -> Groups:
    """Return all codes of this project: rules, hypotheses, errors, and codes of results."""
    from diagnostics.reference.explanations import error_topics, toolkit_groups
    from etrm.commands.error_codes import sites

    toolkit = toolkit_groups()
    rules = {heading: topics for heading, topics in toolkit.items() if heading.startswith("Rules")}
    return (
        rules | {"Hypotheses": _hypotheses()} | {"Errors": error_topics(sites())} | toolkit | _result_groups()
    )


def _hypotheses() -> list[Topic]:
    from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses

    return [
        _topic(
            one.id,
            one.statement.title,
            one.statement.statement,
            one.statement.mechanism,
            f"**Refuted by.** {one.statement.refuted_by}",
            f"**Next step.** {one.next_step}",
        )
        for one in all_hypotheses().values()
    ]


def _result_groups() -> Groups:
    from etrm.investigation.codes import declared, reasons
    from etrm.investigation.evidence.table import Instrument, Metric
    from etrm.investigation.result import CauseCode

    metrics = sorted(declared(Metric), key=lambda metric: metric.code)
    instruments = sorted(declared(Instrument), key=lambda instrument: instrument.code)
    return {
        "Results: root cause (cause_code)": _coded(cause.value for cause in CauseCode),
        "Results: reasons of verdicts, controls and experiments (codes)": _coded(sorted(reasons())),
        "Results: rows of evidence (code)": [
            _topic(
                metric.code,
                metric.words.format(item="…"),
                f"A row of evidence. {_HEALTHY[metric.direction.value]}",
                *(["`item` tells the rows with this code apart."] if "{item}" in metric.words else []),
            )
            for metric in metrics
        ],
        "Results: instrument checks (code)": [
            _topic(check.code, check.words, "A check of a measuring instrument. It must hold.")
            for check in instruments
        ],
    }


_HEALTHY = {
    "higher": "Higher is healthier.",
    "lower": "Lower is healthier.",
    "equal": "A healthy value equals the control.",
    "holds": "A healthy value meets the threshold in the row.",
    "context": "It gives context and decides nothing.",
}
"""What a healthy value is, by `direction`."""
_OWNERS = {
    "cause": "Whether an investigation names a root cause",
    "any": "A reason for the verdict of any hypothesis",
    "frozen": "A reason for the outcome of the frozen-decoder experiment",
    "reference": "What the comparison with the reference implementation shows",
    "run": "Something that a recorded run was made with and that is different now, or cannot be built",
    "own": "A reason for the verdict of a hypothesis about a model of your own",
    "original": "A reason for the outcome of the replayed mistakes of the original experiment",
}
"""What a code without fixed words explains, by its first part; other first parts are those of a hypothesis."""


def _coded(codes: Iterable[str]) -> list[Topic]:
    """Codes that have no fixed words: `result.json` has a sentence with the numbers of the case for each."""
    from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses

    verdicts = {
        key.lower(): f'A reason for the verdict of {key}, "{hypothesis.statement.statement.rstrip(".")}"'
        for key, hypothesis in all_hypotheses().items()
    }
    owners = verdicts | _OWNERS
    numbers = "`result.json` has a sentence with the numbers next to the code."
    return [
        _topic(code, name.replace("-", " "), f"{owners[part]}. {numbers}")
        for code in codes
        for part, _, name in [code.partition(".")]
    ]


def _topic(code: str, title: str, *paragraphs: str) -> Topic:
    from diagnostics.reference.explanations import Topic

    return Topic(code, title, partial(_text, code, title, *paragraphs))


def _text(code: str, title: str, *paragraphs: str) -> str:
    return "\n\n".join([f"# {code}", f"**{title[:1].upper()}{title[1:]}**", *paragraphs]) + "\n"


def _show(text: str) -> None:
    from reports.terminal.console import print_page

    print_page(text)
