"""Records the operations of one training step: which function made the first number that is not finite, and what the
functions of the loss receive.

A `TorchFunctionMode` sees every torch function that Python calls, with its arguments and its line. That costs several
times the step, so an audit repeats single steps under it, and a monitor looks at three of the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from diagnostics.auditing.tracing.calls.module_calls import ModuleCalls
from diagnostics.auditing.tracing.input_reads import Reads
from diagnostics.auditing.tracing.loss_terms_added import AddedTerms
from diagnostics.auditing.tracing.origins.batch_losses import UNTRAINED
from diagnostics.auditing.tracing.origins.value_origins import ValueOrigins
from diagnostics.auditing.tracing.random_draws import Draw, FirstDraw, RandomDraws
from diagnostics.auditing.tracing.recorded_calls import Arrived
from diagnostics.auditing.tracing.recorders.added_rows import AddedRows
from diagnostics.auditing.tracing.recorders.clamp_calls import ClampCalls
from diagnostics.auditing.tracing.recorders.derivative_calls import DerivativeCalls
from diagnostics.auditing.tracing.recorders.first_nonfinite import FirstNonFiniteCall, count_bad
from diagnostics.auditing.tracing.recorders.layer_calls import LayerCalls
from diagnostics.auditing.tracing.recorders.loss_calls import LossCalls
from diagnostics.auditing.tracing.recorders.sample_masks import SampleMasks
from diagnostics.auditing.tracing.recorders.score_calls import ScoreCalls
from diagnostics.auditing.tracing.recorders.selection_calls import IN_PLACE, SelectionCalls
from diagnostics.auditing.tracing.recorders.shape_calls import ShapeCalls
from diagnostics.auditing.tracing.recorders.update_order import UpdateOrder
from diagnostics.auditing.tracing.torch_call import CallRecorder, TorchCall, TracedStep, name_of
from diagnostics.auditing.tracing.value_kinds import DROPOUTS
from diagnostics.recording.tensors import address_of, is_transformed, tensors_in
from diagnostics.recording.weak_hooks import LocalHook


class OperationTrace(TorchFunctionMode):
    """The operations of the step that runs inside.

    Attributes:
        nonfinite: The first operation whose result is not finite although all its arguments are.
        losses: Calls of losses.
        scores: Calls on scores: softmax, attention, normalisation, gather.
        shapes: Calls that combine tensors of two shapes, views and casts.
        layers: Calls of layers and activations.
        clamps: Calls outside of all modules that limit numbers.
        masks: Calls outside of all modules that leave samples out of a loss.
        selections: Calls that select by a condition.
        added_rows: Calls that add rows by an index.
        derivatives: Derivatives from which a loss is computed.
        calls: The calls of modules, and what they have in common.
        reads: The tensors that the model was given, and who was given them.
        added: What was added to the losses.
        first_draw: The random numbers when the step drew first.
        outputs: The gradients that came to what the model returned.
        loss_broken: Whether a loss on which backward() was called was not finite.
        updates: What happened to losses, gradients and weights in turn.
        dropped: Modules whose dropout dropped something while gradients were disabled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nonfinite = FirstNonFiniteCall()
        self.losses = LossCalls()
        self.scores = ScoreCalls()
        self.shapes = ShapeCalls()
        self.layers = LayerCalls()
        self.clamps = ClampCalls()
        self.masks = SampleMasks()
        self.selections = SelectionCalls()
        self.added_rows = AddedRows()
        self.derivatives = DerivativeCalls()
        self.calls = ModuleCalls()
        self.reads = Reads()
        self.added = AddedTerms()
        self.first_draw = FirstDraw()
        self.outputs: list[Arrived] = []
        self.loss_broken = False
        self.updates = UpdateOrder()
        self.dropped: set[str] = set()
        self._step = TracedStep()
        self._draws = RandomDraws()
        self._recorders: dict[str, tuple[CallRecorder, ...]] = {}  # by the name of the function

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function and note it."""
        given, name = dict(kwargs or {}), name_of(func)
        if torch.compiler.is_dynamo_compiling():  # which would compile the recording too
            return func(*args, **given)
        if func is Tensor.backward:
            self._note_backward(args[0])
        before = self.first_draw.before(name)
        if name in IN_PLACE:
            self._look_before(args)
        result = func(*args, **given)
        self.first_draw.after(before)
        self.updates.note(name, result)
        if name in DROPOUTS and self.module and not torch.is_grad_enabled() and _drops(args, result):
            self.dropped.add(self.module)
        if not name.startswith("__get") or name == "__getitem__":
            self._note(func, name, args, given, result)
        elif isinstance(result, Tensor):
            self.calls.read(args[0] if args else None)
        return result

    def _note_backward(self, loss: Tensor) -> None:
        self.updates.begin_backward()
        self.calls.passed()
        self.loss_broken |= count_bad(loss) > 0
        self.added.end(loss)

    @torch.no_grad()
    def _note(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        with torch._C.DisableTorchFunction():
            call, step = TorchCall(func, name, args, kwargs, result, self._step), self._step
            given = list(tensors_in((args, tuple(kwargs.values()))))
            self.reads.note(name, given)
            self.calls.note(name, args, given, result, lambda: call.place)
            self.added.note(
                name,
                args,
                result,
                lambda: str(call.operation()),
                lambda each: UNTRAINED in self.origins.of(each),
            )
            self._draws.note(given, result, lambda: str(call.operation(name="sample")))
            step.origins.note(func, name, given, kwargs, result, lambda: (str(call.operation()), call.place))
            if isinstance(result, Tensor):
                step.kinds.note(name, args, result)
            for recorder in self._choose_recorders(name):
                recorder.note(call)

    @torch.no_grad()
    def _look_before(self, args: tuple[Any, ...]) -> None:
        with torch._C.DisableTorchFunction():
            self.selections.before(args)

    def _choose_recorders(self, name: str) -> tuple[CallRecorder, ...]:
        if name not in self._recorders:
            every: tuple[CallRecorder, ...] = (
                self.nonfinite,
                self.layers,
                self.shapes,
                self.clamps,
                self.masks,
                self.selections,
                self.added_rows,
                self.derivatives,
                self.scores,
                self.losses,
            )
            self._recorders[name] = tuple(each for each in every if each.wants(name))
        return self._recorders[name]

    @property
    def origins(self) -> ValueOrigins:
        """What the tensors of the step come from."""
        return self._step.origins

    @property
    def module(self) -> str:
        """The innermost module whose forward pass runs, "" outside of all."""
        return self._step.module

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimiser steps."""
        self.updates.stepped(optimizer)
        self.origins.choices.updates += 1

    def draws(self) -> list[tuple[Draw, list[str]]]:
        """The draws without gradient that the loss uses, and the modules that their parameters come from."""
        return [(draw, list(self._step.sources(draw.parameters))) for draw in self._draws.unused_gradients()]

    def watch_weights(self, model: nn.Module) -> None:
        """Know the parameters of a model by their memory."""
        self._step.weights = frozenset(address_of(each) for each in model.parameters()) - {-1}

    def begin(self, given: Any) -> None:
        """The forward pass of the model begins.

        Args:
            given: Its arguments.
        """
        self.reads.begin(given)
        self._step.inside_model = True

    def end(self, output: Any) -> None:
        """The forward pass of the model ends."""
        self._step.inside_model = False
        self.outputs.extend(Arrived(each) for each in tensors_in(output) if each.grad_fn is not None)

    def enter(self, name: str, args: tuple[Any, ...]) -> None:
        """A module's forward pass begins."""
        step = self._step
        if not step.running:
            step.inputs += [
                each.detach().flatten() for each in tensors_in(args) if not each.is_floating_point()
            ]
        self.reads.enter(name, args)
        step.running.append(name)

    def leave(self, module: nn.Module, output: Any) -> None:
        """The innermost forward pass ends."""
        self.losses.note_output(module, output)
        running = self._step.running
        if running:
            self.calls.leave(running[-1], output)
            self._step.flow.note(running.pop(), (), tensors_in(output))

    def observe(self, note: Callable[..., None], *given: Any) -> None:
        """Note a call of a module; not one that is compiled, or inside torch.func, whose tensors have no memory."""
        if not (torch.compiler.is_dynamo_compiling() or is_transformed()):
            note(*given)

    def finish(self) -> None:
        """The step has ended: compare its calls of modules."""
        self.calls.finish()


@contextmanager
def trace_operations(
    model: nn.Module,
    trace: OperationTrace | None = None,
    others: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Iterator[OperationTrace]:
    """Record the operations of what runs inside, by default with a new trace.

    Args:
        others: Modules outside of the model, by name; of these only the calls are recorded.
    """
    trace = OperationTrace() if trace is None else trace
    trace.watch_weights(model)
    handles = []

    def watching(note: Callable[..., None]) -> LocalHook:
        return LocalHook(lambda *given: trace.observe(note, *given))

    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(watching(_enter_call(trace, name)), with_kwargs=True))
        if not name:
            handles.append(module.register_forward_pre_hook(watching(_begin(trace)), with_kwargs=True))
            handles.append(module.register_forward_hook(watching(_end(trace))))
            handles.append(module.register_forward_hook(watching(_leave_call(trace, name)), always_call=True))
            continue
        handles.append(module.register_forward_pre_hook(watching(_enter(trace, name))))
        handles.append(module.register_forward_hook(watching(_leave(trace)), always_call=True))
    for name, module in others.items():
        handles.append(module.register_forward_pre_hook(watching(_enter_call(trace, name)), with_kwargs=True))
        handles.append(module.register_forward_hook(watching(_leave_call(trace, name)), always_call=True))
    handles.append(register_optimizer_step_pre_hook(lambda optimizer, *_: trace.stepped(optimizer)))
    try:
        with trace:
            yield trace
    finally:
        for handle in handles:
            handle.remove()
        trace.finish()


def _enter_call(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args, kwargs=None: trace.calls.enter(name, module, args, kwargs or {})


def _leave_call(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args, output: trace.calls.leave(name, output)


def _begin(trace: OperationTrace) -> Callable[..., None]:
    # torch calls it without kwargs where a hook before it has removed it: they were listed before
    return lambda module, args, kwargs=None: trace.begin((args, kwargs or {}))


def _end(trace: OperationTrace) -> Callable[..., None]:
    return lambda module, args, output: trace.end(output)


def _enter(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args: trace.enter(name, args)


def _leave(trace: OperationTrace) -> Callable[..., None]:
    return lambda module, args, output: trace.leave(module, output)


def _drops(args: tuple[Any, ...], result: Any) -> bool:
    return bool(args) and isinstance(result, Tensor) and not torch.equal(result, args[0])
