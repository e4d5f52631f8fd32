"""The step at which a run begins to depart from the reference, found by repeating the steps before it.

A run compares one of many steps. Where one of them departs, the steps since the last equal one of its bucket are
trained again from the nearest checkpoint. Each is compared, unless a later step of its own bucket was equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved, name_of
from etrm.config import Config, with_settings
from etrm.investigation.reference_comparison.reference_check import ReferenceFacts
from etrm.training.monitoring.step_check import ComparedStep, StepCheck
from etrm.training.trainer import Trainer


def add_steps_before_departure(
    facts: ReferenceFacts, folder: Path, config: Config, most: int
) -> ReferenceFacts:
    """Add the comparisons of the steps between the last equal step of a bucket and the first that departs.

    Args:
        facts: the comparison of some steps of a run.
        folder: the run folder, for its checkpoints.
        config: the settings of the run, faults included.
        most: the largest number of steps to train again.

    Returns:
        The facts, unchanged if there are no such steps, if too many would have to be trained, or if the run cannot be
        repeated.
    """
    between, equal = _steps_between(facts), _last_equal(facts)
    if not between:
        return facts
    try:
        trainer = _start_before(between[0], folder, config)
        if between[-1] - trainer.step > most:
            return facts
        found = _compare_steps(trainer, StepCheck(config), between, equal)
    except Exception:  # noqa: BLE001  (code under test may raise anything; what the run recorded stands)
        return facts
    steps = sorted((*facts.steps, *found), key=lambda compared: compared.step)
    return ReferenceFacts(tuple(steps), facts.others, facts.error)


def _first_departing(facts: ReferenceFacts) -> ComparedStep | None:
    return min((step for step in facts.steps if step.departures), key=lambda step: step.step, default=None)


def _last_equal(facts: ReferenceFacts) -> dict[int, int]:
    """The last equal step of each bucket before the first step that departs."""
    departing = _first_departing(facts)
    before = [step for step in facts.steps if departing and step.step < departing.step and not step.absent]
    return {step.bucket: step.step for step in sorted(before, key=lambda step: step.step)}


def _steps_between(facts: ReferenceFacts) -> range:
    """The steps after the last equal one of a bucket and before the first of this bucket that departs."""
    departing = _first_departing(facts)
    if departing is None:
        return range(0)
    return range(_last_equal(facts).get(departing.bucket, 0) + 1, departing.step)


def _start_before(step: int, folder: Path, config: Config) -> Trainer:
    """The trainer of a run, at its newest checkpoint before a step, or at its start."""
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    for path in reversed(list_saved(folder / "checkpoints")):
        if path.name < name_of(step):
            trainer.state.restore(checkpoints.read(path))
            break
    return trainer


def _compare_steps(
    trainer: Trainer, check: StepCheck, steps: range, equal: Mapping[int, int]
) -> list[ComparedStep]:
    """Train up to the last of some steps, and compare those after the equal ones, up to the first that departs."""
    while trainer.step < steps[-1]:
        step = trainer.step + 1
        if step in steps and step > equal.get(trainer.state.bucket, 0):
            with check.step(trainer):
                trainer.advance()
            if check.compared[-1].departures:
                break
        else:
            check.forget()
            trainer.advance()
    return check.compared
