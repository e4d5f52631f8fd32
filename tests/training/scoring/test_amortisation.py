from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from etrm.config import Config, with_settings
from etrm.data import load_tasks
from etrm.model.construct import build_variant
from etrm.training.scoring.amortisation import (
    AmortisationGap,
    GapFinding,
    TaskAnswers,
    keep_first,
    measure_gap,
)
from etrm.training.task_sets import load_training_tasks

Smoke = Callable[..., Config]


def gap_of(**counts: int) -> AmortisationGap:
    """Tasks by pattern of the four ways, such as ``p0110=20``."""
    return AmortisationGap.from_counts({f"gap_{name[1:]}": float(n) for name, n in counts.items()})


@pytest.mark.parametrize(
    ("gap", "findings"),
    [
        (gap_of(p0000=100, p1110=10, p0110=50), (GapFinding.ENCODER_LIMITS, GapFinding.START_DOES_NOT_HELP)),
        (gap_of(p0000=100, p0100=50), (GapFinding.ENCODER_LIMITS,)),
        (gap_of(p0000=100, p1110=80, p0010=3, p1000=2), (GapFinding.NO_GAP,)),
        (gap_of(p0010=5), (GapFinding.NO_GAP,)),  # 5 of 5 has the lower end .478
        (gap_of(p0010=6), (GapFinding.ENCODER_LIMITS, GapFinding.START_DOES_NOT_HELP)),  # .541
        (gap_of(p0111=60, p0000=20), (GapFinding.CONTROL_SOLVES,)),
        (AmortisationGap(()), (GapFinding.NO_GAP,)),
    ],
)
def test_findings_are_those_of_the_exact_sign_test(
    gap: AmortisationGap, findings: tuple[GapFinding, ...]
) -> None:
    assert gap.findings == findings


def test_counts_hold_everything_but_the_ids() -> None:
    tasks = (TaskAnswers("a", True, False, True, False), TaskAnswers("b", False, False, True, False))
    gap = AmortisationGap((*tasks, tasks[1]))
    assert gap.to_counts() == {"gap_1010": 1.0, "gap_0010": 2.0}
    again = AmortisationGap.from_counts(gap.to_counts() | {"loss_end": 3.0})
    assert again.to_counts() == gap.to_counts()
    assert (again.count("encoder"), again.count("from_noise"), again.count("control")) == (1, 3, 0)


def test_each_way_is_measured_and_the_weights_stay(smoke: Smoke) -> None:
    config = with_settings(
        smoke("model.hidden_size=16", "model.halt.max_steps=1"),
        evaluate={"search": {"steps": 2, "restarts": 4, "hold_out": True}},
    )
    torch.manual_seed(0)
    model = build_variant(config.model).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = keep_first(load_tasks(config.evaluate.source, "evaluation"), 2)
    gap = measure_gap(model, config, asked, load_training_tasks(config))
    assert [task.task_id for task in gap.tasks] == [task.id for task in asked]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_finding_has_words() -> None:
    assert len({finding.words for finding in GapFinding}) == len(GapFinding)
