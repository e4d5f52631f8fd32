"""How a report calls what a result holds by stable names."""

from __future__ import annotations

from etrm.investigation.result import Direction

DIRECTIONS = {
    Direction.HIGHER: "higher is healthy",
    Direction.LOWER: "lower is healthy",
    Direction.EQUAL: "must be equal",
    Direction.HOLDS: "must hold",
    Direction.CONTEXT: "context",
}
_FINALS = {
    "loss_start": "loss before the run",
    "loss_end": "loss after the run",
    "loss_start_foreign_demos": "loss before the run, mismatched demonstrations",
    "loss_end_foreign_demos": "loss after the run, mismatched demonstrations",
    "retrieval_start": "task retrieval before the run",
    "retrieval_end": "task retrieval after the run",
    "retrieval_chance": "task retrieval by chance",
    "accuracy_all": "token accuracy, last 25 steps",
    "exact_all": "rows all right, last 25 steps",
    "held_out_pass_at_1": "held-out pass@1",
    "held_out_token_accuracy": "held-out token accuracy",
    "encoder_coverage_lowest": "encoder coverage, lowest",
    "steps_without_encoder_movement": "steps without encoder movement",
}


def name_final_value(key: str) -> str:
    """A final value of a run by its key; a key without words is shown as it is."""
    return _FINALS.get(key, key)
