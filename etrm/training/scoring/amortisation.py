"""The amortisation gap: what the decoder could solve with the best context found, and what the encoder gives it.

A task that only a search solves blames the encoder; one that neither solves, the decoder. After Cremer et al.,
"Inference suboptimality in variational autoencoders" (2018).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from etrm.config import Config, with_settings
from etrm.data import Sample, TaskSet, build_evaluation_samples
from etrm.evaluation import EvaluationReport, binomial_interval
from etrm.evaluation.passk import predict, score
from etrm.model.variant import Variant
from etrm.training.scoring.context_search import ContextSearch, mismatch
from etrm.training.scoring.predictor import make_predictor


class GapFinding(StrEnum):
    """What paired answers show."""

    ENCODER_LIMITS = "encoder-limits"
    NO_GAP = "no-gap"
    START_DOES_NOT_HELP = "start-does-not-help"
    CONTROL_SOLVES = "control-solves"

    @property
    def words(self) -> str:
        """The finding as a report prints it."""
        return {
            GapFinding.ENCODER_LIMITS: "the decoder is able and the encoder is not: a search solves more tasks",
            GapFinding.NO_GAP: "a search solves no more tasks than the encoder",
            GapFinding.START_DOES_NOT_HELP: "a start from the encoder is no better than one from noise",
            GapFinding.CONTROL_SOLVES: "mismatched demonstrations solve as many tasks, so the search shows nothing",
        }[self]


@dataclass(frozen=True)
class TaskAnswers:
    """Whether one task is solved, each with one vote.

    Attributes:
        task_id: the id of the task.
        encoder: with the encoder's context.
        from_encoder: with a context that is searched from the encoder's.
        from_noise: with a context that is searched from noise.
        control: with a context that is searched from noise for the demonstrations of another task.
    """

    task_id: str
    encoder: bool
    from_encoder: bool
    from_noise: bool
    control: bool


WAYS = ("encoder", "from_encoder", "from_noise", "control")
"""The fields of :class:`TaskAnswers` that say whether a way solves the task."""
PREFIX = "gap_"


@dataclass(frozen=True)
class AmortisationGap:
    """The answers of some tasks, compared pairwise."""

    tasks: tuple[TaskAnswers, ...]

    def to_counts(self) -> dict[str, float]:
        """Return the number of tasks with each pattern of solving ways, such as ``gap_0110``; they add up over runs."""
        patterns = ["".join(str(int(getattr(task, way))) for way in WAYS) for task in self.tasks]
        return {f"{PREFIX}{pattern}": float(count) for pattern, count in sorted(Counter(patterns).items())}

    @classmethod
    def from_counts(cls, counts: Mapping[str, float]) -> AmortisationGap:
        """Rebuild the answers from :meth:`to_counts`, without their ids; other keys are ignored."""
        return cls(
            tuple(
                TaskAnswers("", *(digit == "1" for digit in name.removeprefix(PREFIX)))
                for name, count in counts.items()
                if name.startswith(PREFIX)
                for _ in range(round(count))
            )
        )

    def count(self, way: str) -> int:
        """Count the tasks that a way solves, by the name of its field."""
        return sum(getattr(task, way) for task in self.tasks)

    def more(self, way: str, other: str) -> bool:
        """Whether one way solves more tasks than another by the exact sign test: a 95 % interval above a half."""
        gained = sum(getattr(task, way) and not getattr(task, other) for task in self.tasks)
        lost = sum(getattr(task, other) and not getattr(task, way) for task in self.tasks)
        return binomial_interval(gained, gained + lost)[0] > 0.5

    @property
    def findings(self) -> tuple[GapFinding, ...]:
        """What the answers show; the start is compared only where there is a gap."""
        if not self.more("from_noise", "encoder") and not self.more("from_encoder", "encoder"):
            return (GapFinding.NO_GAP,)
        if not (self.more("from_noise", "control") or self.more("from_encoder", "control")):
            return (GapFinding.CONTROL_SOLVES,)
        if self.more("from_encoder", "from_noise"):
            return (GapFinding.ENCODER_LIMITS,)
        return GapFinding.ENCODER_LIMITS, GapFinding.START_DOES_NOT_HELP


def measure_gap(model: Variant, config: Config, held_out: TaskSet, trained: TaskSet) -> AmortisationGap:
    """Answer each task with the encoder's context and with searched ones, without augmentation and with one search.

    Args:
        model: the model; its weights stay the same.
        config: its settings; ``evaluate.search`` has the steps and the rate.
        held_out: the tasks, with known outputs.
        trained: the tasks that the model was trained on.

    Raises:
        ConfigError: the context of the model is no free vector.
    """
    samples = build_evaluation_samples(
        held_out, config.data, 1, config.train.seed, variant=config.model.variant
    )
    predictor = make_predictor(model, config.evaluate)
    plain = score(tuple(held_out), samples, predict(samples, predictor, config.evaluate.batch_size))

    def search(start: str, shown: Sequence[Sample] | None = None) -> dict[str, bool]:
        once = with_settings(config, evaluate={"search": {"start": start, "restarts": 1, "hold_out": False}})
        answers = ContextSearch(model, once, trained).answer(samples, shown)
        return _list_solved(score(tuple(held_out), samples, [answer.prediction for answer in answers]))

    found = {
        "encoder": _list_solved(plain),
        "from_encoder": search("encoder"),
        "from_noise": search("noise"),
        "control": search("noise", mismatch(samples)),
    }
    return AmortisationGap(
        tuple(
            TaskAnswers(task.id, **{way: solved[task.id] for way, solved in found.items()})
            for task in held_out
        )
    )


def keep_first(tasks: TaskSet, count: int) -> TaskSet:
    """Return the first tasks by id."""
    return replace(tasks, tasks=tuple(tasks)[:count])


def _list_solved(report: EvaluationReport) -> dict[str, bool]:
    """Whether each task has all its queries solved at the first attempt, by its id."""
    found: dict[str, bool] = {}
    for query in report.queries:
        found[query.task_id] = found.get(query.task_id, True) and query.solved(1)
    return found
