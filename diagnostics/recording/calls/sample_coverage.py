"""The share of samples that trains a module, the share that it computes for nothing, and their evenness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diagnostics.recording.calls.unknown_rows import OTHER_WAY
from diagnostics.recording.sample_sizes import SampleSizes, every_sample
from diagnostics.records import Absent, CallRecord, GradientState, Number, ParameterRecord


def measure_coverage(
    samples: int,
    gradients: SampleSizes,
    calls: Sequence[CallRecord],
    unmatched: Sequence[Absent],
    state: GradientState,
    parameters: Mapping[str, ParameterRecord],
) -> Number:
    """The share of the samples in the loss whose gradient comes to an output of the module.

    Args:
        samples: Samples in the loss, B.
        gradients: How large the gradient of each sample is.
        calls: Calls of the module.
        unmatched: Why rows of outputs could not be matched to samples.
        state: What became of the module's gradient.
        parameters: The module's parameters.
    """
    trainable = [record for record in parameters.values() if record.requires_grad]
    blind = any(call.unknown is not None for call in calls)
    received = [record for record in trainable if record.reach.kind in ("some", "all") or record.assigned]
    all_receive = bool(received) and len(received) == len(trainable)
    # of a module that is not called, a tensor that it shares has gradient from elsewhere; if it has no other, as the
    # embedding that encoder and decoder share, nothing of it is lost
    other_way = all_receive or (state == "not called" and any(not record.shared for record in received))
    if not blind and state != "arrived" and other_way:
        return Absent.because(OTHER_WAY.of(state=state))
    covering = gradients.covering
    unknown = [
        *unmatched,
        *(call.samples for call in calls if isinstance(call.samples, Absent) and call.gradient),
    ]
    if unknown and covering < samples:
        first = unknown[0]
        cover = f"the rows that are known cover {covering / samples:.3g}"
        return Absent(f"ambiguous: {first.reason}; {cover}", first.code)
    return covering / samples


def measure_waste(samples: int, coverage: Number, calls: Sequence[CallRecord]) -> Number:
    """The share of the samples that the module computed and that have no gradient there."""
    if isinstance(coverage, Absent):
        return coverage
    indices: dict[int, Tensor] = {}  # calls of all samples share one index
    for call in calls:
        if isinstance(call.samples, Absent):
            return Absent(f"ambiguous: {call.samples.reason}", call.samples.code)
        indices[id(call.samples)] = call.samples
    count = samples
    if id(every_sample(samples)) not in indices:
        processed = torch.zeros(samples, dtype=torch.bool)
        for index in indices.values():
            processed[index] = True
        count = int(processed.sum())
    return (
        1.0 - coverage * samples / count if count else Absent("it computed no rows in this step", "no-rows")
    )


def measure_evenness(
    samples: int, coverage: Number, gradients: SampleSizes, unmatched: Sequence[Absent]
) -> Number:
    """How evenly the samples pull: (sum n)^2 / (B sum n^2) with n the gradient norm of a sample, from 1/B to 1."""
    if isinstance(coverage, Absent):
        return coverage
    if unmatched:
        return Absent(f"ambiguous: {unmatched[0].reason}", unmatched[0].code)
    if gradients.largest == 0.0:
        return Absent("no gradient arrived", "no-gradient")
    if gradients.largest - gradients.largest != 0.0:
        return Absent("a gradient is not finite", "not-finite")
    evenness: Number = gradients.evenness / samples
    return evenness
