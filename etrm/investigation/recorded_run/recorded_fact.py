"""One thing that a run recorded, and the hypothesis that it is evidence for."""

from __future__ import annotations

from dataclasses import dataclass

from etrm.investigation.evidence.table import EvidenceRow


@dataclass(frozen=True)
class RecordedFact:
    """A row of evidence about a recorded run.

    Attributes:
        row: the measurement; where it did not pass, something is wrong with the run.
        hypotheses: ids of the hypotheses that it is evidence for; the first one that was tested counts.
        proves: whether the row alone shows that the hypothesis holds for this run; otherwise it makes a candidate.
        words: a description of what is wrong, as the end of a sentence.
        undecided: whether the run is too short to tell whether it is wrong; then the row did not fail.
    """

    row: EvidenceRow
    hypotheses: tuple[str, ...] = ()
    proves: bool = False
    words: str = ""
    undecided: bool = False
