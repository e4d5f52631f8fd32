"""A loss that stays the same on the same batch while the weights change."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.records import Absent, StepScalars
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import CRITICAL, NOTE, Family, Rule
from diagnostics.rules.run_history import RunHistory

LOSS_CONSTANT = Cause(
    "loss-constant",
    "it depends on no weight that moves: the output is the input, comes from a cache, or is chosen by argmax",
)
LOSS_ZERO = Cause(
    "loss-zero", "it is exactly 0, because a margin is satisfied or a clamp applies, intended or not"
)
PENALTY_CONSTANT = Cause(
    "penalty-constant", "a regulariser that has reached its bound, or reads no weight that moves"
)


def find_constant_losses(run: RunHistory, options: Values) -> list[Finding]:
    """LOSS002: one finding per loss, and per named term of it, that no update changed.

    Steps whose batch is not known do not count.
    """
    names = dict.fromkeys(name for record in run.steps for name in record.losses)
    return [
        finding for name in names for finding in _judge(run.steps, name, options, name in run.regularisers)
    ]


def seen_again(history: Sequence[StepScalars]) -> bool:
    """Whether some batch was seen twice, as far as batches and losses are known."""
    known = [record.batch for record in history if record.losses and record.batch is not None]
    return len(set(known)) < len(known)


def _judge(history: Sequence[StepScalars], name: str, options: Values, regulariser: bool) -> list[Finding]:
    latest: dict[
        Hashable, tuple[float, float]
    ] = {}  # batch -> loss and way of the weights when it was seen last
    way, travelled, repeats, steps = 0.0, 0.0, 0, [0, 0]
    value = 0.0
    for record in history:
        if name in record.losses and record.batch is not None:
            now = record.losses[name]
            if record.batch in latest:
                before, then = latest[record.batch]
                if way > then:
                    if now != before:
                        return []
                    repeats, travelled = repeats + 1, travelled + way - then
                    steps = [steps[0] if repeats > 1 else record.step, record.step]
            latest[record.batch] = (now, way)
            value = now
        way += _moved(record)
    if repeats < options["repeats"] or travelled < options["moved"]:
        return []
    zero = all(loss == 0.0 for loss, _ in latest.values())
    cause = LOSS_ZERO if zero else PENALTY_CONSTANT if regulariser else LOSS_CONSTANT
    message = (
        f"{name or 'the loss'} is {value:.6g}, the same to the last bit each of the {repeats} times that a batch came"
        f" back, while the weights moved by {travelled:.2g} of their size"
    )
    evidence = Evidence(LOSS002.metric, float(repeats), options["repeats"], steps[0], steps[1])
    return [LOSS002.finding("", message, evidence, cause, CRITICAL if cause is LOSS_CONSTANT else NOTE)]


def _moved(record: StepScalars) -> float:
    """The largest movement of a module, relative to its weights."""
    moves = (scalars.get("moved", 0.0) for scalars in record.modules.values())
    return max((move for move in moves if not isinstance(move, Absent)), default=0.0)


LOSS002 = Rule(
    "LOSS002",
    CRITICAL,
    "The loss ignores the updates",
    "repeats",
    "Find out what the answer depends on: the probe `Response` names the modules that change it.",
    options={
        "repeats": Option(5, 1, 1e6, "repetitions needed", whole=True, why="one plateau is not enough"),
        "moved": Option(
            1e-3,
            0.0,
            1e6,
            "movement needed, relative to the weights",
            why="a warm-up begins with a rate near 0",
        ),
    },
    bound="repeats",
    source="history",
    history_check=find_constant_losses,
    causes=(LOSS_CONSTANT, LOSS_ZERO, PENALTY_CONSTANT),
    what="Each time that a batch comes back, the loss or a term of it is the same to the last bit, although weights"
    " moved. `Monitor.step(batch=...)` names batches, `audit` compares them. Half precision does not count.",
    why="Training moves weights, but the answers do not depend on them.",
    example="An entropy bonus moves weights that the answer does not read.",
    false_alarms="None known; a loss of exactly 0 and a regulariser are notes.",
)
FAMILY = Family(125, "Loss and its gradient", (LOSS002,))
