"""Samples that the loss leaves out by a mask of the program, which a low coverage follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diagnostics.auditing.probes.operations.branch_checks import COV004, MASKED
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorders.sample_masks import SampleMask
from diagnostics.findings import Evidence, Finding
from diagnostics.rules.families.gradients.coverage import (
    COV001,
    COV002,
    LOSS_WITHOUT_GRADIENT,
    SAMPLES_CUT,
)

_SAME = 0.02
"""Difference of two shares that are one: the last batch of an epoch may be smaller."""
_LOW = {COV001.id, COV002.id}
_CUT = {LOSS_WITHOUT_GRADIENT.code, SAMPLES_CUT.code}


def check_masks(traces: Sequence[OperationTrace], samples: int) -> list[Finding]:
    """COV004 with the share of the samples that a mask keeps in every trace; at most one finding.

    Args:
        samples: Number of samples in the loss.
    """
    shares = [_shares(trace.masks.found, samples) for trace in traces]
    for share, mask in shares[0].items() if shares else ():
        if all(any(abs(share - other) <= _SAME for other in each) for each in shares):
            cause = MASKED.of(operation=mask.place)
            evidence = Evidence(COV001.metric, share, None, 0, 0)
            message = f"the loss counts a share of {share:.3g} of the {samples} samples: {mask.place}"
            return [COV004.finding("", message, evidence, cause)]
    return []


def _shares(masks: Sequence[SampleMask], samples: int) -> dict[float, SampleMask]:
    """The share that is kept -> a mask; of targets that are flattened the samples are the slower dimension."""
    found: dict[float, SampleMask] = {}
    for mask in masks:
        if len(mask.kept) % samples == 0:
            share = float(mask.kept.reshape(samples, -1).any(1).float().mean())
            if 0.0 < share < 1.0:
                found.setdefault(share, mask)
    return found


def fold_masked(found: Sequence[Finding], probed: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The findings of a monitor and of checks, where those of a coverage that a mask explains are under COV004.

    A coverage is explained if it is the share of the samples that the mask keeps.
    A mask that explains none is left out.
    """
    left, others = list(found), [each for each in probed if each.code != MASKED.code]
    for mask in probed:
        share = mask.evidence.value
        held = [
            each
            for each in left
            if each.rule in _LOW and each.code in _CUT and abs(each.evidence.value - share) <= _SAME
        ]
        if mask.code == MASKED.code and held:
            flat = [each for one in held for each in (replace(one, consequences=()), *one.consequences)]
            left = [each for each in left if each not in held]
            left.append(replace(mask, consequences=tuple(flat)))
    return left, others
