"""The overfit gate: whether a run fitted its few tasks, and did not collapse afterwards.

GOAL is experiment E1 of the "Encoder training analysis" (above 95 % on ten tasks); PEAK is below the .7 that its
collapsed run reached; WINDOW is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from etrm.data import build_evaluation_samples
from etrm.errors import ArgumentError
from etrm.training.scoring.predictor import compute_mean_loss, load_model

GOAL = 0.95
"""Token accuracy that a run must exceed at the end."""
WINDOW = 25
"""Number of steps of a mean."""
PEAK = 0.6
"""A mean of at least this, followed by a mean of less than half of it, is a collapse."""


@dataclass(frozen=True)
class Gate:
    """The verdict of the gate on a run.

    Attributes:
        accuracy: mean accuracy of the last steps.
        reached: the step at which the mean of the last steps first exceeded the goal, or None.
        fell: the step at which a peak was first lost, or None.
    """

    accuracy: float
    reached: int | None
    fell: int | None

    @property
    def collapsed(self) -> bool:
        """Whether a peak was lost."""
        return self.fell is not None

    @property
    def passed(self) -> bool:
        """Fitted at the end, without a collapse on the way."""
        return self.accuracy > GOAL and not self.collapsed


def judge(accuracies: Sequence[float]) -> Gate:
    """Judge the token accuracies (all rows) of the steps of one run, in their order.

    Raises:
        ArgumentError: there are fewer steps than one mean needs.
    """
    if len(accuracies) < WINDOW:
        raise ArgumentError(
            "gate.too-few-steps", f"{len(accuracies)} steps are fewer than the {WINDOW} of one mean"
        )
    means = [fmean(accuracies[end - WINDOW : end]) for end in range(WINDOW, len(accuracies) + 1)]
    reached = next((WINDOW + i for i, mean in enumerate(means) if mean > GOAL), None)
    peak, fell = 0.0, None
    for step, mean in enumerate(means, start=WINDOW):
        peak = max(peak, mean)
        if fell is None and peak >= PEAK and mean < peak / 2:
            fell = step
    return Gate(means[-1], reached, fell)


def compare_demonstrations(folder: Path) -> tuple[float, float]:
    """Measure the effect of the demonstrations: a run may pass the gate without reading them.

    Returns:
        the mean loss of the run's tasks after all ACT steps, with their own demonstrations and with
        those of the next task.

    Raises:
        EtrmError: see :func:`etrm.training.scoring.predictor.load_model`.
    """
    model, config, tasks, _ = load_model(folder, "ema")
    samples = build_evaluation_samples(tasks, config.data, 1, config.train.seed)
    first = list({sample.task_id: sample for sample in reversed(samples)}.values())
    given = zip(first, first[1:] + first[:1], strict=True)
    mismatched = [replace(sample, demos=other.demos) for sample, other in given]
    return compute_mean_loss(model, first, config.train.loss), compute_mean_loss(
        model, mismatched, config.train.loss
    )
