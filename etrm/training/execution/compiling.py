"""Compiles the networks that take nearly all the time of a step (`train.compile`).

Compiled are the core's network, which its cycles apply again and again, and the blocks of the encoder: small
enough to be compiled in seconds, where all cycles of a core would take minutes, and what watches the core or
the encoder from outside (hooks) runs as it always does. Names of weights do not change.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from etrm.config import Config, TrainConfig
from etrm.errors import ConfigError
from etrm.model.core import ReasoningModule
from etrm.model.layers import Block
from etrm.model.variant import Variant
from etrm.training.execution.cuda_graphs import watched

MOST_SHAPES = 256
"""Shapes of one network that are compiled at most; torch runs more of them uncompiled. The largest run has under 60."""

LEAST_STEPS = 5_000
"""Steps of a run that is compiled by default. Compilation takes about a minute, and each step is then 60 ms shorter at
paper size (docs/results/gpu.md), so that 1,000 steps regain it. The rest is for slower compilers."""
LEAST_WIDTH = 512
"""Width of a model that is compiled by default: that at which compilation was measured to pay."""


def choose_compilation(config: Config, device: torch.device) -> bool:
    """Whether the networks of a run are compiled: what ``train.compile`` says, or with auto whether it pays."""
    train = config.train
    if train.compile != "auto":
        return train.compile
    return (
        device.type == "cuda"
        and train.precision == "bfloat16"
        and train.steps >= LEAST_STEPS
        and config.model.hidden_size >= LEAST_WIDTH
        and config.model.variant != "symbolic"
        and not train.cuda_graphs
        and _find_missing(device) is None
    )


def compile_networks(model: Variant, device: torch.device, dynamic: bool = True) -> None:
    """Compile the networks in place, at their first call.

    Args:
        model: the model.
        device: its device.
        dynamic: whether one graph serves all numbers of rows and tokens, instead of one graph for each.

    Raises:
        ConfigError: there is no compiler for the device.
    """
    _check_compiler(device)
    networks: list[torch.nn.Module] = [
        module for module in model.core.modules() if isinstance(module, ReasoningModule)
    ]
    if model.encoder is not None:
        networks += [module for module in model.encoder.modules() if isinstance(module, Block)]
    # By default torch takes lengths that are equal in the first call for equal in all, such as 128 rows of 128 tokens.
    torch.fx.experimental._config.use_duck_shape = False
    if not dynamic:
        compiler = torch._dynamo.config
        compiler.recompile_limit = max(compiler.recompile_limit, MOST_SHAPES)
        compiler.accumulated_recompile_limit = max(compiler.accumulated_recompile_limit, 4 * MOST_SHAPES)
    for network in networks:
        network.compile(dynamic=dynamic)


@contextmanager
def uncompiled(train: TrainConfig) -> Iterator[None]:
    """A context in which networks run uncompiled, because a compiled one does not call the hooks of its modules."""
    # Used only if compiled, because it imports the whole compiler.
    with watched(), torch.compiler.set_stance("force_eager") if train.compile else nullcontext():
        yield


def _check_compiler(device: torch.device) -> None:
    missing = _find_missing(device)
    if missing:
        remedy = (
            "install one, or name yours in the environment variable CXX"
            if device.type == "cpu"
            else "install triton"
        )
        raise ConfigError(
            "train.no-compiler",
            f"train.compile needs a compiler for device {device.type}",
            got=missing,
            next_step=f"{remedy}, or train.compile=false",
        )


def _find_missing(device: torch.device) -> str | None:
    """Return what compilation for a device lacks, or None."""
    if device.type == "cpu":
        name = os.environ.get("CXX", "g++")
        return None if shutil.which(name) else f"no C++ compiler ({name})"
    return None if importlib.util.find_spec("triton") else "no triton"
