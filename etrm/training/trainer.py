"""Training: one ACT step, one backward, one optimiser step, on a carry that persists.

The loop reads like the recipe:

    refill the rows that halted -> encode, refine once -> loss of the carry's own labels
    -> backward -> clip -> update -> average -> log

Each size bucket has its own rows and carry; the schedule chooses the bucket of a step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics import to_json
from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import RunFolder, describe_environment
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config, TrainConfig, with_settings
from etrm.data import open_episodes
from etrm.device import pick_device, to_device
from etrm.errors import ExtensionError, TrainingError
from etrm.extensions import explained
from etrm.hardware import compute
from etrm.model.act import Carry
from etrm.model.forward_context import Shapes, recomputing, rounded_to
from etrm.training import named_code
from etrm.training.ema import Ema
from etrm.training.execution.compiling import choose_compilation, compile_networks
from etrm.training.execution.cuda_graphs import CudaGraphs, watched
from etrm.training.execution.distributed import ALONE, World, join_processes
from etrm.training.execution.memory import explain_shortage, explain_shortage_at_start
from etrm.training.execution.precision import autocast, check_precision
from etrm.training.execution.prefetch import Prefetch
from etrm.training.execution.stop_request import StopRequest
from etrm.training.faults import build_loader, build_recipe
from etrm.training.freeze_schedule import Stage
from etrm.training.inner_steps import InnerSteps
from etrm.training.loss import act_loss
from etrm.training.metric_log import Landing, LoggedStep
from etrm.training.metrics import sum_step
from etrm.training.micro_batches import MicroBatch, build_micro_batches, count_positions, split
from etrm.training.monitoring import nonfinite
from etrm.training.monitoring.observer import Observer
from etrm.training.monitoring.step_check import REFERENCE, StepCheck, read_compared
from etrm.training.optim import schedule, set_rates
from etrm.training.scoring.held_out_curve import HeldOutCurve, HeldOutScore
from etrm.training.slots import Slots
from etrm.training.step_times import StepTimes
from etrm.training.train_state import TrainState

_log = logging.getLogger(__name__)
OnStep = Callable[["Trainer", dict[str, Any]], None]


class Trainer:
    """A run in memory; with a folder, also on disk.

    Args:
        config: the requested settings; faults of the recipe may change them (:attr:`config`).
        folder: the run folder, or None for a run that writes nothing; of several processes only the
            leader has one.
        world: the processes of the run.

    Raises:
        EtrmError: the config, the data, the decoder checkpoint or the folder cannot be used, or there is not enough
            memory.
    """

    @explain_shortage_at_start()
    def __init__(self, config: Config, folder: RunFolder | None = None, world: World = ALONE) -> None:
        self.world = world
        self.recipe = build_recipe(config)
        self.config = self.recipe.configure(config)
        self._requested = config
        self.folder = folder
        self.device = pick_device(self.config.train.device)
        compiled = choose_compilation(self.config, self.device)
        self.config = with_settings(self.config, train={"compile": compiled})
        train = self.config.train
        if train.threads is not None:
            torch.set_num_threads(train.threads)
        check_precision(train.precision, self.device)
        self.tasks = self.recipe.tasks(self.config)
        self.episodes = open_episodes(self.tasks, self.config.data, self.config.model.variant, train.seed)

        torch.manual_seed(train.seed)
        self.model = self.recipe.build_model(self.config, self.episodes)
        resumes = folder is not None and bool(list_saved(folder.checkpoints))
        if not world.any(resumes):  # a checkpoint has the weights, and the decoder's own file may be gone
            self.recipe.load_decoder(self.model, self.config)
        to_device(self.model, self.device).train()
        self.inner = InnerSteps(self.model, train) if train.inner_steps else None
        self.curve = HeldOutCurve(self.config, self.recipe, self.model, self.tasks, world.leader)
        if train.compile:
            # Kernels in a graph are chosen once, so there one graph of the compiler for all shapes costs nothing.
            dynamic = train.cuda_graphs or not train.static_shapes
            compile_networks(self.model, self.device, dynamic)
        self.graphs = CudaGraphs(train, self.device) if train.cuda_graphs else None
        self._shapes = self._choose_shapes(train)
        self.optimizers = self.recipe.build_optimizers(self.model, train)
        self.ema = Ema(self.model, train.ema_decay)
        self.halting = torch.Generator().manual_seed(train.seed)

        self.mine = world.share(train.batch_size)
        self._slices = split(self.mine, train.accumulate)
        self.prefetch: Prefetch | None = None
        if self.config.data.workers:
            depth = 2 * train.batch_size  # a step takes at most one batch
            self.prefetch = Prefetch(self.config, self.episodes, build_loader, depth)
        draw = self.prefetch or self.recipe.draw
        self.slots = {
            bucket: Slots(self.episodes, bucket, train.batch_size, draw, self.mine)
            for bucket in range(self.episodes.buckets)
        }
        self.state = TrainState(
            self.config,
            self.device,
            world,
            folder,
            self.episodes,
            self.model,
            self.optimizers,
            self.ema,
            self.halting,
            self.slots,
        )
        self.carries = self.state.carries
        for bucket in self.slots:
            self.state.set_carry(bucket, self.model.initial_carry(len(self.mine)))
        self.stage = Stage(self.model, train, self.recipe.freeze, folder.path if folder else None)
        self.observer = Observer(self.state)
        self.check = StepCheck(config)
        self.times = StepTimes()
        self._stop = StopRequest()
        self._recorded = world.any(folder is not None)
        self._metrics_bytes = 0
        self._saved_step = -1

    def _choose_shapes(self, train: TrainConfig) -> Shapes:
        if train.static_shapes:
            return Shapes.ONE_GROUP if self.graphs else Shapes.FEW
        return Shapes.ALIGNED if train.compile else Shapes.ALL

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.state.step

    def stop(self) -> None:
        """End :meth:`run` after the next step whose numbers are read, this one or one more, as a signal does."""
        self._stop.made = True

    # -- one step ---------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        """Do one optimiser step and read its numbers.

        Returns:
            the step's metrics; ``step`` is the number of steps done.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, and nothing was updated; or the update made
                a weight that is not.
            TrainingError: nothing requires a gradient.
        """
        return self.advance()[-1]

    def advance(self, read: bool = True) -> list[dict[str, Any]]:
        """Do one optimiser step; the host waits for the device only if it reads the numbers.

        Returns:
            the metrics of all steps since the last reading, or an empty list without a reading.

        Raises:
            NonFiniteError: see :meth:`train_step`; it may be about an earlier step whose numbers were not read,
                and whose state is then lost.
            TrainingError: nothing requires a gradient.
        """
        train = self.config.train
        self.stage.enter(self.step)
        factor = schedule(self.step, train)
        set_rates(self.optimizers, factor)
        self.model.anneal(self.step / train.steps)
        bucket = self.state.bucket
        slots = self.slots[bucket]
        resets = self.world.gather_flags([flag for part in self.state.halted[bucket] for flag in part.read()])
        requested = time.perf_counter()
        slots.refill(resets)
        with rounded_to(self._shapes):
            parts = build_micro_batches(
                self.model, slots, self.carries[bucket], self._slices, self.world, self.halting
            )
            positions, padding = count_positions(self.model, slots, parts)
        self.times.add_loading(time.perf_counter() - requested, positions, padding)

        with self.observer.step(len(self.mine)), watched() if self.observer.due else nullcontext():
            carry, halted, sums = self._forward_and_backward(slots, parts, all(resets))
            self.world.reduce_gradients(self.model.parameters())
            self.observer.gradients_reduced()
            place = {
                "step": self.step + 1,
                "bucket": bucket,
                "rows": train.batch_size,
                "reset_share": sum(resets) / train.batch_size,
                **self.state.stage,
            }
            tokens = train.batch_size * parts[0].batch.inputs.shape[1]
            setting = {"lr_factor": factor, "frozen": self.stage.frozen, "tokens": tokens}
            entry = LoggedStep(self.step + 1, place, self.world.sum(sums), self._clip(), setting)
            self.state.journal.note(entry)
            if read:
                nonfinite.check_losses(self.state.journal.fetch(), self.step + 1)
                nonfinite.check_gradients(self.model, entry.norm_value, self.step + 1)
            self.recipe.update(self.optimizers, self.stage.frozen)
            if read:
                nonfinite.check_weights(self.model, self.step + 1)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)

        self.ema.update(self.model)
        self.carries[bucket], self.state.halted[bucket] = carry, halted
        self.state.step += 1
        entry.observed = self.observer.metrics()
        return self.state.journal.read() if read else []

    def _forward_and_backward(
        self, slots: Slots, parts: Sequence[MicroBatch], all_begin: bool
    ) -> tuple[Carry, list[Landing], Tensor]:
        """Compute the gradient of this process's rows.

        Returns:
            their next carry, the flags of its halted rows on their way to the host, and the logged sums.
        """
        train = self.config.train
        carries, halted, sums = [], [], []
        for part in parts:
            self.state.part = part.rows
            inner = self.inner.moving(slots.samples[part.rows]) if self.inner else nullcontext()
            shapes, kept = rounded_to(self._shapes), recomputing(train.recompute)
            replayed = self.graphs.replaying() if self.graphs else nullcontext()
            with autocast(train.precision, self.device), kept, shapes, inner, replayed:
                carry, output = self.model(part.carry, part.batch, part.minimum)
            halted.append(Landing(carry.halted))
            carries.append(carry)
            loss = act_loss(output, self.recipe.labels(slots, part), train.loss)
            total = self.recipe.weigh(loss.total(train), self.step)
            sums.append(sum_step(loss, total, output.q_halt, carry, self.config.model.halt.max_steps))
            if total.requires_grad:
                torch.autograd.backward(total / train.batch_size)
            # A cached context trains the encoder only through rows that begin. With a frozen decoder the other
            # steps have no gradient: this is the fault of the variant, and no error.
            elif all_begin:
                raise TrainingError(
                    "train.nothing-requires-gradient",
                    "nothing that the loss depends on requires a gradient",
                    next_step="look at train.freeze_decoder_steps, train.freeze_encoder_steps and the injected faults",
                )
        return Carry.join(carries), halted, torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]

    def _clip(self) -> Tensor | None:
        """Clip the gradient norm and return the norm before clipping; None without clipping."""
        limit = self.config.train.clip_norm
        if limit is None:
            return None
        dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
        # The norm of no gradient at all would lie on the host.
        return to_device(torch.nn.utils.clip_grad_norm_(dense, limit), self.device)

    # -- a whole run ------------------------------------------------------------------------------

    def run(self, on_step: OnStep | None = None) -> bool:
        """Train from the current step to the end, and keep the result.

        Returns:
            False if a signal stopped the run early; a checkpoint of that step is kept.
        """
        train = self.config.train
        ended = self.step >= train.steps  # a finished run that is resumed: what it recorded stays
        self.start_record(trains=not ended)
        if self.step == 0:
            self._save()
        with self._stop.on_signals(), closing(self.prefetch) if self.prefetch else nullcontext():
            self.times.restart()
            while self.step < train.steps:
                stops = self.world.any(self._stop.made)
                if stops and not self.state.journal.unread:
                    break
                with (
                    explain_shortage(train, len(self.mine)),
                    nonfinite.explain_nonfinite(self.state, self.train_step),
                    self._compared(),
                ):
                    # A step whose numbers were not read may not be finite: no checkpoint is made of it.
                    found = self.advance(read=stops or self._due(self.step + 1))
                if found:
                    timing = self.times.mean(len(found))
                    score = self.curve.score(self.state)
                    found[-1] |= score.metrics if score else {}
                    self._log(found, timing, on_step, score)
                    self.times.restart()
                if self.step % train.checkpoint_every == 0:
                    self._save()
            self.stage.close(self.step)
            self._save()
        if self.folder and not (ended and (self.folder.path / "findings.json").exists()):
            self.folder.write("findings.json", to_json(self.observer.findings()) + "\n")
        return self.step >= train.steps

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint of the folder; return False if there is none.

        Raises:
            CheckpointError: checkpoints exist but none is whole, or another version of etrm wrote it.
        """
        found = checkpoints.read_newest(self.folder.checkpoints) if self.folder else None
        path = self.world.tell(found and found[0])
        if path is None:
            return False
        checkpoint = found[1] if found else checkpoints.read(path)
        self.state.restore(checkpoint)
        self._metrics_bytes = checkpoint.state["metrics_bytes"]
        self._saved_step = checkpoint.step
        if self.folder:
            self.curve.recall(self.folder.path, self._metrics_bytes)
            self.check.compared = read_compared(self.folder.path, checkpoint.step)
            kept = "".join(f"{compared.to_json()}\n" for compared in self.check.compared)
            self.folder.write(REFERENCE, kept)  # less the steps that are taken again
            checkpoints.tidy(path, self.config.train.keep_checkpoints)
        return True

    def start_record(self, trains: bool) -> None:
        """Record what the run is made of and where it runs, and warn of what changed since an earlier part of it."""
        if not self.folder:
            return
        on = compute(self.config.train, self.device)
        record = describe_environment() | {
            "device": on.device,
            "precision": on.precision,
            "compiled": self.config.train.compile,
            "threads": on.threads,
            "processes": self.world.size,
            "seed": self.config.train.seed,
            "data_hash": self.tasks.hash,
            "queries": len(self.episodes.queries),
            "skipped_queries": len(self.episodes.skipped),
            "tasks": len(self.tasks),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }
        if self.config.data.curriculum:
            record["stage_tasks"] = list(self.episodes.stage_tasks)
        code = named_code.digests(self._requested)
        if code:
            record["code"] = code
        self.folder.keep_code(code)
        for change in self.folder.start(record, self._metrics_bytes, self.step, trains=trains):
            _log.warning(
                "%s changed at step %d: %s, was %s", change.name, change.step, change.now, change.before
            )

    @contextmanager
    def _compared(self) -> Iterator[None]:
        """Compare the one step that is taken inside with the reference, if it is due."""
        if not self.check.due(self.state):
            yield
            return
        before = len(self.check.compared)
        try:
            with self.check.step(self):
                yield
        finally:
            if self.folder:
                for compared in self.check.compared[before:]:
                    self.folder.append(REFERENCE, compared.to_json())

    def _due(self, step: int) -> bool:
        """Whether the numbers of this step are read; checkpoints are only made of such steps."""
        train = self.config.train
        if step % train.log_every == 0 or step % train.checkpoint_every == 0 or step == train.steps:
            return True
        return self.curve.due(step)

    def _log(
        self,
        found: Sequence[dict[str, Any]],
        timing: dict[str, float],
        on_step: OnStep | None,
        score: HeldOutScore | None = None,
    ) -> None:
        for metrics in found:
            if self.folder:
                evaluated = score.timing if score and metrics is found[-1] else {}
                self.folder.log(metrics, {"step": metrics["step"], **timing, **evaluated})
            if on_step:
                on_step(self, metrics)

    def _save(self) -> None:
        # Rewriting a checkpoint would leave a moment without it, which is fatal if it is the only one.
        if not self._recorded or self._saved_step == self.step:
            return
        captured = self.state.capture()
        if self.folder:
            checkpoints.save(self.folder.checkpoints, captured, self.config.train.keep_checkpoints)
        self._saved_step = self.step


def train(
    config: Config,
    path: Path,
    *,
    resume: bool = False,
    on_start: Callable[[Trainer], None] = lambda trainer: None,
    on_step: OnStep | None = None,
) -> bool:
    """Train a config in a folder, or resume it; with all processes that torchrun started.

    Returns:
        False if a signal stopped the run early.

    Raises:
        EtrmError: see :class:`Trainer`, :class:`RunFolder` and :func:`join_processes`.
    """
    with join_processes(config.train.device) as world, ExitStack() as held:
        folder = None
        if world.leader:
            folder = RunFolder(path, config, resume=resume)
            held.callback(folder.close)
        trainer = Trainer(config, folder, world)
        if resume:
            trainer.resume()
        on_start(trainer)
        try:
            return trainer.run(on_step)
        except Exception as error:
            users = isinstance(error, ExtensionError) or explained(error) is not None
            if users and folder and not resume and trainer.step == 0:
                folder.discard_start()  # the user's next try is the same command with other code
            raise
