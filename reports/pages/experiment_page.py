"""The page of one experiment, which finds a scenario instead of a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from etrm.investigation.result import ExperimentResult, Result, Scenario
from reports.markdown import escape, paragraph, sentence, table
from reports.pages.sections import (
    arms_table,
    cost,
    evidence_table,
    join,
    prose,
    raw_data,
    reproduce,
    runs_tables,
    screening_note,
    section,
    seeds,
)


def experiment_page(
    result: Result, experiment: ExperimentResult, images: Sequence[str], navigation: str = ""
) -> str:
    """Return the page of an experiment as markdown.

    Args:
        result: the investigation.
        experiment: one of its experiments.
        images: the figures as markdown.
        navigation: the navigation as markdown, placed under the title.
    """
    return join(
        [
            f"# Experiment: {escape(experiment.title)}",
            navigation,
            _format_scenario_line(experiment),
            screening_note(experiment.screening),
            prose("Question", experiment.question),
            section("Figures", *images),
            section("Scenarios", _list_scenarios(experiment)),
            section("Arms", arms_table(experiment.arms)),
            section("Evidence", evidence_table(experiment.evidence)),
            section("Runs", runs_tables(experiment.runs)),
            reproduce(result.reproduce, experiment.runs, experiment.wall_s),
            raw_data(experiment.runs),
        ]
    )


def scenario(experiment: ExperimentResult) -> str:
    """Return the name of the scenario, for instance ``scenario A``, or that it is undecided."""
    if experiment.scenario is Scenario.UNDECIDED:
        return "scenario undecided"
    return f"scenario {experiment.scenario.value}"


def _format_scenario_line(experiment: ExperimentResult) -> str:
    mark = " (screening)" if experiment.screening else ""
    name = scenario(experiment)
    first = f"**{name[:1].upper()}{name[1:]}**{mark} — {sentence(escape(experiment.sentence))}"
    used = seeds([run.seed for run in experiment.runs])
    facts = f"Seeds: {used}. Cost: {cost(experiment.runs, experiment.wall_s)}."
    return f"{paragraph(first, '> ')}\n>\n{paragraph(facts, '> ')}"


def _list_scenarios(experiment: ExperimentResult) -> str:
    rows = [
        [possible.value, "**this one**" if possible is experiment.scenario else "", escape(words)]
        for possible, words in experiment.scenarios
    ]
    return table(["scenario", "found", "description"], rows) if rows else ""
