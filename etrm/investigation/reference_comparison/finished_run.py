"""A run folder against the steps that it compared while it trained, and against the run that resumes there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.run_folder import RunFolder, read_config, read_metrics
from etrm.config import Config, with_settings
from etrm.device import to_host
from etrm.investigation.reference_comparison.checkpoint_check import draws_noise
from etrm.reference.departure import Departure, PipelineStage, find_carry_stage
from etrm.reference.evaluation.probed_numbers import compare_probe
from etrm.reference.training.logged_numbers import GRADIENT_NORM
from etrm.reference.training.stages.checked_step import covers_model
from etrm.reference.training.stages.differences import LIMITS
from etrm.training.monitoring.step_check import StepCheck, read_compared
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS
from etrm.training.trainer import Trainer

TASKS = 4
"""Tasks of an evaluation by command."""
OTHERS = "best", "nonfinite", "reference.jsonl"
"""Files of a run folder that resuming does not read."""
REPORTED = "reported by the command"
Score: TypeAlias = tuple[float, float]
"""The share of solved tasks, and of right tokens."""
BEST_SCORE, LOWER_SCORE, LATER_SCORE = (0.5, 0.1), (0.2, 0.9), (0.9, 0.9)
"""As long in a file as the shortest score, 0.0. The last is that of steps after the checkpoint."""
REPEATED = "lm_loss", "q_halt_loss", "kl", "loss", GRADIENT_NORM
"""Logged numbers of the first step of a resumed run, which follow from its weights and rows."""
REPEATS = 1e-5
"""Their largest relative difference on a CPU, where a resumed run repeats the bits. Some kernels of a GPU sum in an
order of their own: there it is the limit of a gradient."""
RESUMED_STEPS = 2
"""Steps of a resumed run that are compared: its first one, and one after it."""
STAGES = {
    "ema": PipelineStage.AVERAGE,
    "optimizer": PipelineStage.UPDATE,
    "random": PipelineStage.HALTING,
}
"""By the first part of the name of a tensor of a checkpoint, but for those of a carry."""


def compare_log(path: Path) -> list[Departure]:
    """Compare the lines of the log with what the compared steps had to log.

    A line is written when numbers are read, which may be many steps later.
    """
    lines = {line["step"]: line for line in read_metrics(path)}
    found = []
    for compared in read_compared(path):
        line = lines.get(compared.step, {})
        wrong = [name for name, value in compared.logged.items() if line.get(name) != value]
        if wrong:
            where = f"{line.get(wrong[0])} is in the log instead of {compared.logged[wrong[0]]}"
            share = len(wrong) / len(compared.logged)
            found.append(
                Departure(
                    PipelineStage.SCORE, f"logged {wrong[0]}", share, 0.0, f"{where}, step {compared.step}"
                )
            )
    return found[:1]


# -- the run that resumes ---------------------------------------------------------------------------


def compare_resumed(path: Path) -> list[Departure]:
    """Resume a copy of a run folder as a command does, and compare the run with the checkpoint and the reference.

    Its state must be that of the checkpoint, and its best score that of the steps before. The steps that follow must be
    those of the reference, and the first of them must have the numbers that the run logged without a checkpoint. So it
    is resumed in the middle of the run, if there is a checkpoint.
    """
    config = read_config(path)
    saved = _choose_checkpoint(path, config.train.steps)
    held = checkpoints.read(saved)
    with TemporaryDirectory() as folder:
        copied = Path(folder) / "run"
        others = [one.name for one in saved.parent.glob("step_*") if one != saved]
        shutil.copytree(path, copied, ignore=shutil.ignore_patterns(*OTHERS, *others))
        best = _write_known_scores(copied / "metrics.jsonl", held.state["metrics_bytes"])
        opened = RunFolder(copied, config, resume=True)
        try:
            # Processes that draw samples ahead would only be started and ended; they change no sample.
            trainer = Trainer(with_settings(config, data={"workers": 0}, monitor={"probe_every": 1}), opened)
            trainer.resume()
            trainer.start_record(trains=True)
            left = [line["step"] for line in read_metrics(copied)]
            trainer.state.folder = None  # nothing is written to it any more
            noise = draws_noise(trainer.model)
            found = [*_compare_checkpoints(held, trainer.state.capture(), noise)]
            found += _compare_best(best, trainer.curve.best)
            found += _compare_lines(left, held.step)
            return found or _compare_next_steps(trainer, config, read_metrics(path))
        finally:
            opened.close()


def _choose_checkpoint(path: Path, steps: int) -> Path:
    """The newest checkpoint with steps before and after it; where there is none, the newest."""
    saved = sorted(path.glob("checkpoints/step_*"), key=find_step)
    return next((one for one in reversed(saved) if 0 < find_step(one) < steps), saved[-1])


def find_step(checkpoint: Path) -> int:
    """The step of a checkpoint folder, by its name; not as the code under test reads it."""
    return int(checkpoint.name.removeprefix("step_"))


def _compare_next_steps(
    trainer: Trainer, config: Config, logged: Sequence[Mapping[str, Any]]
) -> list[Departure]:
    """Compare the first steps of a resumed run with the reference and with the log of the run, if any are left.

    After the last of them, the numbers of the probe are compared too.
    """
    check, resumed = StepCheck(config), trainer.step
    taken = list[Mapping[str, Any]]()
    for _ in range(min(RESUMED_STEPS, config.train.steps - resumed)):
        with check.step(trainer):
            taken += trainer.advance()
    repeated = list[Departure]()
    limit = REPEATS if trainer.model.device.type == "cpu" else LIMITS[config.train.precision].gradient
    for line in (line for line in logged if taken and line["step"] == taken[0]["step"]):
        repeated += _compare_numbers(line, taken[0], limit, f"resumed at step {resumed}")
    if taken and config.monitor.enabled and config.model.has_encoder and covers_model(config):
        repeated += compare_probe(taken[-1], trainer.model.state_dict(), check.config, check.rows.tasks)
    return repeated + [
        replace(one, step=None, where=f"{one.where} resumed at step {resumed}".lstrip())
        for compared in check.compared
        for one in compared.departures
    ]


def _compare_checkpoints(held: Checkpoint, found: Checkpoint, noise: bool) -> Iterator[Departure]:
    """What a resumed run is, against the checkpoint; without noise the generator of torch draws nothing."""
    where = f"resumed from the checkpoint of step {held.step}"
    if found.step != held.step:
        yield Departure(PipelineStage.SCHEDULE, "step", 1.0, 0.0, where)
    for name in held.model:
        if not _equal(held.model[name], found.model.get(name)):
            yield Departure(PipelineStage.UPDATE, name, 1.0, 0.0, where)
    for name in sorted(held.tensors.keys() | found.tensors.keys()):
        if not _equal(held.tensors.get(name), found.tensors.get(name)) and (noise or name != "random.torch"):
            yield Departure(_find_stage(name), name, 1.0, 0.0, where)
    if found.state["slots"] != held.state["slots"]:
        yield Departure(PipelineStage.DATA, "rows", 1.0, 0.0, where)
    if found.state["ema_updates"] != held.state["ema_updates"]:
        yield Departure(PipelineStage.AVERAGE, "updates of the average", 1.0, 0.0, where)


def _find_stage(name: str) -> PipelineStage:
    kind, _, rest = name.partition(".")
    return STAGES[kind] if kind in STAGES else find_carry_stage(rest.partition(".")[2])  # behind the bucket


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(to_host(one), to_host(other))


def _write_known_scores(file: Path, size: int) -> Score | None:
    """Replace the logged scores by known ones, and return the best one of the steps up to a checkpoint.

    It is neither the first nor the last of three. Every line keeps its length, because a checkpoint says how many bytes
    belong to it.

    Args:
        file: the logged steps.
        size: the number of bytes of the steps up to the checkpoint.
    """
    lines = file.read_text("utf-8").splitlines()
    scored = [place for place, line in enumerate(lines) if SOLVED in json.loads(line)]
    ends = [*accumulate(len(f"{line}\n".encode()) for line in lines)]
    before = [place for place in scored if ends[place] <= size]
    for place in scored:
        known = LATER_SCORE if place not in before else LOWER_SCORE
        if before and place == before[(len(before) - 1) // 2]:
            known = BEST_SCORE
        line = json.dumps(json.loads(lines[place]) | dict(zip((SOLVED, TOKENS), known, strict=True)))
        lines[place] = line.ljust(len(lines[place]))
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return BEST_SCORE if before else None


def _compare_best(wanted: Score | None, best: Score | None) -> list[Departure]:
    """The score that later ones must exceed is the best one that the run logged."""
    if best == wanted:
        return []
    return [Departure(PipelineStage.WEIGHTS, "best score", 1.0, 0.0, f"{best} is resumed with, not {wanted}")]


def _compare_lines(left: Sequence[int], step: int) -> list[Departure]:
    """The log of a resumed run has the steps up to the checkpoint, since it logs the others again."""
    if left == [*range(1, step + 1)]:
        return []
    where = f"{len(left)} lines up to step {left[-1] if left else 0}, resumed at step {step}"
    return [Departure(PipelineStage.SCORE, "lines of the log", 1.0, 0.0, where)]


def _compare_numbers(
    logged: Mapping[str, Any], repeated: Mapping[str, Any], limit: float, where: str
) -> Iterator[Departure]:
    """The numbers of a step that a run logged and that it has again from its checkpoint."""
    for name in REPEATED:
        one, other = logged.get(name), repeated.get(name)
        if one is None and other is None:
            continue
        size = math.inf if one is None or other is None else abs(one - other) / max(abs(one), 1e-12)
        if not size <= limit:
            yield Departure(PipelineStage.WEIGHTS, f"logged {name} from the checkpoint", size, limit, where)
            return
