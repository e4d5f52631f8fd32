"""Which stage a place belongs to."""

from __future__ import annotations

import pytest

from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.unlisted.stages import HYPOTHESES, STAGES, find_row

TRAINER = "etrm/training/trainer.py"
PLACES = [
    (TRAINER, "Trainer.advance", "self.step", "factor = schedule(self.step, train)", ("schedule",)),
    (TRAINER, "Trainer.advance", "self.model", "self.ema.update(self.model)", ("average",)),
    (TRAINER, "Trainer.advance", "factor", 'setting = {"lr_factor": factor}', None),
    (
        "etrm/model/variant.py",
        "Variant.forward",
        "given.context",
        "carry, output = self.step(carry, batch, given.context, minimum)",
        ("context", "carry"),
    ),
    ("etrm/model/act.py", "Carry.begin", "self.steps", "self.steps = steps", ("halting", "carry")),
    ("etrm/training/loss.py", "act_loss", "count", "divisor = count.clamp(min=1)", ("loss",)),
    ("etrm/data/episodes.py", "Episodes.sample", "index", "rng = _stream(_EPISODE, index)", None),
    ("etrm/data/tokens.py", "read_grid", "areas", "best = int(np.argmax(areas))", ("votes",)),
    ("etrm/reference/training/objective.py", "row_losses", "count", "count", None),
]


@pytest.mark.parametrize(("path", "function", "expression", "statement", "stages"), PLACES)
def test_the_first_row_that_fits_decides(
    path: str, function: str, expression: str, statement: str, stages: tuple[str, ...] | None
) -> None:
    row = find_row(path, function, expression, statement)
    assert (row.stages if row else None) == stages


def test_stages_are_named_by_hypotheses() -> None:
    assert {id for ids in HYPOTHESES.values() for id in ids} <= all_hypotheses().keys()
    assert {stage for row in STAGES for stage in row.stages} <= HYPOTHESES.keys()
