from __future__ import annotations

from benchmarks.gpu.earlier_steps import restrict


def test_settings_that_the_code_does_not_have_are_left_out_and_its_others_stay() -> None:
    wanted = {"train": {"steps": 3, "new": True}, "other": {"x": 1}}
    known = {"train": {"steps": 9, "lr": 0.1}, "data": {"side": 30}}
    assert restrict(wanted, known) == {"train": {"steps": 3, "lr": 0.1}, "data": {"side": 30}}
