"""bfloat16: what is computed in it, and what keeps its precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from etrm.config import Config
from etrm.model.forward_context import products_in
from etrm.model.layers import Linear
from etrm.training import loss as losses
from etrm.training.execution import precision
from etrm.training.trainer import Trainer


@pytest.mark.filterwarnings("ignore:train.precision bfloat16 is little faster")
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
    for kind in ("float32", "bfloat16"):
        seen.clear()
        monkeypatch.setitem(losses.LOG_PROBABILITIES, "stablemax", noted_log_p)
        trainer = Trainer(smoke("monitor.enabled=false", f"train.precision={kind}"))
        trainer.model.get_submodule("core.L_level.layers.0.mlp.down_proj").register_forward_hook(
            lambda module, args, output: note("product", output)
        )
        found[kind] = [trainer.train_step() for _ in range(4)]
        for carry in trainer.carries.values():
            note("state", carry.z_H)
        assert seen == {
            "product": {torch.bfloat16 if kind == "bfloat16" else torch.float32},
            "log_stablemax": {torch.float64},
            "state": {torch.float32},
        }
        held = (*trainer.model.parameters(), *trainer.ema.average().values())
        assert {value.dtype for value in held} == {torch.float32}
        monkeypatch.undo()
    for plain, low in zip(found["float32"], found["bfloat16"], strict=True):
        assert low["loss"] == pytest.approx(plain["loss"], rel=0.01)
        assert low["loss"] != plain["loss"]


class _Casts(TorchDispatchMode):
    """Counts the casts of each tensor to bfloat16, by the place of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.found[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:train.precision bfloat16 is little faster")
def test_a_weight_is_cast_once_per_step_and_the_loss_is_that_of_autocast(
    smoke: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("monitor.enabled=false", "train.precision=bfloat16", "model.H_cycles=3", "model.L_cycles=2")
    trainer = Trainer(smoke(*settings))
    products = [module for module in trainer.model.modules() if isinstance(module, Linear)]
    with _Casts() as casts:
        once = trainer.train_step()
    uses = {casts.found[module.weight.data_ptr()] for module in products if not module.full_precision}
    assert uses == {1}
    monkeypatch.setattr(precision, "products_in", lambda dtype: nullcontext())
    plain = Trainer(smoke(*settings))
    every = plain.train_step()
    assert once["lm_loss"] == every["lm_loss"]
    assert once["grad_norm_before_clip"] == pytest.approx(every["grad_norm_before_clip"], rel=0.02)


class _Attention(TorchDispatchMode):
    """Notes the dtypes in which attention is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "scaled_dot_product" in str(func):
            self.found |= {value.dtype for value in args[:3]}
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:train.precision bfloat16 is little faster")
def test_attention_on_a_cpu_is_in_float32_whatever_the_precision_of_products(
    smoke: Callable[..., Config],
) -> None:
    trainer = Trainer(smoke("monitor.enabled=false", "train.precision=bfloat16", "train.device=cpu"))
    with _Attention() as attention:
        trainer.train_step()
    assert attention.found == {torch.float32}


def test_a_weight_that_is_first_used_without_gradient_has_one_later() -> None:
    layer, x = Linear(4, 4), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16), products_in(torch.bfloat16):
        with torch.no_grad():
            layer(x)
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.ones(4, 4))
    assert layer(x).dtype is torch.float32  # outside of it


def test_bfloat16_on_a_cpu_is_warned_of(smoke: Callable[..., Config]) -> None:
    with pytest.warns(UserWarning, match="little faster on a CPU"):
        Trainer(smoke("train.precision=bfloat16", "train.device=cpu"))
