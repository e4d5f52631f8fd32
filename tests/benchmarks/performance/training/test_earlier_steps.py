from __future__ import annotations

import torch

from benchmarks.performance.training.earlier_steps import OperationCounter, restrict


def test_settings_that_the_code_does_not_have_are_left_out_and_its_others_stay() -> None:
    wanted = {"train": {"steps": 3, "new": True}, "other": {"x": 1}}
    known = {"train": {"steps": 9, "lr": 0.1}, "data": {"side": 30}}
    assert restrict(wanted, known) == {"train": {"steps": 3, "lr": 0.1}, "data": {"side": 30}}


def test_a_setting_that_could_not_be_auto_stays_as_it_was() -> None:
    wanted = {"compile": "auto", "device": "auto", "threads": 2}
    known = {"compile": False, "device": "cpu", "threads": None}
    assert restrict(wanted, known) == {"compile": False, "device": "auto", "threads": 2}


def test_operations_of_both_passes_are_counted_and_views_are_not() -> None:
    x, weight, slope = torch.ones(2, 3), torch.ones(3, 4, requires_grad=True), torch.ones(2, 4)
    with OperationCounter() as counter:
        product = x @ weight.view(3, 4)
    assert counter.count == 1
    with OperationCounter() as counter:
        product.backward(slope)
    assert counter.count == 1  # the product with the transposed x, which is a view
