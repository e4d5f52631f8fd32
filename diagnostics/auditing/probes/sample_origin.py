"""Whether the rows at the loss belong to the samples of the batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, Family, Rule
from diagnostics.testing.failure import failure

DROPPED_OR_REPEATED = Cause("dropped-or-repeated", "samples are dropped or repeated on the way")
REORDERED = Cause(
    "reordered",
    "the samples are the same but in another order: only one of the tensors was sorted, reshaped or transposed",
)
OTHER_SAMPLES = Cause("other-samples", "other samples: a carry or a cache holds those of an earlier batch")
SAME_INPUT = Cause(
    "same-input",
    "batches with different targets have the same input: one buffer is filled again for each batch",
    remedy="Give each batch a tensor of its own.",
)
ORIGIN001 = Rule(
    "ORIGIN001",
    CRITICAL,
    "The rows at the loss belong to other samples",
    "misplaced_samples",
    "Pass inputs, labels and context of a sample together, with its id.",
    source="audit",
    causes=(DROPPED_OR_REPEATED, REORDERED, OTHER_SAMPLES, SAME_INPUT),
    arguments="SampleOrigin",
    what="The probe `SampleOrigin`: the ids in the batch differ, place by place, from the ids at the loss. In"
    " every audit: another input of a sample changes rows that have the targets of other samples. A warning:"
    " batches with different targets have one input.",
    why="If inputs, labels and contexts belong to different samples, training fits noise, and no gradient is missing.",
    example="A carry that keeps its old rows while labels are taken from the new batch.",
    false_alarms="A loader that sorts a batch on purpose: return the ids as sorted.",
)
FAMILY = Family(170, "Samples and contexts", (ORIGIN001,))


@dataclass(frozen=True)
class SampleOrigin:
    """ORIGIN001: the rows at the loss belong to the samples of the batch.

    Attributes:
        asked: Function that takes a batch and returns an id per sample, as the loader gave them.
        arrived: Function (model, batch) -> the id per sample at the loss, after carries, caches and sorting.
    """

    asked: Callable[[Any], Sequence[Hashable]]
    arrived: Callable[[nn.Module, Any], Sequence[Hashable]]
    rule: ClassVar[str] = "ORIGIN001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Compares the ids place by place."""
        asked, arrived = _plain(self.asked(batch)), _plain(self.arrived(model, batch))
        pairs = zip(asked, arrived, strict=False)
        wrong = [place for place, (left, right) in enumerate(pairs) if left != right]
        missing = abs(len(asked) - len(arrived))
        if not wrong and not missing:
            return []
        if missing:
            message = f"the batch has {len(asked)} samples, and {len(arrived)} reach the loss"
            cause = DROPPED_OR_REPEATED
        else:
            place = wrong[0]
            message = (
                f"{len(wrong)} of {len(asked)} samples are in another's place at the loss: at {place} the batch has"
                f" {asked[place]!r} and the loss {arrived[place]!r}"
            )
            same = sorted(map(repr, asked)) == sorted(map(repr, arrived))
            cause = REORDERED if same else OTHER_SAMPLES
        return [failure(ORIGIN001, "", message, float(len(wrong) + missing), 0.0, cause)]


def _plain(ids: Sequence[Hashable] | Tensor) -> list[Any]:
    """Ids that compare by value: those of a tensor would compare by identity in a set."""
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)
