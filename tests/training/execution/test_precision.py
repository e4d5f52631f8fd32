"""bfloat16: what is computed in it, and what keeps its precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.config import Config
from etrm.training import loss as losses
from etrm.training.trainer import Trainer


@pytest.mark.filterwarnings("ignore:train.precision bfloat16 is rarely faster")
def test_bfloat16_is_for_matrix_products_alone(
    smoke: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str, value: Tensor) -> Tensor:
        seen.setdefault(name, set()).add(value.dtype)
        return value

    def noted_log_p(x: Tensor, plain: Any = losses.log_stablemax) -> Tensor:
        return note("log_stablemax", plain(x))

    found = {}
    for precision in ("float32", "bfloat16"):
        seen.clear()
        monkeypatch.setitem(losses.LOG_PROBABILITIES, "stablemax", noted_log_p)
        trainer = Trainer(smoke("monitor.enabled=false", f"train.precision={precision}"))
        trainer.model.get_submodule("core.L_level.layers.0.mlp.down_proj").register_forward_hook(
            lambda module, args, output: note("product", output)
        )
        found[precision] = [trainer.train_step() for _ in range(4)]
        for carry in trainer.carries.values():
            note("state", carry.z_H)
        assert seen == {
            "product": {torch.bfloat16 if precision == "bfloat16" else torch.float32},
            "log_stablemax": {torch.float64},
            "state": {torch.float32},
        }
        held = (*trainer.model.parameters(), *trainer.ema.average().values())
        assert {value.dtype for value in held} == {torch.float32}
        monkeypatch.undo()
    for plain, low in zip(found["float32"], found["bfloat16"], strict=True):
        assert low["loss"] == pytest.approx(plain["loss"], rel=0.01)
        assert low["loss"] != plain["loss"]


def test_bfloat16_on_a_cpu_is_warned_of(smoke: Callable[..., Config]) -> None:
    with pytest.warns(UserWarning, match="rarely faster on a CPU"):
        Trainer(smoke("train.precision=bfloat16", "train.device=cpu"))
