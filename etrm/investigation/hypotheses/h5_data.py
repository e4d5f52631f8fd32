"""H5: the data the encoder sees is wrong.

Mechanistic and almost without training: batches are drawn as a run draws them and held against the
grids of their tasks; one step tells whose labels the loss takes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from etrm.config import Config, with_overrides
from etrm.data import Episodes, Sample
from etrm.data.splits import Leakage, find_leakage
from etrm.data.tokens import FIRST_COLOUR, VOCAB
from etrm.errors import NonFiniteError
from etrm.investigation.evidence import Found, Instrument, Metric, Reason
from etrm.investigation.hypotheses.structural_verdict import inspected_controls, judged, worst_of
from etrm.investigation.measurements.row_provenance import Provenance, RowProblem, read_rows
from etrm.investigation.protocol import (
    Investigation,
    Statement,
    control_arms,
    seeds_in_words,
)
from etrm.investigation.result import (
    Absent,
    Direction,
    Evidence,
    Hypothesis,
    InstrumentCheck,
    Value,
)
from etrm.investigation.runs.measured_run import training_queries
from etrm.training.micro_batches import MicroBatch
from etrm.training.scoring.predictor import make_batch
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H5",
    title="Data",
    statement="The data the encoder sees is wrong.",
    refuted_by=(
        "In every row that is drawn, query, labels and demonstrations are the task's own under one augmentation, "
        "which undone gives the grids back; the query is not among its demonstrations; the loss of a row does not "
        "depend on samples that came later; a row takes a new sample when its halting logit or the maximum of steps "
        "says so; no task that is asked was trained on; every task is drawn from."
    ),
    mechanism=(
        "Demonstrations of another rule, or of the same rule under other colours, teach the encoder nothing, and a "
        "query among them or a leaked task lets a loss fall without a rule being read."
    ),
    kind="mechanistic",
    would_change="One row whose grids are not those of its task, or one loss that moves with another sample's labels.",
)
ROWS = 128
"""Rows that are read for each bucket, at the least."""
ROWS_THAT_GO_ON = 4
"""In the test of whose labels the loss takes."""
POSITIVE = (
    "demos-from-other-task",
    "query-in-demos",
    "augment-mismatch",
    "labels-from-new-batch",
    "eval-leak",
)


class DataReason(StrEnum):
    """What is wrong with the data beside single rows (:class:`RowProblem`), or that nothing is."""

    FOREIGN_LABELS = "h5.labels-of-later-samples"
    WRONG_ENDS = "h5.rows-end-otherwise"
    LEAK = "h5.held-out-tasks-trained-on"
    NEVER_DRAWN = "h5.tasks-never-drawn"
    UNEVEN = "h5.queries-drawn-unevenly"
    SOUND = "h5.sound"


@dataclass(frozen=True)
class Facts(Found):
    """What one subject's data holds.

    Attributes:
        read: rows held against their tasks.
        leaked: tasks on both sides of the split.
        loss: of a step in which every row goes on.
        loss_garbled: the same where all samples not yet drawn have other labels.
        tasks: of the training set.
        drawn: of them, those that a query is asked of.
        uneven: queries that the loader's first pass does not draw just once.
        queries: in all.
        ends: looks at whether a row ends, one for each row and ACT step.
        wrong_ends: of them, those where it ends or goes on otherwise than its halting logit and the maximum say.
    """

    read: Provenance
    leaked: Leakage
    loss: Value
    loss_garbled: Value
    tasks: int
    drawn: int
    uneven: int
    queries: int
    ends: int
    wrong_ends: int

    @property
    def foreign_labels(self) -> bool:
        """Whether the loss of rows that go on moves with labels of other samples."""
        return self.loss != self.loss_garbled

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds."""
        drawn = self.drawn < self.tasks or self.uneven
        rows = self.read.wrong or self.foreign_labels or self.wrong_ends
        return bool(rows or self.leaked.ids or drawn)

    @property
    def reasons(self) -> list[Reason]:
        """What is wrong with the data, or that nothing is."""
        found = [
            Reason(
                kind,
                f"{count} of {self.read.rows} rows have {kind.words} (first: {self.read.first[kind]})",
            )
            for kind, count in self.read.wrong.items()
        ]
        if self.foreign_labels:
            words = (
                f"the loss of rows that go on is {_in_words(self.loss)}, and {_in_words(self.loss_garbled)} "
            )
            words += "where samples that were not drawn yet have other labels"
            found.append(Reason(DataReason.FOREIGN_LABELS, words))
        if self.wrong_ends:
            words = f"on {self.wrong_ends} of {self.ends} ACT steps a row ends, and takes a new sample, otherwise "
            words += "than its halting logit and the maximum of steps say"
            found.append(Reason(DataReason.WRONG_ENDS, words))
        if self.leaked.ids:
            words = f"{len(self.leaked.ids)} held-out tasks are trained on ({self.leaked.ids[0]}, ...)"
            found.append(Reason(DataReason.LEAK, words))
        if self.drawn < self.tasks:
            words = f"{self.tasks - self.drawn} of {self.tasks} tasks are never drawn"
            found.append(Reason(DataReason.NEVER_DRAWN, words))
        if self.uneven:
            words = f"{self.uneven} of {self.queries} queries are not drawn just once in a pass"
            found.append(Reason(DataReason.UNEVEN, words))
        words = f"all {self.read.rows} rows and {self.read.demos} demonstrations are their tasks' own grids under "
        words += "one augmentation, labels stay with their rows, and nothing leaks"
        return found or [Reason(DataReason.SOUND, words)]


def _in_words(loss: Value) -> str:
    return loss.absent if isinstance(loss, Absent) else f"{loss:.7g}"


def inspect(config: Config) -> Facts:
    """Draw from a subject's loader, and look.

    Raises:
        EtrmError: the subject cannot be built.
    """
    trainer = Trainer(with_overrides(config, ("monitor.enabled=false",)))
    used = trainer.config
    ends = _ends(trainer)
    open_to_all = "all" in used.evaluate.allow_trained
    asked = load_held_out_tasks(used)
    return Facts(
        read=_read(trainer),
        leaked=find_leakage(
            trainer.tasks, asked, {t.id for t in asked} if open_to_all else used.evaluate.allow_trained
        ),
        loss=_loss_of_rows_that_go_on(config, garbled=False),
        loss_garbled=_loss_of_rows_that_go_on(config, garbled=True),
        tasks=len(trainer.tasks),
        drawn=len({query.task.id for query in trainer.episodes.queries}),
        uneven=_uneven(trainer),
        queries=len(trainer.episodes.queries),
        ends=len(ends),
        wrong_ends=ends.count(False),
    )


def decide(investigation: Investigation) -> Hypothesis:
    """Look at the data of every seed and of the controls."""
    began = time.perf_counter()
    subjects, error = investigation.each_seed("H5", investigation.subject, inspect)
    controls = inspected_controls(investigation, "h5", POSITIVE, inspect)
    worst = max(subjects, key=lambda facts: facts.holds, default=None)
    return STATEMENT.decided(
        judged(worst, error, controls, worst_of(len(investigation.seeds))),
        arms=control_arms("h5", investigation.subject, POSITIVE),
        evidence=_evidence(worst, len(subjects)) if worst else (),
        controls=controls,
        instruments=_instruments(subjects),
        wall_s=round(time.perf_counter() - began, 1),
    )


def _read(trainer: Trainer) -> Provenance:
    """Rows of every bucket, drawn and collated as a step's are, with the labels that its loss takes."""
    batches = []
    for slots in trainer.slots.values():
        size = len(slots.indices)
        for _ in range(-(-ROWS // size)):
            slots.refill([True] * size)
            batch = slots.batch()
            part = MicroBatch(slice(None), trainer.model.initial_carry(size), batch, None)
            scored = replace(batch, labels=trainer.recipe.labels(slots, part))
            batches.append((scored, slots.samples))
    return read_rows(batches, trainer.tasks, trainer.config.data.max_demos)


def _uneven(trainer: Trainer) -> int:
    """Queries that are not drawn just once where every bucket is passed through once."""
    episodes = trainer.episodes
    asked = Counter((query.task.id, query.index) for query in episodes.queries)
    drawn = [
        trainer.recipe.draw(episodes, bucket, index)
        for bucket in range(episodes.buckets)
        for index in range(len(episodes.bucket_queries(bucket)))
    ]
    found = Counter((sample.task_id, sample.query) for sample in drawn)
    return sum(found[key] != count for key, count in asked.items())


@torch.no_grad()
def _ends(trainer: Trainer) -> list[bool]:
    """Whether a row ends at every ACT step just as it should: when its logit is positive, or at the maximum."""
    model, maximum = trainer.model, trainer.config.model.halt.max_steps
    batch = make_batch(model, training_queries(trainer)[:ROWS_THAT_GO_ON])
    carry = model.initial_carry(batch.size)
    found: list[bool] = []
    for step in range(1, maximum + 1):
        carry, output = model(carry, batch)
        asked = torch.zeros_like(carry.halted) if model.fixed_time else output.q_halt > 0
        found += (carry.halted == (asked | (step == maximum))).tolist()
        carry = replace(carry, halted=torch.zeros_like(carry.halted))
    return found


def _loss_of_rows_that_go_on(config: Config, *, garbled: bool) -> Value:
    """The loss of a step in which every row goes on, with or without other labels on all samples to come.

    A metamorphic test: nothing that a loader hands out later may move the loss of samples that are
    being worked on.
    """
    few = f"train.batch_size={min(ROWS_THAT_GO_ON, config.train.batch_size)}"
    trainer = Trainer(
        with_overrides(config, ("monitor.enabled=false", "data.buckets=1", few, "train.accumulate=1"))
    )
    try:
        trainer.train_step()
        trainer.state.set_carry(
            0, replace(trainer.carries[0], halted=torch.zeros_like(trainer.carries[0].halted))
        )
        if garbled:
            _garble(trainer.episodes, trainer.slots[0].next_index)
        return float(trainer.train_step()["lm_loss"])
    except NonFiniteError as error:
        return Absent(absent=error.what)


def _garble(episodes: Episodes, first: int) -> None:
    """Give every sample from the ``first`` on other labels, the same size as its own."""
    sample = episodes.sample

    def garbled(bucket: int, index: int) -> Sample:
        found = sample(bucket, index)
        other = np.where(found.labels >= FIRST_COLOUR, FIRST_COLOUR + VOCAB - 1 - found.labels, found.labels)
        return found if index < first else replace(found, labels=other.astype(found.labels.dtype))

    episodes.sample = garbled  # type: ignore[method-assign]  # the loader itself, whatever draws from it


ROW_PROBLEM = Metric("h5.rows-with-problem", "rows with {item}", Direction.EQUAL)
LATER_LABELS = Metric(
    "h5.loss-with-later-labels-exchanged",
    "loss of rows that go on, labels of later samples exchanged",
    Direction.EQUAL,
)
LEAKED_BY_ID = Metric("h5.leaked-by-id", "held-out tasks that are trained on, by id", Direction.EQUAL)
LEAKED_BY_GRIDS = Metric(
    "h5.leaked-by-grids", "held-out tasks that are trained on, by their grids", Direction.EQUAL
)
NEVER_DRAWN = Metric("h5.tasks-never-drawn", "training tasks of which nothing is asked", Direction.EQUAL)
UNEVEN = Metric(
    "h5.queries-drawn-unevenly",
    "queries that the loader's first pass does not draw just once",
    Direction.EQUAL,
)
WRONG_ENDS = Metric(
    "h5.rows-end-otherwise",
    "ACT steps on which a row ends otherwise than its halting logit and the maximum say",
    Direction.EQUAL,
)


def _evidence(facts: Facts, seeds: int) -> tuple[Evidence, ...]:
    n = f"{facts.read.rows} rows, {facts.read.demos} demonstrations, {seeds_in_words(seeds)}"
    tasks = f"{facts.tasks} training tasks"

    def none_of(metric: Metric, count: int, n: str) -> Evidence:
        return metric.row(count, control=0.0, threshold="0", passed=not count, n=n)

    return (
        *(
            ROW_PROBLEM.row(
                facts.read.wrong[kind],
                item=kind,
                item_words=kind.words,
                control=0.0,
                threshold="0",
                passed=not facts.read.wrong[kind],
                n=n,
                note=facts.read.first.get(kind, ""),
            )
            for kind in RowProblem
        ),
        LATER_LABELS.row(
            facts.loss_garbled,
            control=facts.loss,
            threshold="the same to the bit",
            passed=not facts.foreign_labels,
            n="one step",
            note="nothing that is drawn later may move the loss of samples that are worked on",
        ),
        none_of(LEAKED_BY_ID, len(facts.leaked.by_id), tasks),
        none_of(LEAKED_BY_GRIDS, len(facts.leaked.by_grids), tasks),
        none_of(NEVER_DRAWN, facts.tasks - facts.drawn, tasks),
        none_of(UNEVEN, facts.uneven, f"{facts.queries} queries"),
        none_of(WRONG_ENDS, facts.wrong_ends, f"{facts.ends} steps of rows"),
    )


ROWS_DRAWN = Instrument("h5.rows-drawn", "rows were drawn")
FINITE_LOSS = Instrument("h5.finite-loss", "rows that go on have a finite loss")


def _instruments(subjects: Sequence[Facts]) -> tuple[InstrumentCheck, ...]:
    """Whether there was something to read, and whether the metamorphic test had a loss."""
    rows = sum(facts.read.rows for facts in subjects)
    measured = [facts for facts in subjects if not isinstance(facts.loss, Absent)]
    return (
        ROWS_DRAWN.check(rows > 0, f"{rows} rows"),
        FINITE_LOSS.check(len(measured) == len(subjects), f"{len(measured)} of {len(subjects)} seeds"),
    )
