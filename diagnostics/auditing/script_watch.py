"""Watches the training of a program that knows nothing of it, from the first update to the last that is wanted.

A step begins with the first call of a model with gradients enabled, and ends with the first call after every optimiser
has stepped: what the loop does after the update is part of it, evaluation is not. The first round shows which models
and optimisers there are. It counts as a step if each optimiser stepped once, after one backward pass; else, as with
accumulated gradients, what it recorded is forgotten.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from diagnostics.auditing.live_objects import LiveObjects, held_by
from diagnostics.auditing.optimizer_turns import MOST_TURNS, OptimizerTurns
from diagnostics.auditing.probes.late_changes import LateChanges
from diagnostics.callback_loop import LoopMonitor
from diagnostics.findings import Finding
from diagnostics.monitor import Monitor
from diagnostics.recording.tensors import tensors_in
from diagnostics.selection import select_modules

_PATIENCE = 256
"""Backward passes without an update after which none is expected: few loops accumulate so many."""


_MOST_UNKNOWN = 3
"""Optimisers whose second update is waited for: each is kept alive with its state."""
_FRUITLESS = 4
"""Updates of other tensors than those of the models after which these are taken for what is meant to train them."""


class _Modules:
    """A set of modules that keeps none of them alive."""

    def __init__(self) -> None:
        self._by_id: dict[int, weakref.ref[nn.Module]] = {}

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Add some."""
        self._by_id.update((id(each), weakref.ref(each)) for each in modules)

    def __contains__(self, module: nn.Module) -> bool:
        found = self._by_id.get(id(module))
        return found is not None and found() is module


class ScriptStopped(BaseException):
    """Ends a program whose wanted steps were watched; no `except Exception` of the program catches it."""


class ScriptWatch:
    """Listens to every module and optimiser of this process while it is entered.

    Attributes:
        monitor: The monitor of the models that were found; None before the first call that could train.
        updates: Number of updates of the models by their optimisers.
        others: Number of updates by optimisers that hold no parameter of a model that was called.
        offset: Number of updates before the first recorded step.
        recorded: Number of recorded steps.
        stopped: Whether the program was stopped.
        failure: What went wrong in the watching itself.

    Args:
        steps: Number of steps after which the program is stopped; None for no end.
        options: Arguments of `Monitor`.
    """

    def __init__(self, steps: int | None, **options: Any) -> None:
        self._steps, self._options = steps, options
        self.monitor: Monitor | None = None
        self.updates = self.others = self.offset = self.recorded = 0
        self.stopped = False
        self.failure: Exception | None = None
        self.past: list[Monitor] = []
        """Monitors of earlier sets of models and optimisers."""
        self._roots: list[nn.Module] = []
        self._names: dict[int, str] = {}
        self._seen = _Modules()  # those that were called, and all around and inside them
        self._looked_at = _Modules()  # those that no optimiser held when they were called without gradient
        self._quiet = _Modules()  # those called for training, outside of steps and without gradient
        self._own: set[int] = set()  # modules in the roots
        self._held: set[int] = set()  # tensors of the roots
        self._calls = 0  # of models, before an optimiser of theirs is known
        self._optimizers: list[Optimizer] = []
        self._late = LateChanges([])
        self._loop, self._step = LoopMonitor(), ExitStack()
        self._open = self._complete = self._first = self._began_evaluating = False
        self._turns = OptimizerTurns([])
        self._stepped: list[Optimizer] = []  # in the open step, in the order of their updates
        self._candidates: list[Optimizer] = []  # that the first round may contain
        self._passes = 0  # backward passes that ended without an update, before the first one
        self._unknown: deque[Optimizer] = deque(
            maxlen=_MOST_UNKNOWN
        )  # stepped, and the monitor does not know them
        self._strangers: deque[Optimizer] = deque(
            maxlen=_MOST_UNKNOWN
        )  # those that hold nothing of the models
        self._newcomer: Optimizer | None = None  # one of them that stepped again
        self._meanwhile: set[int] = set()  # known optimisers that stepped since the last unknown one
        self._updating: set[int] = set()
        self._listening = ExitStack()
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        """Register the hooks. Compiled models run as they are written, so that their modules are seen."""
        self._listening.enter_context(torch.compiler.set_stance("force_eager"))
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
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
        with _own_computation():
            if self._open and (self._complete or (self._stepped and not self.recorded)):
                self._close()
            elif self._open and not self.updates:
                self._passes += self._is_pass()
                self._close()
            self._drop()
            self._loop.end()

    @property
    def passes(self) -> int:
        """Backward passes without an update, if there was none at all."""
        return 0 if self.updates else self._passes

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimisers that hold parameters of the models."""
        return self._optimizers

    @property
    def late(self) -> Sequence[Finding]:
        """Findings about gradients that are changed after the update."""
        return self._late.findings()

    def is_quiet(self, module: nn.Module) -> bool:
        """Whether a module was called in training mode with gradients disabled, before the step of its models began."""
        return module in self._quiet

    def _before_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1 or self._elsewhere():
            return
        enabled = torch.is_grad_enabled()
        with _own_computation():
            try:
                self._at_call(module, args, enabled)
            except Exception as error:  # noqa: BLE001 - the caller raises it once the program has ended
                self.failure = self.failure or error
                self.stopped = True
        if self.stopped:
            raise ScriptStopped

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
        if id(module) not in self._own:
            return
        if self._open and (self._complete or not self._updating):  # LBFGS calls the model in its own step
            self._end_step(enabled)
        if not enabled and not self._open and module.training:
            self._quiet.add([module])
        if enabled and not self._open and not self.stopped:
            tensors = [tensor for tensor in tensors_in(args) if tensor.dim()]
            if tensors or not module._modules:  # else a module inside is given some
                self._begin_step([int(tensor.shape[0]) for tensor in tensors])

    def _look_for_models(self, module: nn.Module, enabled: bool) -> None:
        if module not in self._seen:
            if (enabled or module not in self._looked_at) and not _is_nested():
                self._note_model(module, enabled)
        elif enabled and self.monitor is None and self._roots:
            self._calls += 1
            if self._calls & (self._calls - 1) == 0:  # 1, 2, 4, 8: to look costs as much as many a call
                self._start(LiveObjects())
        if enabled and self._newcomer is not None:
            self._admit(self._newcomer)

    def _note_model(self, module: nn.Module, enabled: bool) -> None:
        """A module that is not inside one that was called before: a model, if it has something to train."""
        live = LiveObjects()
        owner = live.owner(module)
        (self._seen if enabled else self._looked_at).add([*owner.modules(), *module.modules()])
        weights = list(owner.parameters())
        trains = enabled and owner.training and any(weight.requires_grad for weight in weights)
        if trains or (weights and live.holding(weights)):
            self._seen.add([*owner.modules(), *module.modules()])
            self._names[id(owner)] = live.name(owner)
            inside = {id(each) for each in owner.modules()}
            self._roots = [*(root for root in self._roots if id(root) not in inside), owner]
            if self.monitor is None or not (self._open or self.updates or self._passes):
                self._start(live)
            elif self._first:  # the round lasts until its optimisers have stepped too
                self._held.update(map(id, weights))
                known = [*self._candidates]
                self._candidates += [each for each in live.holding(weights) if each not in known]

    def _start(self, live: LiveObjects) -> None:
        """Watch the models that were found, if an optimiser holds a parameter of one.

        If those that step hold none, as those of a model that was built again, they are what is watched.
        """
        found = live.holding(parameter for root in self._roots for parameter in root.parameters())
        if not found and self.others >= _FRUITLESS:
            found = list(self._strangers)
        if found:
            self._watch(found, OptimizerTurns([]))
            self._candidates, self._first = found, True

    def _watch(self, optimizers: Sequence[Optimizer], turns: OptimizerTurns) -> None:
        """Make a monitor of the models and optimisers."""
        model, watch = self._join_roots()
        self._held = {id(parameter) for root in self._roots for parameter in root.parameters()}
        self._own = {id(each) for root in self._roots for each in root.modules()}
        self._optimizers = list(optimizers)
        self._turns = turns
        self._newcomer = None
        self._unknown.clear()
        self._meanwhile.clear()
        self._late = LateChanges(self._optimizers)
        self._loop.end()
        self._loop = LoopMonitor(**{"watch": watch, **self._options})
        self._loop.begin(model, self._optimizers)
        self.monitor = self._loop.monitor

    def _join_roots(self) -> tuple[nn.Module, list[str] | None]:
        """One model of all, and what to watch in it; None for the usual."""
        if len(self._roots) == 1:
            return self._roots[0], None
        joined = nn.ModuleDict()
        watch: list[str] = []
        for root in self._roots:
            root = getattr(root, "_orig_mod", root)
            name = self._names.get(id(root), type(root).__name__).replace(".", "_")
            while name in joined or hasattr(joined, name):
                name += "_"
            joined[name] = root
            inside = select_modules(root, None) if any(True for _ in root.children()) else ()
            watch += [f"{name}.{each}" for each in inside] or [name]
        return joined, watch

    def _begin_step(self, sizes: Sequence[int]) -> None:
        samples = Counter(sizes).most_common(1)[0][0] if sizes else 1
        self._complete, self._stepped = False, []
        self._turns.begin()
        self._began_evaluating = not self._is_training()
        self._loop.open(max(samples, 1))
        self._step.enter_context(self._late.watch())
        self._open = True

    def _is_training(self) -> bool:
        return any(root.training for root in self._roots)

    def _is_pass(self) -> bool:
        """Whether a backward pass ran in the open step, and no optimiser has stepped in the whole program."""
        return not self.updates and self.monitor is not None and self.monitor.reached

    def _end_step(self, enabled: bool) -> None:
        """At a call in an open step: end the step if it is over."""
        assert self.monitor is not None
        if self._complete:
            self._close()
            if self._first:
                self._end_first_round()
            else:
                self._turns.end()
        elif enabled and self._is_pass():
            self._close()
            self._passes += 1
        elif self._began_evaluating and self._is_training() and not (self._stepped or self.monitor.reached):
            self._drop()  # evaluation with gradients enabled has ended
        over = self._steps is not None and self.recorded >= self._steps
        self.stopped = over if self.updates else self._passes >= _PATIENCE

    def _close(self) -> None:
        self._open = False
        self._step.close()
        self._loop.close()
        self.recorded += 1

    def _drop(self) -> None:
        self._open = False
        self._step.close()
        self._loop.drop()

    def _end_first_round(self) -> None:
        """Keep the first step if it was one as the monitor assumed, else begin again with what is known now."""
        self._first = False
        stepped = self._stepped
        # one that did not step, though one for the same parameters did, is a wrapper of it
        optimizers = [
            each
            for each in self._candidates
            if each in stepped or not any(_share(each, other) for other in stepped)
        ]
        turns = OptimizerTurns(map(id, stepped))
        new = [root for root in self._roots if id(root) not in self._own]
        if (
            self._passes
            or new
            or {*map(id, stepped)} != {*map(id, self._optimizers)}
            or len(stepped) > len(optimizers)
        ):
            self._renew(optimizers, turns, keep=False)
        else:
            self._turns = turns

    def _renew(self, optimizers: Sequence[Optimizer], turns: OptimizerTurns, keep: bool) -> None:
        """Watch with another monitor from here on."""
        assert self.monitor is not None
        self._drop()
        if keep:
            self.past.append(self.monitor)
        else:
            self.recorded, self.offset = 0, self.updates
        self._watch(optimizers, turns)

    def _admit(self, newcomer: Optimizer) -> None:
        """Watch with an optimiser more: of a later stage of the training, or one that takes turns with others."""
        rivals = [each for each in self._optimizers if _share(each, newcomer)]
        turns = [each for each in rivals if id(each) in self._meanwhile]
        others = [each for each in self._optimizers if each not in rivals]
        # where they take turns, the steps so far were parts of steps
        now = [*others, *turns, newcomer]
        order = OptimizerTurns(map(id, now if turns else [newcomer]))
        self._renew(now, order, keep=not turns and self.recorded > 0)

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._elsewhere():
            self._updating.add(id(optimizer))

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._elsewhere():
            return
        self._updating.discard(id(optimizer))
        known = optimizer in self._optimizers
        if known:
            self._meanwhile.add(id(optimizer))
        else:
            self._note_unknown(optimizer)
        if not known and held_by([optimizer]).isdisjoint(self._held):
            self.others += 1
            if optimizer not in self._strangers:
                self._strangers.append(optimizer)
            return
        self.updates += 1
        self._stepped.append(optimizer)
        if self._first:
            waiting = [
                each for each in self._candidates if not any(_share(each, one) for one in self._stepped)
            ]
            self._complete = not waiting or self._stepped.count(optimizer) >= MOST_TURNS
        else:
            same = next((each for each in self._optimizers if _share(each, optimizer)), optimizer)
            self._turns.note(id(optimizer if known else same))
            self._complete = self._turns.complete

    def _note_unknown(self, optimizer: Optimizer) -> None:
        """One that is made anew for each update is a fault, which the monitor sees; one that stays is to be watched."""
        weights = {id(parameter) for root in self._roots for parameter in root.parameters()}
        if self.monitor is None or self._first or held_by([optimizer]).isdisjoint(weights):
            return
        if optimizer in self._unknown:
            self._newcomer = optimizer
        else:
            self._unknown.append(optimizer)
            self._meanwhile.clear()


def _share(one: Optimizer, other: Optimizer) -> bool:
    """Whether two optimisers hold a parameter both."""
    return one is other or not held_by([one]).isdisjoint(held_by([other]))


def _is_nested() -> bool:
    """Whether the module that is about to be called is called by another one."""
    frame, calls = sys._getframe(1), 0
    while frame.f_back is not None:
        frame = frame.f_back
        calls += frame.f_code is nn.Module._call_impl.__code__
    return calls > 1


@contextmanager
def _own_computation() -> Iterator[None]:
    """What is computed in the block is not part of what the program computes around it."""
    with torch.inference_mode(False), torch.no_grad():
        yield
