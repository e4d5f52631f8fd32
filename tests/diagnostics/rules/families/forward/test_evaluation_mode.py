"""Training in evaluation mode."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, changed, left_in_evaluation, with_dropout

CASES: Cases = {
    "MODE001": (changed(left_in_evaluation), changed(with_dropout)),
}
