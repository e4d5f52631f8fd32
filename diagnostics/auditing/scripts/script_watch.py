"""Watches the training of an unchanged program, from its first update to the last one that is requested.

A step begins with the first call of a model with gradients enabled, and ends with the first call after every optimiser
has stepped: what the loop does after the update is part of it, evaluation is not. The first round shows which models
and optimisers there are. It counts as a step if each optimiser stepped once, after one backward pass; else, as with
accumulated gradients, what it recorded is forgotten.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data._utils.worker import _worker_loop

from diagnostics.auditing.declarations import Declarations
from diagnostics.auditing.sample_counts import guess_samples
from diagnostics.auditing.scripts.called_models import CalledModels, WeakModules, is_power_of_two
from diagnostics.auditing.scripts.evaluations import Evaluations
from diagnostics.auditing.scripts.followers import Followers
from diagnostics.auditing.scripts.live_objects import LiveObjects, held_by
from diagnostics.auditing.scripts.loaded_states import LoadedStates
from diagnostics.auditing.scripts.monitored_steps import MonitoredSteps
from diagnostics.auditing.scripts.optimizer_turns import OptimizerTurns
from diagnostics.auditing.scripts.renewed_optimizers import RenewedOptimizers
from diagnostics.auditing.scripts.schedules import find_idle_schedules
from diagnostics.auditing.scripts.stepping_optimizers import SteppingOptimizers
from diagnostics.auditing.scripts.update_round import UpdateRound
from diagnostics.findings import Finding
from diagnostics.monitor import Monitor
from diagnostics.recording.tensors import tensors_in
from diagnostics.recording.weak_hooks import hooks_aside

_PATIENCE = 256
"""Backward passes without an update after which none is expected: few loops accumulate so many."""
_SCHEDULED = 16
"""Steps by which a schedule over small epochs has advanced; those of a function are gone when it has returned."""
_FRUITLESS = 4
"""Updates of other tensors than those of the models after which these are taken for what is meant to train them."""


class ScriptStopped(BaseException):
    """Ends a program whose wanted steps were watched; no `except Exception` of the program catches it."""


class ScriptWatch:
    """Listens to every module and optimiser of this process while it is entered.

    Attributes:
        updates: Number of updates of the models by their optimisers.
        others: Number of updates by optimisers that hold no parameter of a model that was called.
        offset: Number of updates before the first recorded step.
        recorded: Number of recorded steps.
        started: Number of processes that it started, other than workers of a loader.
        stopped: Whether the program was stopped.
        failure: What went wrong in the watching itself.
        followers: Copies of the models that nothing trains.
        evaluations: What is computed between the steps.
        past: Monitors of earlier sets of models and optimisers.

    Args:
        steps: Number of steps after which the program is stopped; None for no end.
        declared: What the user declared of the models.
        options: Further arguments of `Monitor`.
    """

    def __init__(self, steps: int | None, declared: Declarations | None = None, **options: Any) -> None:
        self._wanted = steps
        self.updates = self.others = self.offset = self.recorded = self.started = 0
        self.stopped = False
        self.failure: Exception | None = None
        self.past: list[Monitor] = []
        self._models, self._optimizers = CalledModels(), SteppingOptimizers()
        self._steps, self._round = MonitoredSteps(declared or Declarations(), **options), UpdateRound()
        self.followers = Followers()
        self.evaluations = Evaluations()
        self._loaded = LoadedStates()
        self._renewed = RenewedOptimizers()
        self._schedules: list[Finding] = []  # of the rate, once the program has ended
        self._stepped: WeakSet[Optimizer] = WeakSet()
        self._quiet = WeakModules()  # those called for training, outside of steps and without gradient
        self._rounds = 0  # steps that ended, of all monitors
        self._calls = 0  # of models, before an optimiser of theirs is known
        self._passes = 0  # backward passes that ended without an update, before the first one
        self._began_evaluating = False  # the open step
        self._updating: set[int] = set()  # optimisers inside their step()
        self._listening = ExitStack()
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        """Register the hooks. Compiled models run as they are written, so that their modules are seen."""
        self._listening.enter_context(torch.compiler.set_stance("force_eager"))
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        self._listening.enter_context(self._counting_processes())
        self._listening.enter_context(_scripting_without_hooks())
        self._listening.enter_context(self._renewed.watch())
        self._listening.enter_context(self._loaded.watch(lambda: self.updates > 0))
        for handle in (
            register_module_forward_pre_hook(self._before_call),
            register_optimizer_step_pre_hook(self._before_update),
            register_optimizer_step_post_hook(self._after_update),
        ):
            self._listening.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks, and keep the last step if it ended."""
        self._listening.close()
        self.evaluations.end()
        self._schedules = self._schedules or find_idle_schedules([*self._stepped])
        with _own_computation():
            if self._steps.is_open and (self._round.complete or (self._round.stepped and not self.recorded)):
                self._close()
            elif self._steps.is_open and not self.updates:
                self._passes += self._is_pass()
                self._close()
            self._steps.end()

    @contextmanager
    def _counting_processes(self) -> Iterator[None]:
        start = BaseProcess.start

        def counted(process: BaseProcess) -> None:
            self.started += getattr(process, "_target", None) is not _worker_loop
            start(process)

        with patch.object(BaseProcess, "start", counted):
            yield

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the models that were found; None before the first call that could train."""
        return self._steps.monitor

    @property
    def passes(self) -> int:
        """Backward passes without an update, if there was none at all."""
        return 0 if self.updates else self._passes

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimisers that hold parameters of the models."""
        return self._optimizers.known

    def find_afterwards(self) -> list[Finding]:
        """What the whole program shows: late changes, copies, schedules and evaluations."""
        found = [*self._steps.late, *self.followers.findings(), *self._schedules, *self._loaded.findings()]
        found += self._renewed.findings()
        return [*found, *self.evaluations.findings(self._rounds)]

    def is_quiet(self, module: nn.Module) -> bool:
        """Whether a module was called in training mode with gradients disabled, before the step of its models began."""
        return module in self._quiet

    def _before_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1 or self._elsewhere():
            return
        enabled = torch.is_grad_enabled()
        hooks = {*module._forward_pre_hooks}
        with _own_computation():
            try:
                self._at_call(module, args, enabled)
            except Exception as error:  # noqa: BLE001 - the caller raises it once the program has ended
                self.failure = self.failure or error
                self.stopped = True
        if self.stopped:
            raise ScriptStopped
        for key in [*module._forward_pre_hooks]:
            if key not in hooks:  # registered since this call began, which does not look again
                more: tuple[Any, ...] = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
                module._forward_pre_hooks[key](module, args, *more)

    def _elsewhere(self) -> bool:
        """Whether a call is not one of the training: of another thread, traced, or in a function transform."""
        return (
            threading.get_ident() != self._thread
            or torch._C._get_tracing_state() is not None
            or torch._C._functorch.peek_interpreter_stack() is not None
        )

    def _at_call(self, module: nn.Module, args: tuple[Any, ...], enabled: bool) -> None:
        if self.stopped:
            return
        self._look_for_models(module, enabled)
        inside = self._steps.is_open and not self._round.complete
        self.followers.note_call(module, inside)
        if not enabled and not inside:
            self._note_between(module)
        if not self._models.is_watched(module):
            return
        if self._steps.is_open and (
            self._round.complete or not self._updating
        ):  # LBFGS calls the model in its step
            self._end_step(enabled)
        if not enabled and not self._steps.is_open and module.training:
            self._quiet.add([module])
        if enabled and not self._steps.is_open and not self.stopped:
            given = any(tensor.dim() for tensor in tensors_in(args))
            if given or not module._modules:  # else a module inside is given some
                self._begin_step(guess_samples(args))

    def _note_between(self, module: nn.Module) -> None:
        """Note a call of a whole model, or of a copy of one, after an update and before the next step."""
        of_model, of_copy = self._models.name(module), self.followers.name(module)
        name = of_copy if of_model is None else of_model
        if name is not None and self._rounds:
            self.evaluations.note_call(module, name, self._rounds)

    def _look_for_models(self, module: nn.Module, enabled: bool) -> None:
        if not self._models.was_seen(module):
            if self._models.may_be_new(module, enabled):
                self._note_model(module, enabled)
        elif enabled and self.monitor is None and self._models:
            self._calls += 1
            if is_power_of_two(self._calls):
                self._start(LiveObjects())
        if enabled and self._optimizers.newcomer is not None:
            self._admit(self._optimizers.newcomer)

    def _note_model(self, module: nn.Module, enabled: bool) -> None:
        live = LiveObjects()
        model = self._models.note(module, enabled, live)
        if model is None:
            return
        if self.monitor is None or not (self._steps.is_open or self.updates or self._passes):
            self._start(live)
        elif self._round.is_first:  # the round lasts until its optimisers have stepped too
            self._models.count_as_watched(model)
            self._round.expect_also(live.holding(model.parameters()))

    def _start(self, live: LiveObjects) -> None:
        """Watch the models that were found, if an optimiser holds a parameter of one.

        If those that step hold none, as those of a model that was built again, they are what is watched.
        """
        found = live.holding(self._models.parameters())
        if not found and self.others >= _FRUITLESS:
            found = list(self._optimizers.strangers)
        if found:
            if not self.updates:
                self.followers.look(self._models.roots, live)
            self._watch(found, OptimizerTurns([]))
            self._round.expect_first(found)

    def _watch(self, optimizers: Sequence[Optimizer], turns: OptimizerTurns) -> None:
        """Make a monitor of the models and optimisers."""
        model, watch = self._models.watch_all()
        self._optimizers.know(optimizers)
        self._round.follow(turns)
        self._steps.watch(model, watch, optimizers)
        if self.monitor is not None:
            self.monitor.trace_also(self.followers.modules)

    def _begin_step(self, samples: int) -> None:
        self.evaluations.end()
        self._round.begin()
        self._began_evaluating = not self._models.is_training()
        self._steps.open(samples)
        self.followers.begin()

    def _is_pass(self) -> bool:
        """Whether a backward pass ran in the open step, and no optimiser has stepped in the whole program."""
        return not self.updates and self.monitor is not None and self.monitor.reached

    def _end_step(self, enabled: bool) -> None:
        """At a call in an open step: end the step if it is over."""
        assert self.monitor is not None
        if self._round.complete:
            self._close()
            if self._round.is_first:
                self._end_first_round()
            else:
                self._round.end()
        elif enabled and self._is_pass():
            self._close()
            self._passes += 1
        elif (
            self._began_evaluating
            and self._models.is_training()
            and not (self._round.stepped or self.monitor.reached)
        ):
            self._steps.drop()  # evaluation with gradients enabled has ended
        over = self._wanted is not None and self.recorded >= self._wanted
        self.stopped = over if self.updates else self._passes >= _PATIENCE

    def _close(self) -> None:
        self._rounds += 1
        if self._rounds >= _SCHEDULED and is_power_of_two(self._rounds) and not self._schedules:
            self._schedules = find_idle_schedules([*self._stepped])
        self._steps.close()
        self.followers.end()
        self.recorded += 1

    def _end_first_round(self) -> None:
        """Keep the first step if it was one as the monitor assumed, else begin again with what is known now."""
        optimizers, turns = self._round.end_first()
        stepped = self._round.stepped
        as_assumed = (
            not self._passes
            and self._models.all_watched
            and {*map(id, stepped)} == {*map(id, self.optimizers)}
            and len(stepped) <= len(optimizers)
        )
        if as_assumed:
            self._round.follow(turns)
        else:
            self._steps.drop()
            self.recorded, self.offset = 0, self.updates
            self._watch(optimizers, turns)

    def _admit(self, newcomer: Optimizer) -> None:
        """Watch with an optimiser more, with another monitor from here on."""
        assert self.monitor is not None
        optimizers, order, takes_turns = self._optimizers.with_newcomer(newcomer)
        self._steps.drop()
        if takes_turns or not self.recorded:  # where they take turns, the steps so far were parts of steps
            self.recorded, self.offset = 0, self.updates
        else:
            self.past.append(self.monitor)
        self._watch(optimizers, order)

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._elsewhere():
            self._updating.add(id(optimizer))

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._elsewhere():
            return
        self._updating.discard(id(optimizer))
        self._stepped.add(optimizer)
        known = optimizer in self.optimizers
        if known:
            self._optimizers.note_known(optimizer)
        elif self.monitor is not None and not self._round.is_first and self._trains_models(optimizer):
            self._optimizers.note_unknown(optimizer)
        if known or self._models.holds_watched(optimizer):
            self.updates += 1
            self._renewed.note_update(optimizer)
            self._round.note(optimizer, self._optimizers.known_for(optimizer))
        else:
            self.others += 1
            self._optimizers.note_stranger(optimizer)

    def _trains_models(self, optimizer: Optimizer) -> bool:
        return not held_by([optimizer]).isdisjoint(map(id, self._models.parameters()))


@contextmanager
def _scripting_without_hooks() -> Iterator[None]:
    script = torch.jit.script

    def scripted(obj: Any, optimize: None = None, _frames_up: int = 0, **options: Any) -> Any:
        with hooks_aside(obj) if isinstance(obj, nn.Module) else nullcontext():
            return script(obj, optimize, _frames_up + 1, **options)

    with patch.object(torch.jit, "script", scripted):
        yield


@contextmanager
def _own_computation() -> Iterator[None]:
    """What is computed in the block is not part of what the program computes around it."""
    with torch.inference_mode(False), torch.no_grad():
        yield
