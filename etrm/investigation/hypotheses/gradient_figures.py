"""The figures of H2: coverage, gradient and movement over the steps, module by module and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from etrm.investigation.controls import HEALTHY
from etrm.investigation.evidence.figures import Figure, Series, average_so_far, logged_curve
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.training.monitoring.observer import LAYER

FIGURES = (
    Figure(
        key="h2-modules",
        kind="heat map",
        title="Coverage of each module, step by step",
        x_label="optimiser step",
        y_label="coverage (share of the batch)",
        caption=(
            "Share of the batch whose loss has a gradient through the module, under test and in the controls. Yellow "
            "is all of the batch, dark is none of it; grey steps have no value."
        ),
        y_range=(0.0, 1.0),
    ),
    Figure(
        key="h2-layers",
        kind="heat map",
        title="Gradient of each layer, step by step",
        x_label="optimiser step",
        y_label="gradient norm before clipping",
        caption=(
            "How much gradient arrives at each layer of the run under test, the mean over seeds. On grey steps the "
            "layer gets no gradient at all."
        ),
        y_log=True,
    ),
    Figure(
        key="h2-coverage",
        title="Encoder coverage per step",
        x_label="optimiser step",
        y_label="coverage (share of the batch)",
        caption=(
            "Share of the batch whose loss has a gradient through the encoder. A healthy ETRM stays at 1; the control "
            "shows the effect of a cached context."
        ),
        y_range=(-0.03, 1.08),
    ),
    Figure(
        key="h2-reset",
        title="Encoder coverage so far, and rows that reset",
        x_label="optimiser step",
        y_label="mean over the steps so far (share of the batch)",
        caption=(
            "With a cached context the coverage falls to the share of rows that reset, and the two curves coincide. "
            "A healthy ETRM stays at 1 however few rows reset."
        ),
        y_range=(-0.03, 1.08),
    ),
    Figure(
        key="h2-norms",
        title="Encoder gradient norm before and after clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="The norm before clipping shows whether a gradient arrives; after clipping it shows mostly the limit.",
        y_log=True,
    ),
    Figure(
        key="h2-moved",
        title="Movement of the encoder per step",
        x_label="optimiser step",
        y_label="norm of the change / norm of the weights",
        caption="Without movement, gradients change nothing, if there are any. Steps without movement are not drawn.",
        y_log=True,
    ),
)


def make_curves(subject: Sequence[LoadedRun], controls: Sequence[LoadedRun]) -> list[Series]:
    """The curves of the runs under test and of the controls that show what they should look like."""
    curves = [
        logged_curve("h2-modules", run, f"{module}.coverage", f"{module}, {_name_role(run)}")
        for module in ("encoder", "core")
        for run in (*subject, *_shown_controls(controls))
    ]
    for run in subject:
        layers = dict.fromkeys(key for step in run.metrics for key in step if key.startswith(LAYER))
        curves += [logged_curve("h2-layers", run, key, key.removeprefix(LAYER)) for key in layers]
        coverage, label = "encoder.coverage", "under test, coverage"
        before, after = "encoder.grad_norm_pre_clip", "encoder.grad_norm_post_clip"
        curves += [
            logged_curve("h2-coverage", run, coverage, label),
            average_so_far(logged_curve("h2-reset", run, coverage, label)),
            average_so_far(logged_curve("h2-reset", run, "reset_share", "under test, rows that reset")),
            logged_curve("h2-norms", run, before, "before clipping", positive=True),
            logged_curve("h2-norms", run, after, "after clipping", positive=True),
            logged_curve("h2-moved", run, "encoder.moved", "encoder", positive=True),
            logged_curve("h2-moved", run, "core.moved", "core", positive=True),
        ]
    for run in _shown_controls(controls):
        label = _name_role(run)
        curves.append(logged_curve("h2-coverage", run, "encoder.coverage", label))
        curves.append(average_so_far(logged_curve("h2-reset", run, "encoder.coverage", label)))
    return curves


def _shown_controls(controls: Sequence[LoadedRun]) -> Iterator[LoadedRun]:
    return (run for run in controls if run.arm.control in (HEALTHY, "cached-context"))


def _name_role(run: LoadedRun) -> str:
    return f"control: {run.arm.control}" if run.arm.control else "under test"
