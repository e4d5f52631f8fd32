"""H4 and H7 as registered; this version does not decide them yet, and the matrix says so."""

from __future__ import annotations

from etrm.investigation.protocol import Statement

REASON = "Not decided by this version of the tool; the statement is registered, nothing was measured."

UNDECIDED = (
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
        id="H7",
        title="Encoder capacity",
        statement="The encoder is too weak.",
        refuted_by="A stronger encoder gains nothing where the ceiling shows that there is something to gain.",
        mechanism="An encoder that cannot hold the rule gives every task the same context.",
        kind="statistical",
        would_change="The ladder of encoders against the oracle context, over five seeds.",
    ),
)
