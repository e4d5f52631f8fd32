"""The entropy of the template weights as the dominant term of the loss."""

from __future__ import annotations

import pytest

from etrm.config import Config, load, with_settings
from etrm.training.faults import apply_faults
from etrm.training.trainer import Trainer


def rules(*faults: str, selector: str = "fit") -> Config:
    return with_settings(
        load("symbolic-rules"),
        faults=faults,
        data={"max_tasks": 12, "max_side": 4},
        model={"symbolic": {"guards": 3, "selector": selector}},
        train={"batch_size": 8, "steps": 40, "warmup_steps": 4, "threads": 1},
        monitor={"enabled": False},
    )


def test_the_selector_collapses_onto_one_template_and_the_loss_does_not_fall() -> None:
    losses, ends = {}, {}
    for name, config in {"healthy": rules(selector="demos"), "fault": rules("entropy-collapse")}.items():
        trainer = Trainer(config)
        steps = [trainer.train_step() for _ in range(40)]
        losses[name] = steps[0]["lm_loss"], steps[-1]["lm_loss"]
        ends[name] = steps[-1]["entropy"]
    assert losses["healthy"][0] == losses["fault"][0]
    assert losses["healthy"][1] < 0.7 * losses["healthy"][0]
    assert losses["fault"][1] > losses["fault"][0]
    assert ends["fault"] < 0.01 < ends["healthy"]


@pytest.mark.parametrize(("selector", "used"), [("fit", "demos"), ("demos", "demos"), ("input", "input")])
def test_only_a_selector_that_cannot_collapse_is_replaced(selector: str, used: str) -> None:
    found = apply_faults(rules("entropy-collapse", selector=selector))
    assert found.model.symbolic.selector == used
    assert found.train.entropy_weight == 10
