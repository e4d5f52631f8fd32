"""H5: the data that the encoder sees is wrong.

Mechanistic and almost without training: batches are drawn as a run draws them and compared with the grids of their
tasks; one training step shows whose labels the loss uses.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from etrm.config import NO_CURRICULUM, Config, with_settings
from etrm.config.code_names import is_rules
from etrm.data import Episodes, Sample
from etrm.data.sources import PINNED
from etrm.data.splits import Leakage, find_leakage
from etrm.data.tokens import FIRST_COLOUR, VOCAB
from etrm.errors import NonFiniteError
from etrm.investigation.controls import inspected_arms
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import format_seeds, format_value
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.inspection import describe_scope, inspect_controls, judge
from etrm.investigation.measurements.row_provenance import RowProblem, RowProvenance, read_rows
from etrm.investigation.records import Arm, InstrumentCheck, NotMeasured, Value
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.measured_run import training_queries
from etrm.investigation.session import Investigation
from etrm.training.micro_batches import MicroBatch
from etrm.training.scoring.predictor import make_batch
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H5",
    title="Data",
    statement="The data that the encoder receives is wrong.",
    refuted_by=(
        "In every row, the query, labels and demonstrations belong to one task under one augmentation, and undoing it "
        "restores the grids; the query is not among its demonstrations; the loss of a row does not depend on samples "
        "drawn later; a row takes a new sample exactly when its halting logit or the maximum of steps requires it; "
        "training contains no evaluation task; every training task is drawn."
    ),
    mechanism=(
        "Demonstrations of another rule, or of the same rule under other colours, teach the encoder nothing. A query "
        "among its own demonstrations, or a leaked task, lets the loss fall although no rule is inferred."
    ),
    kind="mechanistic",
    would_change=(
        "One row with grids of another task, or one loss that depends on the labels of another sample."
    ),
)
ROWS = 128
"""Rows that are read for each bucket, at least."""
CONTINUING_ROWS = 4
"""Rows of the test that shows whose labels the loss uses."""


class DataReason(StrEnum):
    """What is wrong with the data apart from single rows (:class:`RowProblem`), or that nothing is."""

    FOREIGN_LABELS = "h5.labels-of-later-samples"
    WRONG_ENDS = "h5.rows-end-otherwise"
    LEAK = "h5.held-out-tasks-trained-on"
    NEVER_DRAWN = "h5.tasks-never-drawn"
    UNEVEN = "h5.queries-drawn-unevenly"
    SOUND = "h5.sound"


@dataclass(frozen=True)
class DataFacts(InspectionFacts):
    """What the data of one config holds.

    Attributes:
        read: the rows, compared with their tasks.
        leaked: tasks on both sides of the split.
        loss: loss of a step in which every row continues.
        loss_garbled: the same loss where all samples not yet drawn have other labels.
        tasks: number of training tasks.
        drawn: number of training tasks with at least one query.
        uneven: number of queries that the first pass of the loader does not draw exactly once.
        queries: number of queries.
        ends: number of checks whether a row ends, one for each row and ACT step.
        wrong_ends: number of checks where it ends or continues contrary to its halting logit and the maximum.
        known_source: whether the tasks are published or of this package, so that their answers are right.
    """

    read: RowProvenance
    leaked: Leakage
    loss: Value
    loss_garbled: Value
    tasks: int
    drawn: int
    uneven: int
    queries: int
    ends: int
    wrong_ends: int
    known_source: bool = True

    @property
    def mismatched_labels(self) -> bool:
        """Whether the loss of continuing rows depends on labels of other samples."""
        return self.loss != self.loss_garbled

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds."""
        drawn = self.drawn < self.tasks or self.uneven
        rows = self.read.wrong or self.mismatched_labels or self.wrong_ends
        return bool(rows or self.leaked.ids or drawn)

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with the data, or that nothing is."""
        found = [
            VerdictReason(
                kind,
                f"{count} of {self.read.rows} rows have {kind.words} (first: {self.read.first[kind]})",
            )
            for kind, count in self.read.wrong.items()
        ]
        if self.mismatched_labels:
            words = f"the loss of continuing rows is {format_value(self.loss, '.7g')}, but "
            words += (
                f"{format_value(self.loss_garbled, '.7g')} if samples that are not drawn yet get other labels"
            )
            found.append(VerdictReason(DataReason.FOREIGN_LABELS, words))
        if self.wrong_ends:
            words = f"on {self.wrong_ends} of {self.ends} ACT steps a row takes a new sample, or continues, against "
            words += "its halting logit and the maximum of steps"
            found.append(VerdictReason(DataReason.WRONG_ENDS, words))
        if self.leaked.ids:
            words = f"{len(self.leaked.ids)} held-out tasks are trained on ({self.leaked.ids[0]}, ...)"
            found.append(VerdictReason(DataReason.LEAK, words))
        if self.drawn < self.tasks:
            words = f"{self.tasks - self.drawn} of {self.tasks} tasks are never drawn"
            found.append(VerdictReason(DataReason.NEVER_DRAWN, words))
        if self.uneven:
            words = f"{self.uneven} of {self.queries} queries are not drawn exactly once in a pass"
            found.append(VerdictReason(DataReason.UNEVEN, words))
        words = f"all {self.read.rows} rows and {self.read.demos} demonstrations have the grids of their tasks under "
        words += "one augmentation, labels stay with their rows, and no task leaks"
        if not self.known_source:
            words += "; whether the outputs that the source gives are right is not checked"
        return found or [VerdictReason(DataReason.SOUND, words)]


def inspect_data(config: Config) -> DataFacts:
    """Draw from the loader of a config, and compare what it draws with the tasks.

    Raises:
        EtrmError: the model cannot be built.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    used = trainer.config
    ends = _check_ends(trainer)
    open_to_all = "all" in used.evaluate.allow_trained
    evaluated = load_held_out_tasks(used)
    return DataFacts(
        read=_read_rows(trainer),
        leaked=find_leakage(
            trainer.tasks,
            evaluated,
            {t.id for t in evaluated} if open_to_all else used.evaluate.allow_trained,
        ),
        loss=_measure_continuing_loss(config, garbled=False),
        loss_garbled=_measure_continuing_loss(config, garbled=True),
        tasks=len(trainer.tasks),
        drawn=len({query.task.id for query in trainer.episodes.queries}),
        uneven=_count_uneven(trainer),
        queries=len(trainer.episodes.queries),
        ends=len(ends),
        wrong_ends=ends.count(False),
        known_source=used.data.source in PINNED or is_rules(used.data.source),
    )


class WrongData(Hypothesis):
    """H5."""

    statement = STATEMENT
    precedence = 10
    controls = (
        "demos-from-other-task",
        "query-in-demos",
        "augment-mismatch",
        "labels-from-new-batch",
        "eval-leak",
        "arc1-in-arc2",
    )
    next_step = (
        "Fix the loader first: page H5 names the first row with grids of another task. Then run the same command "
        "again."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected."""
        return inspected_arms(self.study, investigation.subject, self.controls)

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Inspect the data of every seed and of the controls."""
        began = time.perf_counter()
        subjects, error = investigation.inspect_seeds(self.id, investigation.subject, inspect_data)
        controls = inspect_controls(investigation, self.study, self.controls, inspect_data)
        worst = max(subjects, key=lambda facts: facts.holds, default=None)
        return self.statement.decided(
            judge(worst, error, controls, describe_scope(len(investigation.seeds))),
            arms=self.arms(investigation),
            evidence=_make_rows(worst, len(subjects)) if worst else (),
            controls=controls,
            instruments=_check_instruments(subjects),
            wall_s=round(time.perf_counter() - began, 1),
        )


def _read_rows(trainer: Trainer) -> RowProvenance:
    """Rows of every bucket, drawn and collated as in a training step, with the labels that its loss uses."""
    batches = []
    for slots in trainer.slots.values():
        size = len(slots.indices)
        for _ in range(-(-ROWS // size)):
            slots.refill([True] * size)
            batch = slots.batch()
            part = MicroBatch(slice(None), trainer.model.initial_carry(size), batch, None)
            scored = replace(batch, labels=trainer.recipe.labels(slots, part))
            batches.append((scored, slots.samples))
    tasks = trainer.episodes.tasks_of([sample for _, samples in batches for sample in samples])
    return read_rows(batches, tasks, trainer.config.data.max_demos)


def _count_uneven(trainer: Trainer) -> int:
    """The number of queries that are not drawn exactly once in one pass through every bucket."""
    episodes = trainer.episodes
    passes = [episodes.pass_keys(bucket) for bucket in range(episodes.buckets)]
    every = Counter(key for keys in passes for key in keys)
    drawn = [
        trainer.recipe.draw(episodes, bucket, index)
        for bucket, keys in enumerate(passes)
        for index in range(len(keys))
    ]
    found = Counter((sample.task_id, sample.query) for sample in drawn)
    return sum(found[key] != count for key, count in every.items())


@torch.no_grad()
def _check_ends(trainer: Trainer) -> list[bool]:
    """For each row and ACT step, whether the row ends exactly if its logit is positive or the maximum is reached."""
    model, maximum = trainer.model, trainer.config.model.halt.max_steps
    batch = make_batch(model, training_queries(trainer)[:CONTINUING_ROWS])
    carry = model.initial_carry(batch.size)
    found: list[bool] = []
    for step in range(1, maximum + 1):
        carry, output = model(carry, batch)
        halts = torch.zeros_like(carry.halted) if model.fixed_time else output.q_halt > 0
        found += (carry.halted == (halts | (step == maximum))).tolist()
        carry = replace(carry, halted=torch.zeros_like(carry.halted))
    return found


def _measure_continuing_loss(config: Config, *, garbled: bool) -> Value:
    """The loss of a step in which every row continues, with or without other labels on all samples to come.

    A metamorphic test: nothing that a loader returns later may change the loss of samples that are being processed.
    """
    rows = min(CONTINUING_ROWS, config.train.batch_size)
    small = with_settings(
        config,
        monitor={"enabled": False},
        data={"buckets": 1, **NO_CURRICULUM},
        train={"batch_size": rows, "accumulate": 1},
    )
    trainer = Trainer(small)
    try:
        trainer.train_step()
        trainer.state.set_carry(
            0, replace(trainer.carries[0], halted=torch.zeros_like(trainer.carries[0].halted))
        )
        if garbled:
            _garble(trainer.episodes, trainer.slots[0].next_index)
        return float(trainer.train_step()["lm_loss"])
    except NonFiniteError as error:
        return NotMeasured(absent=error.what)


def _garble(episodes: Episodes, first: int) -> None:
    """Give every sample from the ``first`` on other labels of the same size."""
    sample = episodes.sample

    def garbled(bucket: int, index: int) -> Sample:
        found = sample(bucket, index)
        other = np.where(found.labels >= FIRST_COLOUR, FIRST_COLOUR + VOCAB - 1 - found.labels, found.labels)
        return found if index < first else replace(found, labels=other.astype(found.labels.dtype))

    episodes.sample = garbled  # type: ignore[method-assign]  # the loader itself, whatever draws from it


ROW_PROBLEM = Metric("h5.rows-with-problem", "rows with {item}", Direction.EQUAL)
LATER_LABELS = Metric(
    "h5.loss-with-later-labels-exchanged",
    "loss of continuing rows, with other labels of later samples",
    Direction.EQUAL,
)
LEAKED_BY_ID = Metric("h5.leaked-by-id", "held-out tasks that are trained on, by id", Direction.EQUAL)
LEAKED_BY_GRIDS = Metric(
    "h5.leaked-by-grids", "held-out tasks that are trained on, by their grids", Direction.EQUAL
)
NEVER_DRAWN = Metric("h5.tasks-never-drawn", "training tasks without a query", Direction.EQUAL)
UNEVEN = Metric(
    "h5.queries-drawn-unevenly",
    "queries that the first pass of the loader does not draw exactly once",
    Direction.EQUAL,
)
WRONG_ENDS = Metric(
    "h5.rows-end-otherwise",
    "ACT steps on which a row ends or continues contrary to its halting logit and the maximum",
    Direction.EQUAL,
)


def _make_rows(facts: DataFacts, seeds: int) -> tuple[EvidenceRow, ...]:
    n = f"{facts.read.rows} rows, {facts.read.demos} demonstrations, {format_seeds(seeds)}"
    tasks = f"{facts.tasks} training tasks"
    problems = (
        ROW_PROBLEM.expect_none(
            facts.read.wrong[kind], n, item=kind, item_words=kind.words, note=facts.read.first.get(kind, "")
        )
        for kind in RowProblem
    )
    later_labels = LATER_LABELS.row(
        facts.loss_garbled,
        control=facts.loss,
        threshold="equal bit for bit",
        passed=not facts.mismatched_labels,
        n="one step",
        note="nothing that is drawn later may change the loss of samples that are being processed",
    )
    return (
        *problems,
        later_labels,
        LEAKED_BY_ID.expect_none(len(facts.leaked.by_id), tasks),
        LEAKED_BY_GRIDS.expect_none(len(facts.leaked.by_grids), tasks),
        NEVER_DRAWN.expect_none(facts.tasks - facts.drawn, tasks),
        UNEVEN.expect_none(facts.uneven, f"{facts.queries} queries"),
        WRONG_ENDS.expect_none(facts.wrong_ends, f"{facts.ends} steps of rows"),
    )


ROWS_DRAWN = Instrument("h5.rows-drawn", "rows were drawn")
FINITE_LOSS = Instrument("h5.finite-loss", "continuing rows have a finite loss")


def _check_instruments(subjects: Sequence[DataFacts]) -> tuple[InstrumentCheck, ...]:
    """Whether rows were read, and whether the metamorphic test had a loss."""
    rows = sum(facts.read.rows for facts in subjects)
    measured = [facts for facts in subjects if not isinstance(facts.loss, NotMeasured)]
    return (
        ROWS_DRAWN.check(rows > 0, f"{rows} rows"),
        FINITE_LOSS.check(len(measured) == len(subjects), f"{len(measured)} of {len(subjects)} seeds"),
    )


HYPOTHESIS = WrongData()
