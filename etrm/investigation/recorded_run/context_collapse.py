"""When contexts that are the same for all tasks count as collapsed, and which hypothesis they are evidence for.

Some healthy encoders give all tasks the same context early and recover: on preset `smoke` with 200 steps, `trm_style`
(seed 0) has a share of 5e-7 at step 20, COLLAPSE001 up to step 90, and a share of .0067 at step 200. So only a collapse
that lasted accuses.
"""

from __future__ import annotations

from etrm.investigation.recorded_run.run_under_test import RunUnderTest

COLLAPSED = 1e-3
"""Share of their power below which contexts are the same for all tasks, as for the rule COLLAPSE001."""
CONSTANT = 1e-8
"""Share below which they differ by rounding alone, so that even an encoder that began so gives nothing away."""
LASTING = 200
"""Steps that a collapse must have lasted at the end of a run: twice as many as the recovery above took."""


def explain_collapse(run: RunUnderTest) -> tuple[str, ...]:
    """The hypotheses that collapsed contexts are evidence for, in order.

    Contexts that differed at the random start collapsed in training (H4), unless a divergence that is part of the loss
    makes them equal: then it is a matter of the encoder (H7), as where they never differed.
    """
    if not run.used.model.recursive:
        return ("N4", "H3")
    first = next((m["start.share"] for m in run.metrics if m.get("start.share") is not None), 0.0)
    trained_away = first >= COLLAPSED and not run.used.train.kl_weight
    return ("H4",) if trained_away else ("H7",)


def is_collapsed(share: float, untrained: float | None) -> bool:
    """Whether contexts with this share are the same for all tasks, and more so than at the random start."""
    return share < COLLAPSED and (untrained is None or share < untrained / 2 or share < CONSTANT)


def has_lasted(run: RunUnderTest, until: int) -> bool:
    """Whether each probe of the last LASTING steps before a step found collapsed contexts."""
    probed = [
        m["probe.share"]
        for m in run.metrics
        if until - LASTING < m["step"] <= until and m.get("probe.share") is not None
    ]
    return until >= LASTING and all(share < COLLAPSED for share in probed)
