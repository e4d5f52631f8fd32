"""Run as a program, in one process or several: trains in a folder, and dies without a word after a step.

python dying_script.py FOLDER OVERRIDES STEP    where OVERRIDES is a JSON list; a run that is there is resumed
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from etrm.config import load
from etrm.training.trainer import Trainer, train


def main() -> None:
    folder, settings, last = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)

    def die(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == last:
            os._exit(0)

    train(
        load("smoke", overrides=tuple(settings)), folder, resume=(folder / "run.json").exists(), on_step=die
    )


if __name__ == "__main__":
    main()
