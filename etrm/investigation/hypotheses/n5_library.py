"""N5: the library of the symbolic solver cannot express the tasks.

Mechanistic: search and an oracle over the templates, before any training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from etrm.config import Config, is_rules, with_settings
from etrm.config.symbolic import Family
from etrm.errors import EtrmError
from etrm.investigation.controls import Control, broken_controls
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.evidence.words import capitalise
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.inspection import judge_controls
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    SYMBOLIC_PRESET,
    SymbolicHypothesis,
    control_config,
    describe_arms,
)
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.measurements.expressible_tasks import ExpressibleTasks, measure_expressible
from etrm.investigation.records import Arm, ControlOutcome, NotMeasured, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.session import Investigation
from etrm.training.task_sets import load_held_out_tasks, load_training_tasks

STATEMENT = Statement(
    id="N5",
    title="Library",
    statement="The library cannot express the tasks.",
    refuted_by=(
        "In each split with a goal, a formula of the library expresses at least the required share of tasks. An oracle "
        "that knows the answers finds these formulas before training."
    ),
    mechanism=(
        "Training chooses among the templates and cannot add any. A task that no template explains stays unsolved, "
        "however well the solver learns. Learned guards are not limited by the fixed library."
    ),
    kind="mechanistic",
    would_change="Families that express more tasks, or another goal.",
    scope="mechanism",
)
TASKS = 200
"""Largest number of tasks of a split that are searched: about .2 s each with all families on one core."""
TRAINING, HELD_OUT = "training", "held-out"
GOALS = {TRAINING: 0.20, HELD_OUT: 0.039}
"""Share of tasks of ARC-AGI-1 within 10x10 that the solver should solve: 20 % of the training tasks, and 3 of the 77
evaluation tasks. The 152 templates of the original solver explain 6 % of the former and none of the latter."""
RULES_GOALS = {HELD_OUT: 0.65}
"""Of the rule family: most of the held-out rules, where copying the input solves none."""


class LibraryReason(StrEnum):
    """What search over the library shows."""

    TOO_SMALL = "n5.library-below-goal"
    LARGE_ENOUGH = "n5.library-reaches-goal"
    LEARNED_OPEN = "n5.learned-guards-not-bounded"
    UNDECIDED = "n5.too-few-tasks-searched"


@dataclass(frozen=True)
class LibraryFacts:
    """What the library of a config expresses of its tasks.

    Attributes:
        found: the counts of each split.
        goals: the share of tasks that should be solved, for splits that have a goal.
    """

    found: tuple[ExpressibleTasks, ...]
    goals: dict[str, float]

    @property
    def with_goal(self) -> list[ExpressibleTasks]:
        """The splits that have a goal."""
        return [found for found in self.found if found.split in self.goals]

    def judge(self) -> Judgement:
        """VALIDATED if a goal is out of reach, INVALIDATED if every goal is reached by what templates express."""
        words = capitalise("; ".join(self._describe(found) for found in self.with_goal))
        if any(found.interval[1] < self.goals[found.split] for found in self.with_goal):
            return Judgement(Verdict.VALIDATED, (LibraryReason.TOO_SMALL,), f"{words}.")
        if all(found.interval[0] >= self.goals[found.split] for found in self.with_goal):
            return Judgement(Verdict.INVALIDATED, (LibraryReason.LARGE_ENOUGH,), f"{words}.")
        if any(found.learned is not None for found in self.with_goal):
            words += ". A search cannot bound what learned guards express beyond that."
            return Judgement(Verdict.INCONCLUSIVE, (LibraryReason.LEARNED_OPEN,), words)
        return Judgement(
            Verdict.INCONCLUSIVE, (LibraryReason.UNDECIDED,), f"{words}: too few tasks to decide."
        )

    def _describe(self, found: ExpressibleTasks) -> str:
        learned = "" if found.learned is None else f", {found.learned} by a learned guard"
        return (
            f"the library expresses {found.expressed} of {found.searched} {found.split} tasks "
            f"({found.share:.3f}{learned}), with a goal of {self.goals[found.split]:.3f}"
        )


def inspect_library(config: Config) -> LibraryFacts:
    """What the library of a config expresses of its training tasks and of its held-out tasks.

    Raises:
        EtrmError: the tasks cannot be read.
    """
    tasks = {TRAINING: load_training_tasks(config), HELD_OUT: load_held_out_tasks(config)}
    found = [
        measure_expressible(config.model.symbolic, tuple(some), split, TASKS) for split, some in tasks.items()
    ]
    return LibraryFacts(tuple(found), RULES_GOALS if is_rules(config.data.source) else GOALS)


class SmallLibrary(SymbolicHypothesis):
    """N5."""

    statement = STATEMENT
    precedence = 95
    next_step = (
        "Add families to model.symbolic.families, or learned guards: page N5 shows how many tasks its formulas can "
        "express, which is a limit for every training."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are searched."""
        return describe_arms(self.study, investigation.subject, make_controls())

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Search the tasks of the config under test, and those of the controls."""
        began = time.perf_counter()
        investigation.progress(self.id, 0, 1)
        controls = judge_controls(self.study, make_controls(), lambda config: inspect_library(config).judge())
        facts, error = None, ""
        try:
            facts = inspect_library(investigation.effective)
        except EtrmError as problem:
            error = problem.what
        return self.statement.decided(
            judge(facts, error, controls),
            arms=self.arms(investigation),
            evidence=_make_rows(facts) if facts else (),
            controls=controls,
            wall_s=round(time.perf_counter() - began, 1),
        )


def make_controls() -> list[Control]:
    """The rule family with templates that do not express its rules, and with families that do."""
    return [_with_library("original", positive=True), _with_library("relational", positive=False)]


def _with_library(family: Family, *, positive: bool) -> Control:
    fixed = {"families": (family,), "guards": 16}
    return Control(
        f"library-{family}",
        f"family {family} on preset {SYMBOLIC_PRESET}",
        with_settings(control_config(), model={"symbolic": fixed}),
        positive,
    )


def judge(facts: LibraryFacts | None, error: str, controls: Sequence[ControlOutcome]) -> Judgement:
    """The verdict of a search.

    Args:
        facts: the facts about the library; None if the tasks could not be read.
        error: the reason for that, or nothing.
        controls: outcomes of the controls.
    """
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if facts is None:
        words = f"The tasks could not be searched: {error}"
        return Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), words)
    return facts.judge()


EXPRESSED = Metric(
    "n5.expressed", "share of the {item} tasks that the library expresses (oracle)", Direction.HIGHER
)
FIXED = Metric(
    "n5.fixed", "share of the {item} tasks that its formulas without learned guards express (oracle)"
)
LEARNED = Metric("n5.learned", "share of the {item} tasks that one learned guard could express")
SEARCH = Metric(
    "n5.search", "share of the {item} tasks that search by demonstrations solves without training"
)


def _make_rows(facts: LibraryFacts) -> tuple[EvidenceRow, ...]:
    return tuple(
        row for found in facts.found for row in _make_split_rows(found, facts.goals.get(found.split))
    )


def _make_split_rows(found: ExpressibleTasks, goal: float | None) -> list[EvidenceRow]:
    n = f"{found.searched} of {found.tasks} tasks"
    low, high = found.interval
    passed = None
    if goal is not None:
        passed = False if high < goal else True if low >= goal else None
    learned = NotMeasured(absent="the library has no learned guards")
    shares = [
        (FIXED, found.fixed / found.searched),
        (LEARNED, learned if found.learned is None else found.learned / found.searched),
        (SEARCH, found.searched_right / found.searched),
    ]
    return [
        EXPRESSED.row(
            found.share,
            item=found.split,
            control=goal,
            low=None if goal is None else low - goal,
            high=None if goal is None else high - goal,
            threshold="context: no goal" if goal is None else f"at least {goal:g}, the goal",
            passed=passed,
            n=n,
            note="an oracle knows the answers; the interval is that of the share minus the goal",
        ),
        *(metric.row(share, item=found.split, threshold="context", n=n) for metric, share in shares),
    ]


HYPOTHESIS = SmallLibrary()
