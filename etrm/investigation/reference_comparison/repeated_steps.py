"""The step at which a run begins to depart from the reference, found by repeating the steps before it.

A run compares one of many steps. Where one of them departs, the steps since the last equal one are trained again from
the nearest checkpoint, and each is compared.
"""

from __future__ import annotations

from pathlib import Path

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved, name_of
from etrm.config import Config, with_settings
from etrm.investigation.reference_comparison.reference_check import ReferenceFacts
from etrm.training.step_check import ComparedStep, StepCheck
from etrm.training.trainer import Trainer


def add_steps_before_departure(
    facts: ReferenceFacts, folder: Path, config: Config, most: int
) -> ReferenceFacts:
    """Add the comparisons of the steps between the last equal step and the first that departs.

    Args:
        facts: the comparison of some steps of a run.
        folder: the run folder, for its checkpoints.
        config: the settings of the run, faults included.
        most: the largest number of steps to train again.

    Returns:
        The facts, unchanged if there are no such steps, if too many would have to be trained, or if the run cannot be
        repeated.
    """
    between = _steps_between(facts)
    if not between:
        return facts
    try:
        trainer = _start_before(between[0], folder, config)
        if between[-1] - trainer.step > most:
            return facts
        found = _compare_steps(trainer, StepCheck(config), between)
    except Exception:  # noqa: BLE001  (code under test may raise anything; what the run recorded stands)
        return facts
    steps = sorted((*facts.steps, *found), key=lambda compared: compared.step)
    return ReferenceFacts(tuple(steps), facts.others, facts.error)


def _steps_between(facts: ReferenceFacts) -> range:
    """The steps after the last equal one and before the first that departs."""
    departing = min((compared.step for compared in facts.steps if compared.departures), default=0)
    before = [step.step for step in facts.steps if step.step < departing and not step.absent]
    return range(max(before, default=0) + 1, departing)


def _start_before(step: int, folder: Path, config: Config) -> Trainer:
    """The trainer of a run, at its newest checkpoint before a step, or at its start."""
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    for path in reversed(list_saved(folder / "checkpoints")):
        if path.name < name_of(step):
            trainer.state.restore(checkpoints.read(path))
            break
    return trainer


def _compare_steps(trainer: Trainer, check: StepCheck, steps: range) -> list[ComparedStep]:
    """Train up to the last of some steps, and compare them up to the first that departs."""
    while trainer.step < steps[0] - 1:
        trainer.advance()
    for _ in steps:
        with check.step(trainer):
            trainer.advance()
        if check.compared[-1].departures:
            break
    return check.compared
