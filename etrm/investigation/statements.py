"""H3 to H7 as registered; this version does not decide them yet, and the matrix says so."""

from __future__ import annotations

from etrm.investigation.protocol import Statement

REASON = "Not decided by this version of the tool; the statement is registered, nothing was measured."

UNDECIDED = (
    Statement(
        id="H3",
        title="Context interface",
        statement="The context is not what the decoder expects.",
        refuted_by="Contexts are finite, of the right shape and scale, and shuffling them costs loss.",
        mechanism="A context of another scale or structure than the puzzle vectors is noise to the decoder.",
        kind="mixed",
        would_change="A measurement of scale and use of the context, with its controls.",
    ),
    Statement(
        id="H4",
        title="Training dynamics",
        statement="The training dynamics hold it back.",
        refuted_by="No single change of rate, clipping, warm-up, exploration or batch improves the loss enough.",
        mechanism="Rates, spikes or drift let the encoder change faster than the decoder can follow.",
        kind="statistical",
        would_change="Interventions one at a time, over five seeds.",
    ),
    Statement(
        id="H5",
        title="Data",
        statement="The data the encoder sees is wrong.",
        refuted_by="Demos, query and labels are of one task under one augmentation, and nothing leaks.",
        mechanism="Demos that do not tell the query's rule teach the encoder nothing.",
        kind="mechanistic",
        would_change="Provenance checked on every row of a run, with injected faults as controls.",
    ),
    Statement(
        id="H6",
        title="Evaluator",
        statement="The evaluator misreports.",
        refuted_by="Planted predictions are scored as planted, on any number of tasks.",
        mechanism="A wrong denominator or a missing inverse hides what was learned.",
        kind="mechanistic",
        would_change="Planted predictions through the evaluation of a run, with injected faults as controls.",
    ),
    Statement(
        id="H7",
        title="Encoder capacity",
        statement="The encoder is too weak.",
        refuted_by="A stronger encoder gains nothing where the ceiling shows that there is something to gain.",
        mechanism="An encoder that cannot hold the rule gives every task the same context.",
        kind="statistical",
        would_change="The ladder of encoders against the oracle context, over five seeds.",
    ),
)
