"""Whether a model's halting follows its answers, and how its rows halt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.measures.halting import HaltingSummary, Halts, summarise_halts
from diagnostics.records import Absent
from diagnostics.rules.rule import NOTE, WARNING, Family, Rule
from diagnostics.testing.failure import failure

_ALL = 0.99
"""Share of the rows that counts as all of them: exploration makes one row in a hundred differ."""

LOGIT_UNINFORMED = Cause(
    "logit-uninformed",
    "it is trained on other rows than it decides for, its input does not reach it, or its sign is negated",
)
LOGIT_CONSTANT = Cause(
    "logit-constant", "its weights are zero and nothing trains them, or its input is the same for every row"
)
HELD = Cause(
    "held", "rows should end but are made to continue: by exploration, or because the logit is not read"
)
NEVER_POSITIVE = Cause(
    "never-positive",
    "the halting logit is never positive, because of its bias, its weight in the loss, or because nothing trains it",
)
STARTS_POSITIVE = Cause(
    "starts-positive",
    "the halting logit starts at or above its threshold, as with a zero weight and no negative bias",
)
AS_MEASURED = Cause("as-measured", "as measured")

HALT001 = Rule(
    "HALT001",
    WARNING,
    "Halting does not follow the answers",
    "halting",
    "Compare the halting logit with its target, row by row: sign, bias, labels of the right rows, weight of its"
    " loss.",
    source="audit",
    causes=(LOGIT_UNINFORMED, LOGIT_CONSTANT, HELD, NEVER_POSITIVE, STARTS_POSITIVE),
    arguments="Halting",
    what="The probe `Halting`: 99 % of at least 30 rows end at the maximum though a tenth of the answers is right, or"
    " at their first step though a tenth is wrong; the logit ranks right answers above wrong ones in less than 60 % of"
    " pairs, by three standard errors; or, with `trained=True`, it is constant.",
    why="Halting then costs steps or answers, and the accuracy of the halting logit hides it.",
    example="A halting head with weight and bias 0, which gives 0.5 for every row, against a threshold of 0.5.",
    false_alarms="A fixed number of steps by design; a logit that is still learning: look at the trend of its"
    " loss.",
)
HALT002 = Rule(
    "HALT002",
    NOTE,
    "Halting statistics",
    "mean_halt_step",
    "Nothing to do.",
    source="audit",
    causes=(AS_MEASURED,),
    arguments="Halting",
    what="The probe `Halting`, always: steps at which rows end, shares that the maximum and exploration"
    " forced, right answers, skill, area under the curve and change of the loss of the logit, and"
    ' the phase: "start" below a tenth of right answers, "late" above nine tenths, "learning" between.',
    why="The often logged mean step of running rows counts long rows more often; it is not the mean step at halt.",
    example="`mean step at halt 11.3 (4: 20%, 9: 20%, 16: 60%); 60% of the rows end at the maximum, ...`",
    false_alarms="None: it is a note.",
)
FAMILY = Family(190, "Halting", (HALT001, HALT002))


@dataclass(frozen=True)
class Halting:
    """HALT001 where halting does not follow the answers; always the note HALT002, with the numbers.

    While nearly all answers are wrong, rows that all end at the maximum are as they should be.

    Attributes:
        observe: Function (model, batch) -> `Halts`; it may run the model, or return collected values.
        rows: Number of rows that must have ended before their steps are judged; of 30 rows, 99 % are all.
        auroc: The logit is uninformative if its area under the curve is below this by three standard errors; 0.5 is
            chance, and 0.6 leaves room for a logit that is still learning.
        trained: Whether the model was trained: a head that starts at zero weights is constant until then.
    """

    observe: Callable[[nn.Module, Any], Halts]
    rows: int = 30
    auroc: float = 0.6
    trained: bool = False
    rule: ClassVar[str] = "HALT001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """The findings for what `observe` returns."""
        halts = self.observe(model, batch)
        summary = summarise_halts(halts)
        found = [] if halts.steps.numel() < self.rows else _without_decision(halts, summary)
        if (
            not isinstance(summary.auroc, Absent)
            and not isinstance(summary.auroc_error, Absent)
            and summary.auroc + 3 * summary.auroc_error < self.auroc
        ):
            message = (
                f"the halting logit ranks a right answer above a wrong one in {summary.auroc:.0%} of pairs"
            )
            cause = LOGIT_UNINFORMED
            found.append(
                failure(HALT001, "", message, summary.auroc, self.auroc, cause, metric="halting_auroc")
            )
        if self.trained and halts.maximum > 1 and _constant(halts.logits):
            message = (
                f"the halting logit is {float(halts.logits[0]):.3g} for each of {halts.logits.numel()} rows"
            )
            cause = LOGIT_CONSTANT
            found.append(failure(HALT001, "", message, 0.0, None, cause, metric="halting_logit_range"))
        return [
            *found,
            failure(HALT002, "", _in_words(summary), summary.mean_step, None, AS_MEASURED),
        ]


def _constant(logits: Tensor) -> bool:
    return logits.numel() > 1 and bool((logits == logits[0]).all())


def _without_decision(halts: Halts, summary: HaltingSummary) -> list[Finding]:
    """A finding if all rows end at the same step, right or wrong."""
    if halts.maximum == 1:
        return []  # nothing to decide
    asks = bool((halts.logits > 0).any())
    if summary.forced >= _ALL and summary.phase in ("learning", "late"):
        message = (
            f"{summary.forced:.0%} of the rows end at the maximum, {halts.maximum}, though answers are right"
        )
        cause = HELD if asks else NEVER_POSITIVE
        return [failure(HALT001, "", message, summary.forced, _ALL, cause, metric="forced_share")]
    at_once = summary.distribution.get(1, 0.0)
    if at_once >= _ALL and summary.phase in ("start", "learning"):
        message = (
            f"{at_once:.0%} of the rows end at their first step of {halts.maximum}, though answers are wrong"
        )
        cause = STARTS_POSITIVE
        return [failure(HALT001, "", message, at_once, _ALL, cause, metric="halted_at_once_share")]
    return []


def _in_words(summary: HaltingSummary) -> str:
    shares = ", ".join(f"{step}: {share:.0%}" for step, share in summary.distribution.items())
    named = {
        "of the rows end at the maximum": summary.forced,
        "of the observed steps held by exploration": summary.held,
        "of the answers right": summary.correct,
    }
    parts = [f"{share:.0%} {what}" for what, share in named.items() if not isinstance(share, Absent)]
    for what, value in (
        ("skill over the base rate", summary.skill),
        ("area under the curve", summary.auroc),
        ("change of the loss", summary.loss_trend),
    ):
        parts.append(f"{what} {'not known' if isinstance(value, Absent) else format(value, '.2f')}")
    phase = "" if isinstance(summary.phase, Absent) else f"; phase: {summary.phase}"
    return f"mean step at halt {summary.mean_step:.3g} ({shares}); {', '.join(parts)}{phase}"
