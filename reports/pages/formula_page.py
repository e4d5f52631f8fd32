"""The page of the tasks that a run of the symbolic solver solves, with the formula behind each answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from etrm.evaluation import binomial_interval
from etrm.training.scoring.formula_survey import FormulaSurvey, SurveyedTask
from reports.markdown import NOTHING, bullets, code, count, escape, fenced, link, paragraph, table
from reports.pages.sections import join, section
from reports.runs.explanations import (
    LEARNED,
    describe_choice,
    describe_outcome,
    describe_rating,
    has_learned_guard,
    list_steps,
    name_rules,
    shorten_rule,
)


@dataclass(frozen=True)
class FormulaFindings:
    """What is known when the page is written.

    Attributes:
        run: the name of the run.
        survey: the survey of its evaluated tasks.
        tasks: the tasks that were surveyed; fewer than all if the survey was interrupted.
        unsolved: the largest number of unsolved tasks to show.
    """

    run: str
    survey: FormulaSurvey
    tasks: Sequence[SurveyedTask]
    unsolved: int

    @property
    def solved(self) -> list[SurveyedTask]:
        """The solved tasks, by id."""
        return [task for task in self.tasks if task.explained.solved]

    @property
    def nearest(self) -> list[SurveyedTask]:
        """The unsolved tasks whose formula explains the demonstrations best, best first; equals by id."""
        wrong = [task for task in self.tasks if not task.explained.solved]
        return sorted(wrong, key=lambda task: -task.explained.fit)[: self.unsolved]


def formula_page(found: FormulaFindings, images: Mapping[str, str]) -> str:
    """Markdown of the page.

    Args:
        found: the findings.
        images: the path of the picture of each task, by its id; tasks without a picture are left out.
    """
    return join(
        [
            f"# Formulas of {escape(found.run)}",
            paragraph(_introduce(found)),
            _interruption(found, images),
            _tabulate_scores(found),
            _explain_terms(found),
            section("Solved tasks", _tabulate_tasks(found.solved), *_draw_tasks(found.solved, images)),
            section(
                "Unsolved tasks whose formula fits best",
                paragraph(
                    "The formula explains the demonstrations of these tasks best, and the answer is wrong."
                )
                if found.nearest
                else "",
                _tabulate_tasks(found.nearest),
                *_draw_tasks(found.nearest, images),
            ),
        ]
    )


def _introduce(found: FormulaFindings) -> str:
    chosen, tasks = found.survey.config.evaluate, len(found.tasks)
    return (
        f"At step {found.survey.step} the run solves {len(found.solved)} of {count(tasks, 'evaluated task')} "
        f"({escape(chosen.source)} {chosen.subset}, {chosen.weights} weights). A task is solved if the answers to all "
        "of its queries are right. Each query has one answer, without votes, and the formula also decides its size."
    )


def _interruption(found: FormulaFindings, images: Mapping[str, str]) -> str:
    every, left = len(found.survey.tasks), len(found.survey.tasks) - len(found.tasks)
    if left:
        return paragraph(f"**Interrupted**: {left} of {count(every, 'task')} were not evaluated.")
    undrawn = [task for task in (*found.solved, *found.nearest) if task.explained.task.id not in images]
    return (
        paragraph(f"**Interrupted**: {count(len(undrawn), 'task')} below are without a picture.")
        if undrawn
        else ""
    )


def _tabulate_scores(found: FormulaFindings) -> str:
    searched = f"search without training ({', '.join(found.survey.searched_families)})"
    rows = [
        _score("this run", [task.explained.solved for task in found.tasks]),
        _score(searched, [task.solved_by_search for task in found.tasks]),
        _score("copy input", [task.solved_by_copy for task in found.tasks]),
    ]
    return table(["answers of", "solved", "95 % interval"], rows, "lr")


def _score(name: str, outcomes: Sequence[bool]) -> list[str]:
    if not outcomes:
        return [name, NOTHING, NOTHING]
    low, high = binomial_interval(sum(outcomes), len(outcomes))
    return [name, f"{sum(outcomes)} of {len(outcomes)}", f"{low:.1%} to {high:.1%}"]


def _explain_terms(found: FormulaFindings) -> str:
    if not found.tasks:
        return ""
    words = [
        describe_choice(found.tasks[0].explained.templates),
        "The fit is the share of cells of each demonstration that the formula gets right.",
        "The search takes the formula that fits the demonstrations best, of the families in brackets.",
        "A guard is black where it holds, and crossed cells of an answer are wrong.",
    ]
    missed = [
        task.explained.task.id for task in found.tasks if task.solved_by_search and not task.explained.solved
    ]
    if missed:
        words.append(f"The search solves and the run does not: {', '.join(map(code, missed))}.")
    if any(has_learned_guard(task.explained) for task in (*found.solved, *found.nearest)):
        words.append(LEARNED)
    return bullets(words)


def _tabulate_tasks(tasks: Sequence[SurveyedTask]) -> str:
    if not tasks:
        return "None."
    rows = [
        [
            code(one.explained.task.id),
            f"{one.explained.fit:.0%}",
            "yes" if one.solved_by_search else "no",
            code(shorten_rule(one.explained.queries[0].rules[0].rule)),
        ]
        for one in tasks
    ]
    return table(["task", "fit", "solved by search", "formula of the first query"], rows, "lr")


def _draw_tasks(tasks: Sequence[SurveyedTask], images: Mapping[str, str]) -> list[str]:
    parts = []
    for one in tasks:
        name = one.explained.task.id
        image = f"!{link(escape(f'Task {name}'), images[name])}" if name in images else ""
        parts += [f"### {escape(name)}", *_list_formulas(one), image]
    return parts


def _list_formulas(task: SurveyedTask) -> Iterator[str]:
    """Yield each formula below a line that says what it is; a code block has a line per step."""
    for number, query in enumerate(task.explained.queries):
        place = f"Test {number}, {describe_outcome(query)}, " if len(task.explained.queries) > 1 else ""
        for name, rated in name_rules(query):
            yield paragraph(f"{place}{name}, {describe_rating(rated)}:".capitalize())
            yield fenced("\n".join(list_steps(rated.rule)))
    if task.searched is None:
        yield "The search without training found no formula."
    elif all(task.searched == query.rules[0].rule for query in task.explained.queries):
        yield "The search without training found the same formula."
    else:
        outcome = "solves" if task.solved_by_search else "does not solve"
        yield paragraph(f"The search without training found a formula that {outcome} the task:")
        yield fenced("\n".join(list_steps(task.searched)))
