"""The curve of a recorded run: its token accuracy in training and, where it was evaluated, on held-out tasks."""

from __future__ import annotations

from etrm.investigation.evidence.figures import Figure, Series, smooth
from etrm.investigation.runs.loaded_run import LAST, Metrics
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS

KEY = "recorded-curve"
FIGURE = Figure(
    key=KEY,
    title="Training and held-out accuracy of the recorded run",
    x_label="optimiser step",
    y_label="share",
    caption=(
        f"Token accuracy of the training batches, means of up to {LAST} steps, and the scores on held-out tasks where "
        "the run evaluated them (evaluate.every). A held-out curve that stays flat while training rises has learned "
        "the training tasks only."
    ),
    y_range=(-0.03, 1.03),
)
CURVES = {
    "accuracy_all": "training: token accuracy",
    TOKENS: "held-out tasks: token accuracy",
    SOLVED: "held-out tasks: share solved",
}
"""The words for the quantities, by their key in metrics.jsonl."""


def make_curves(metrics: Metrics, seed: int) -> tuple[Series, ...]:
    """The curves of the quantities that a run logged; the training curve is smoothed.

    Args:
        metrics: the logged metrics of the run, step by step.
        seed: the seed of the run.
    """
    curves = []
    for key, words in CURVES.items():
        points = [(float(step["step"]), float(step[key])) for step in metrics if step.get(key) is not None]
        if points:
            x, y = zip(*points, strict=True)
            curve = Series(figure=KEY, arm="recorded run", seed=seed, label=words, x=x, y=y)
            curves.append(smooth(curve, LAST) if key == "accuracy_all" else curve)
    return tuple(curves)
