"""Run as a program, in several processes: from step 3 on one of them computes what is not finite.

python spoiling_script.py FOLDER OVERRIDES RANK WHAT    where WHAT is forward or backward

Each process leaves its weights, as they are when the error has come, in FOLDER-RANK.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etrm.config import load
from etrm.errors import EtrmError
from etrm.training.trainer import Trainer, train

NAN = float("nan")


class NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * NAN


def main() -> None:
    folder, settings, rank, what = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    seen: list[Trainer] = []

    def spoil(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] != 2:
            return
        seen.append(trainer)
        if trainer.world.rank == rank:
            head = trainer.model.core.lm_head
            plain = head.forward
            spoiled = NanBackward.apply if what == "backward" else lambda x: x * NAN
            head.forward = lambda x: spoiled(plain(x))

    try:
        train(load("smoke", overrides=tuple(settings)), folder, on_step=spoil)
    except EtrmError as error:
        torch.save(seen[0].model.state_dict(), f"{folder}-{seen[0].world.rank}.pt")
        sys.stderr.write(f"{error}\n{error.code}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
