"""Training: one ACT step, one backward, one optimiser step, on a carry that persists.

The loop reads like the recipe:

    refill the rows that halted -> encode, refine once -> loss of the carry's own labels
    -> backward -> clip -> update -> average -> log

Each size bucket has its own rows and carry; the schedule says whose turn it is.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from diagnostics import to_json
from etrm.batch import to_device
from etrm.config import Config
from etrm.data import Episodes, TaskSet, check_leakage, chosen_tasks, load_tasks
from etrm.errors import CheckpointError, TrainingError
from etrm.training import checkpoint as checkpoints
from etrm.training import nonfinite, state
from etrm.training.ema import Ema
from etrm.training.faults import recipe_for
from etrm.training.loss import act_loss
from etrm.training.metrics import finite, step_metrics
from etrm.training.observe import Observer
from etrm.training.optim import schedule, set_rates
from etrm.training.prefetch import Prefetch
from etrm.training.run_folder import RunFolder, environment
from etrm.training.slots import Slots
from etrm.training.stage import Stage

_log = logging.getLogger(__name__)
OnStep = Callable[["Trainer", dict[str, Any]], None]


class Trainer:
    """A run in memory; with a folder, also on disk.

    Args:
        config: as given; the recipe's faults may change what is really used (:attr:`config`).
        folder: where to record, or None for a run that leaves no trace.

    Raises:
        EtrmError: the config, the data, the decoder checkpoint or the folder cannot be used.
    """

    def __init__(self, config: Config, folder: RunFolder | None = None) -> None:
        self.recipe = recipe_for(config)
        self.config = self.recipe.configure(config)
        self.folder = folder
        train = self.config.train
        if train.threads is not None:
            torch.set_num_threads(train.threads)
        self.device = pick_device(train.device)
        self.tasks = training_tasks(self.config)
        self.episodes = Episodes(self.tasks, self.config.data, self.config.model.variant, train.seed)

        torch.manual_seed(train.seed)
        self.model = self.recipe.build_model(self.config, self.episodes)
        self.recipe.load_decoder(self.model, self.config)
        self.model.to(self.device).train()
        self.optimizers = self.recipe.build_optimizers(self.model, train)
        self.ema = Ema(self.model, train.ema_decay)
        self.halting = torch.Generator().manual_seed(train.seed)

        self.prefetch: Prefetch | None = None
        if self.config.data.workers:
            depth = 2 * train.batch_size  # a step takes a batch at the most
            self.prefetch = Prefetch(self.config, self.episodes, self.recipe.draw, depth)
        self.slots = {
            bucket: Slots(self.episodes, bucket, train.batch_size, self.prefetch or self.recipe.draw)
            for bucket in range(self.episodes.buckets)
        }
        self.carries = {bucket: self.model.initial_carry(train.batch_size) for bucket in self.slots}
        self.step = 0
        self.stage = Stage(self.model, train, self.recipe.freeze, folder.path if folder else None)
        self.observer = Observer(self)
        self._stop = False

    @property
    def bucket(self) -> int:
        """Whose turn the next step is."""
        return self.episodes.bucket_at(self.step // self.model.steps_per_turn)

    # -- one step ---------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        """Do one optimiser step.

        Returns:
            the step's metrics; ``step`` is the number of steps done.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, and nothing was updated; or the update made
                a weight that is not.
            TrainingError: nothing requires a gradient.
        """
        train = self.config.train
        self.stage.enter(self.step)
        factor = schedule(self.step, train)
        set_rates(self.optimizers, factor)
        bucket = self.bucket
        slots, carry = self.slots[bucket], self.carries[bucket]
        resets = carry.halted.tolist()
        slots.refill(resets)
        batch = to_device(slots.batch(), self.device)

        with self.observer.step(batch.size):
            carry, output = self.model(carry, batch, self.halting)
            loss = act_loss(output, batch.labels, train.loss)
            total = loss.total(train.q_halt_weight, train.kl_weight)
            self._check_loss(total, all(resets))
            if total.requires_grad:
                torch.autograd.backward(total / train.batch_size)
            norm = self._clip()
            nonfinite.check_gradients(self.model, norm, self.step + 1)
            self.recipe.update(self.optimizers, self.stage.frozen)
            nonfinite.check_weights(self.model, self.step + 1)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)

        self.ema.update(self.model)
        self.carries[bucket] = carry
        self.step += 1
        metrics: dict[str, Any] = {"step": self.step, "bucket": bucket, "rows": batch.size}
        metrics["reset_share"] = sum(resets) / batch.size
        metrics |= step_metrics(loss, total, output.q_halt, carry, self.config.model.halt.max_steps)
        metrics |= {
            "lr_factor": factor,
            "frozen": self.stage.frozen,
            "tokens": batch.inputs.numel(),
        }
        metrics |= {"grad_norm_before_clip": norm} if norm is not None else {}
        return finite(metrics | self.observer.metrics())

    def _check_loss(self, total: torch.Tensor, all_begin: bool) -> None:
        nonfinite.check_loss(total, self.step + 1)
        # A cached context trains the encoder only through rows that begin: with a frozen decoder the
        # steps in between have no gradient, and that is this variant's fault and no error.
        if all_begin and not total.requires_grad:
            raise TrainingError(
                "nothing that the loss depends on requires a gradient",
                next_step="look at train.freeze_decoder_steps, train.freeze_encoder_steps and the injected faults",
            )

    def _clip(self) -> float | None:
        """Clip the norm of what is trained; None without clipping. The norm before it is returned."""
        limit = self.config.train.clip_norm
        if limit is None:
            return None
        dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
        return float(torch.nn.utils.clip_grad_norm_(dense, limit))

    # -- a whole run ------------------------------------------------------------------------------

    def run(self, on_step: OnStep | None = None) -> bool:
        """Train to the end, from wherever the run stands, and keep the result.

        Returns:
            False where a signal asked to stop early; a checkpoint of that point is kept.
        """
        record = environment() | {"seed": self.config.train.seed, "data_hash": self.tasks.hash}
        record |= {"queries": len(self.episodes.queries), "skipped_queries": len(self.episodes.skipped)}
        record |= {"tasks": len(self.tasks), "parameters": sum(p.numel() for p in self.model.parameters())}
        if self.folder:
            self.folder.start(record, self._metrics_bytes)
            if self.step == 0:
                self._save()
        with self._signals(), closing(self.prefetch) if self.prefetch else nullcontext():
            while self.step < self.config.train.steps and not self._stop:
                began = time.perf_counter()
                with nonfinite.explained(self):
                    metrics = self.train_step()
                self._log(metrics, {"step": self.step, "seconds": time.perf_counter() - began})
                if on_step:
                    on_step(self, metrics)
                if self.step % self.config.train.checkpoint_every == 0:
                    self._save()
            self.stage.close(self.step)
            self._save()
        if self.folder:
            self.folder.write("findings.json", to_json(self.observer.findings()) + "\n")
        return self.step >= self.config.train.steps

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint of the folder; False where there is none.

        Raises:
            CheckpointError: there are some and none is whole, or another version of etrm wrote it.
        """
        assert self.folder is not None
        problems = []
        for path in reversed(checkpoints.saved(self.folder.checkpoints)):
            try:
                found = checkpoints.read(path)
            except checkpoints.FormatError:
                raise
            except CheckpointError as error:  # an altered one: an older one may be whole
                _log.warning("passed over: %s", error)
                problems.append(error)
                continue
            state.restore(self, found)
            self._metrics_bytes = found.state["metrics_bytes"]
            self._saved_step = found.step
            return True
        if problems:
            raise problems[0]
        return False

    _metrics_bytes = 0
    _saved_step = -1

    def _log(self, metrics: dict[str, Any], timing: dict[str, Any]) -> None:
        if self.folder:
            self.folder.log(metrics, timing)

    def _save(self) -> None:
        # Writing a step again would leave a moment without it, fatal where it is the only one.
        if self.folder and self._saved_step != self.step:
            checkpoints.save(self.folder.checkpoints, state.capture(self), self.config.train.keep_checkpoints)
            self._saved_step = self.step

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal end the run after the step in hand; a second Ctrl-C at once.

        A signal that was ignored before (``nohup``, a worker whose parent minds Ctrl-C) stays so.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        try:
            before = {number: signal.signal(number, stop) for number in heeded}
        except ValueError:  # not the main thread: the caller's own handling stands
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train(config: Config, path: Path, *, resume: bool = False, on_step: OnStep | None = None) -> bool:
    """Run a config in a folder, or go on where it stopped.

    Returns:
        False where a signal asked to stop early.

    Raises:
        EtrmError: see :class:`Trainer` and :class:`RunFolder`.
    """
    folder = RunFolder(path, config, resume=resume)
    try:
        trainer = Trainer(config, folder)
        if resume:
            trainer.resume()
        return trainer.run(on_step)
    finally:
        folder.close()


def training_tasks(config: Config) -> TaskSet:
    """The tasks of the data section, none of which the evaluate section asks.

    Raises:
        DataError: the tasks cannot be read.
        LeakageError: a task stands on both sides and is not in ``evaluate.allow_trained``.
    """
    tasks = chosen_tasks(config.data)
    if "all" not in config.evaluate.allow_trained:
        check_leakage(tasks, held_out_tasks(config), config.evaluate.allow_trained)
    return tasks


def held_out_tasks(config: Config) -> TaskSet:
    """The tasks that the evaluate section asks."""
    asked = config.evaluate
    return load_tasks(asked.source, asked.subset, config.data.max_side, asked.max_tasks)


def pick_device(name: str) -> torch.device:
    """The device of a config; ``auto`` takes a GPU where there is one."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
