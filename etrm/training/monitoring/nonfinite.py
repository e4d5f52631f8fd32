"""A step whose loss, gradients or weights are not finite is detected, replayed, and kept for inspection.

The step is abandoned before anything is updated, so the state before it is intact. It is written next to
the checkpoints, where no retention deletes it::

    nonfinite/step_N/
        report.json          what was not finite, and where the first such number was made
        samples.json         the samples of the batch, by row; `Episodes.rebuild(serial)` draws one again
        batch.safetensors    the batch as the model saw it
        step_M/              the state before the step, as a checkpoint; M = N - 1

An update that makes a weight infinite cannot be undone, and neither can one that was made before the numbers
of its step were read (``train.log_every``). Then there is no ``step_M``, and the newest checkpoint is the last
good state. Of several processes, the leader keeps the rows of all.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diagnostics import Origin, first_nonfinite
from etrm.atomic_files import write_atomically
from etrm.batch import Batch, Demos
from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved, name_of
from etrm.data import Sample, collate
from etrm.device import to_host
from etrm.errors import EtrmError, NonFiniteError
from etrm.training.execution.compiling import uncompiled
from etrm.training.train_state import Moment, TrainState

FOLDER = "nonfinite"


@dataclass(frozen=True)
class Replay:
    """The same step once more, with hooks.

    Attributes:
        failed: whether it failed again; if not, the machine does not compute deterministically.
        origin: the first number that is not finite, None if there is none.
        rows: the rows of the batch whose outputs are not finite.
    """

    failed: bool
    origin: Origin | None
    rows: list[int]


@dataclass(frozen=True)
class Report:
    """What is known of a step that was not finite: the contents of ``report.json``.

    Attributes:
        step: the optimiser step, counted from 1.
        code: the code of the error, which `etrm explain CODE` explains.
        what, got: the value that was not finite, by its name and content.
        replay: the replay of the step; None after an update, which makes a replay impossible.
        weights: the names of the parameters that are not finite now.
        state_before: the checkpoint of the state before the step, in this folder; None if it is lost.
        newest_checkpoint: the newest checkpoint of the run; None if there is none.
    """

    step: int
    code: str
    what: str
    got: str
    replay: Replay | None
    weights: list[str]
    state_before: str | None
    newest_checkpoint: str | None


class _LostStateError(NonFiniteError):
    """An update used or made numbers that are not finite: the state before it is lost."""


# -- finding it ---------------------------------------------------------------------------------------


def check_losses(losses: Sequence[tuple[int, float]], now: int) -> None:
    """Raise NonFiniteError if the loss of a step is not finite; steps before ``now`` were already applied."""
    for step, loss in losses:
        if not math.isfinite(loss):
            error = NonFiniteError(
                "train.nonfinite-loss", f"the loss of step {step} is not finite", got=str(loss)
            )
            raise error if step == now else _LostStateError(error.code, error.what, got=error.got)


def check_gradients(model: nn.Module, norm: float | None, step: int) -> None:
    """Raise NonFiniteError if a gradient, or the known norm of the dense ones, is not finite."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    unknown = [g.coalesce().values() if g.is_sparse else g for g in gradients if norm is None or g.is_sparse]
    if not (math.isfinite(norm or 0.0) and _all_finite(unknown)):
        got = "a gradient that is NaN or infinite" if norm is None else f"a norm of {norm} before clipping"
        raise NonFiniteError(
            "train.nonfinite-gradient", f"the gradient of step {step} is not finite", got=got
        )


def check_weights(model: nn.Module, step: int) -> None:
    """Raise NonFiniteError if a parameter is not finite after an update."""
    if not _all_finite([p.detach() for p in model.parameters()]):
        names = _bad_weights(model)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise _LostStateError(
            "train.nonfinite-weights",
            f"the update of step {step} made weights that are not finite",
            got=f"{len(names)} parameters: {shown}",
        )


def _all_finite(tensors: list[Tensor]) -> bool:
    if not tensors:
        return True
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
    # The norm of large finite numbers may overflow, so check every number then.
    return bool(torch.isfinite(norms).all()) or all(bool(torch.isfinite(t).all()) for t in tensors)


def _bad_weights(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]


# -- explaining and keeping it ------------------------------------------------------------------------


@contextmanager
def explain_nonfinite(state: TrainState, step: Callable[[], object]) -> Iterator[None]:
    """A context around one step: if it is not finite, replay and keep it, and raise an error that names the module.

    Args:
        state: the state of the run.
        step: a function that does the next step of the run.

    Raises:
        NonFiniteError: the step's error, with the first module that was not finite and the folder of the batch.
    """
    before = state.moment()
    try:
        yield
    except NonFiniteError as error:
        raise _explain(state, step, before, error) from error


def _explain(
    state: TrainState, step: Callable[[], object], before: Moment, error: NonFiniteError
) -> NonFiniteError:
    world, carry = state.world, state.carries[state.bucket]
    samples = [sample for part in world.gather(state.slots[state.bucket].samples) for sample in part]
    begun = world.gather_rows(carry.steps.masked_fill(carry.halted, 0)).tolist()
    replay, kept = None, None
    if not isinstance(error, _LostStateError):
        state.rewind(before)
        kept = copy.deepcopy(state.capture())
        replay = _replay(state, step)
    folder = state.folder
    newest = list_saved(folder.checkpoints)[-1:] if folder else []
    report = Report(
        step=state.step + 1,
        code=error.code,
        what=error.what,
        got=error.got,
        replay=replay,
        weights=_bad_weights(state.model),
        state_before=None if kept is None else name_of(kept.step),
        newest_checkpoint=newest[0].name if newest else None,
    )
    steps = ["--resume repeats the same steps: begin a run with a lower train.lr, or with train.clip_norm"]
    if folder is not None:
        path = folder.path / FOLDER / name_of(report.step)
        try:
            _keep(path, report, _rows(samples, begun), collate(samples), kept)
            steps.insert(0, f"read {path / 'report.json'}")
        except (OSError, EtrmError) as problem:
            steps.insert(0, f"the batch could not be kept in {path} ({problem})")
    if report.newest_checkpoint:
        steps.append(f"the newest checkpoint is {report.newest_checkpoint}")
    return NonFiniteError(error.code, error.what, got=_told(report, samples), next_step="; ".join(steps))


def _replay(state: TrainState, step: Callable[[], object]) -> Replay:
    rows: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], returned: Any) -> None:
        output = returned[1]
        bad = ~(torch.isfinite(output.logits).flatten(1).all(1) & torch.isfinite(output.q_halt))
        first = state.rows.start + (state.part.start or 0)
        rows.extend(first + row for row in bad.nonzero().flatten().tolist())

    handle = state.model.register_forward_hook(note)
    try:
        with uncompiled(state.config.train), first_nonfinite(state.model) as found:
            step()
        failed = False
    except NonFiniteError:
        failed = True
    finally:
        handle.remove()
    seen = state.world.gather((found.origin, rows))
    origins = [origin for origin, _ in seen if origin is not None]
    return Replay(failed, origins[0] if origins else None, [row for _, part in seen for row in part])


def _told(report: Report, samples: Sequence[Sample]) -> str:
    replay = report.replay
    if replay is None:
        return report.got
    if replay.origin is None:
        return f"{report.got}; " + (
            "every module is finite" if replay.failed else "not when the step was repeated"
        )
    told = f"{report.got}; first in {replay.origin}"
    if 0 < len(replay.rows) < len(samples):
        tasks = dict.fromkeys(samples[row].task_id for row in replay.rows)
        told += f"; in the rows {replay.rows} of {len(samples)}, tasks {', '.join(tasks)}"
    return told


def _rows(samples: Sequence[Sample], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Describe what each row worked on; ``act_steps`` counts its earlier ACT steps, 0 for a row that just began."""
    names = ("task_id", "name", "query", "serial", "puzzle_id", "translated")
    return [
        {"row": row, "act_steps": done} | {name: getattr(sample, name) for name in names}
        for row, (sample, done) in enumerate(zip(samples, steps, strict=True))
    ]


def _keep(
    path: Path,
    report: Report,
    rows: list[dict[str, Any]],
    batch: Batch,
    before: checkpoints.Checkpoint | None,
) -> None:
    """Write the whole folder, replacing one of an earlier process that failed at the same step."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed here
    try:
        temporary.mkdir(parents=True)
        if before is not None:
            checkpoints.save(temporary, before, keep=1)
        save_file(_tensors(batch), temporary / "batch.safetensors")
        write_atomically(temporary / "samples.json", json.dumps(rows, indent=1) + "\n")
        write_atomically(temporary / "report.json", json.dumps(asdict(report), indent=1) + "\n")
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tensors(value: Batch | Demos, prefix: str = "") -> dict[str, Tensor]:
    """Return every tensor of a batch by the name of its field, those of the demos under ``demos.``."""
    found: dict[str, Tensor] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Demos):
            found |= _tensors(item, f"{prefix}{field.name}.")
        elif isinstance(item, Tensor):
            found[prefix + field.name] = to_host(item).contiguous()
    return found
