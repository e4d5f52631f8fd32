"""The calls of modules in one step: what each was given and returned, and which of these tensors anything reads.

Tensors of outermost calls are kept until the step ends; those inside are known by their id as long as they live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.input_reads import ASKS
from diagnostics.auditing.tracing.recorded_calls import Arrived
from diagnostics.recording.tensors import address_of, is_dense, stored_values, tensors_in

_COPIES = {"clone", "detach", "contiguous", "to", "float", "double", "view", "reshape", "requires_grad_"}
"""Functions whose result holds all numbers of their first argument."""
_JOINS = {"cat", "concat", "concatenate", "hstack"}
_MOST_COLUMNS = 1024
"""Numbers of a row that are compared, evenly spaced; the rows that are alike by these are compared as a whole."""
_FEWEST_ROWS = 8
"""Rows of which it is no chance that another tensor has them all."""
_FEWEST_CALLS = 3
"""Calls of one module in a step from which they are those of a loop."""
_SAME_SIDE = 0.99
"""Share of the rows whose gradient has one sign in both calls: where two networks oppose each other it is near 0."""
_MOST_SPREAD = 0.25  # of the ratios, relative to their mean: the judge may be updated between the calls
_FEWEST_SIDES = 8  # rows from which that is no chance


@dataclass(frozen=True)
class TwinCalls:
    """Two calls that were given the same numbers in different memory.

    Attributes:
        one, other: Names of the modules, which are one or have the same class and shapes.
        rows: Number of rows that the shorter tensor has.
    """

    one: str
    other: str
    rows: int


@dataclass(frozen=True)
class AgreeingCalls:
    """A module that was called twice with what another one made, and both losses move its outputs to one side.

    Attributes:
        judge: The module that was called twice, first without and then with a graph to the other, or vice versa.
        maker: The other module.
    """

    judge: str
    maker: str


@dataclass(frozen=True)
class UnreadArgument:
    """An argument of a call that nothing reads, while a concatenation joins another one with itself.

    Attributes:
        module: Name of the module that was given it.
        place: Its place among the tensors that it was given, from 0.
        shape: Its shape.
        doubled: Where the other one is joined with itself.
    """

    module: str
    place: int
    shape: tuple[int, ...]
    doubled: str


@dataclass(frozen=True)
class DroppedState:
    """A module that a step called several times with one tensor, and that returned another of its shape unread.

    Attributes:
        module: Name of the module.
        calls: Number of its calls.
        shape: Shape of both.
    """

    module: str
    calls: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GivenRows:
    """What an outermost call was given, a number per row.

    Attributes:
        module: Name of the module.
        codes: (rows,) two rows have the same number if all that was given of them is the same.
        whole: Whether all numbers are whole.
    """

    module: str
    codes: Tensor
    whole: bool


@dataclass
class _Open:
    name: str
    module: nn.Module
    given: list[Tensor]
    number: int
    outer: bool
    doubled: list[tuple[Tensor, str]] = field(default_factory=list)


@dataclass
class _Outer:
    """A call outside of all others, with its tensors."""

    name: str
    module: nn.Module
    given: list[Tensor]
    returned: list[Tensor]
    passes: int
    arrived: Arrived

    @cached_property
    def code(self) -> Tensor | None:
        """(rows,) numbers that tell the rows of the largest tensor apart."""
        largest = _largest(self.given)
        return None if largest is None else _encode(largest)


@dataclass
class _Repeated:
    """The calls of one module in their order.

    Attributes:
        given: Ids of what each call was given.
        like: What each returned in the shape of a tensor that it was given, by the places of both, and when.
    """

    given: list[list[int]] = field(default_factory=list)
    like: list[dict[tuple[int, int], tuple[Tensor, int]]] = field(default_factory=list)


class ModuleCalls:
    """Listens to one step, and says at its end what its calls have in common.

    Attributes:
        twins, agreeing, unread, dropped, rows: What was found.
        broken: Names of modules that were given a NaN from outside.
        first_given: Module -> the floating-point tensors without graph that its first outermost call was given.
    """

    def __init__(self) -> None:
        self.twins: list[TwinCalls] = []
        self.agreeing: list[AgreeingCalls] = []
        self.unread: list[UnreadArgument] = []
        self.dropped: list[DroppedState] = []
        self.rows: list[GivenRows] = []
        self.broken: list[str] = []
        self.first_given: dict[str, list[Tensor]] = {}
        self._open: list[_Open] = []
        self._outer: list[_Outer] = []
        self._repeated: dict[str, _Repeated] = {}
        self._time = 0
        self._read: dict[int, int] = {}  # id of a tensor -> when a function received it last
        self._passes = 0
        self._origins: dict[int, tuple[Tensor, Any]] = {}  # tensors are kept, so that no id comes twice
        self._makers: dict[int, str] = {}  # address of what an outermost call returned -> its module

    def passed(self) -> None:
        """A backward pass begins."""
        self._passes += 1

    def note(
        self,
        name: str,
        args: tuple[Any, ...],
        given: Iterable[Tensor],
        result: Any,
        place: Callable[[], str],
    ) -> None:
        """A function was called.

        Args:
            given: All tensors that it was given.
            place: Function that says in which file and line.
        """
        self._time += 1
        if name in ASKS:
            return
        self._read.update((id(each), self._time) for each in given)
        if name in _JOINS and self._open and args and isinstance(args[0], (tuple, list)):
            for one, other in combinations(args[0], 2):
                if one is other:
                    self._open[-1].doubled.append((one, f"{name}() at {place()}"))
        if isinstance(result, Tensor) and not result.requires_grad and args and isinstance(args[0], Tensor):
            self._note_origin(name, args, result)

    def _note_origin(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        if name in _COPIES:
            self._origins[id(result)] = (result, self._origin(args[0]))
        elif name == "__getitem__" and len(args) > 1:
            index = args[1] if isinstance(args[1], (int, slice)) else id(args[1])
            key = (self._origin(args[0]), repr(index))
            self._origins[id(result)] = (result, (key, args[0], args[1]))  # the index is kept too

    def _origin(self, tensor: Tensor) -> Any:
        found = self._origins.get(id(tensor))
        return found[1] if found is not None and found[0] is tensor else id(tensor)

    def read(self, tensor: Any) -> None:
        """An attribute of a tensor was asked that is a tensor with its numbers."""
        if isinstance(tensor, Tensor):
            self._time += 1
            self._read[id(tensor)] = self._time

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """A forward pass begins."""
        given = list(tensors_in((args, tuple(kwargs.values()))))
        self._time += 1
        for each in given:
            self._read[id(each)] = self._time
        self._time += 1
        outer = not self._open
        if outer and name not in self.first_given:
            known = [each for each in given if each.is_floating_point() and _is_table(each)]
            self.first_given[name] = [each for each in known if not each.requires_grad]
        self._open.append(_Open(name, module, given, self._time, outer))

    def leave(self, name: str, output: Any) -> None:
        """The innermost forward pass ends."""
        if not self._open or self._open[-1].name != name:
            self._open.clear()  # a call that raised has not ended here
            return
        call = self._open.pop()
        returned = list(tensors_in(output))
        self._note_unread(call)
        if len(returned) > 1:
            self._note_repeated(call, returned)
        if call.outer:
            self._makers.update((address_of(each), name) for each in returned)
            first = next((each for each in returned if each.grad_fn is not None), None)
            self._outer.append(_Outer(name, call.module, call.given, returned, self._passes, Arrived(first)))

    def _note_unread(self, call: _Open) -> None:
        for place, each in enumerate(call.given):
            if not each.requires_grad or self._read.get(id(each), 0) >= call.number:
                continue
            for other, where in call.doubled:
                if other.shape[:1] == each.shape[:1] and other.shape[2:] == each.shape[2:]:
                    self.unread.append(UnreadArgument(call.name, place, tuple(each.shape), where))
                    break

    def _note_repeated(self, call: _Open, returned: Sequence[Tensor]) -> None:
        known = self._repeated.setdefault(call.name, _Repeated())
        known.given.append([id(each) for each in call.given])
        known.like.append(
            {
                (place, own): (state, self._time)
                for place, given in enumerate(call.given)
                for own, state in enumerate(returned)
                if given.requires_grad
                and given.dim() > 1
                and given.shape == state.shape
                and state is not given
            }
        )

    @torch.no_grad()
    def finish(self) -> None:
        """The step has ended."""
        with torch._C.DisableTorchFunction():
            self.dropped += self._find_dropped()
            self.broken += [call.name for call in self._outer if any(map(_has_nan, call.given))]
            self.rows += [found for call in self._outer if (found := _rows_of(call)) is not None]
            self.twins += self._find_twins()
            self.agreeing += self._find_agreeing()
        self._outer.clear()
        self._open.clear()
        self._makers.clear()
        self._repeated.clear()
        self._read.clear()
        self._origins.clear()

    def _find_dropped(self) -> Iterator[DroppedState]:
        for name, calls in self._repeated.items():
            if len(calls.given) < _FEWEST_CALLS or len({len(each) for each in calls.given}) > 1:
                continue
            columns = [len(set(column)) for column in zip(*calls.given, strict=True)]
            if max(columns) == 1:
                continue  # the same call again
            for place, own in calls.like[0]:
                states = [each.get((place, own)) for each in calls.like]
                if columns[place] == 1 and all(
                    each is not None and self._is_unread(*each) for each in states
                ):
                    (state, _) = calls.like[0][place, own]
                    yield DroppedState(name, len(calls.given), tuple(state.shape))
                    break

    def _is_unread(self, tensor: Tensor, since: int) -> bool:
        return self._read.get(id(tensor), 0) <= since

    def _find_twins(self) -> Iterator[TwinCalls]:
        for first, second in combinations(self._outer, 2):
            if first.passes != second.passes:
                continue
            if first.module is not second.module and not _are_alike(first.module, second.module):
                continue
            given = [_largest(call.given) for call in (first, second)]
            if given[0] is None or given[1] is None or not self._have_own_memory(given[0], given[1]):
                continue
            if first.module is not second.module and self._is_picked(given[0]) != self._is_picked(given[1]):
                continue  # the same rows may have been picked for the first one before the step began
            if first.module is second.module and not _return_the_same(first, second):
                continue
            rows = _shared_rows(first.code, second.code)
            if rows:
                yield TwinCalls(first.name, second.name, rows)

    def _have_own_memory(self, one: Tensor, other: Tensor) -> bool:
        if one is other or one.requires_grad or other.requires_grad:
            return False
        origins = [self._key(each) for each in (one, other)]
        return address_of(one) != address_of(other) and origins[0] != origins[1]

    def _is_picked(self, tensor: Tensor) -> bool:
        """Whether the step picked its rows from another tensor by their numbers."""
        origin = self._origin(tensor)
        return isinstance(origin, tuple) and not isinstance(origin[2], (int, slice))

    def _key(self, tensor: Tensor) -> Any:
        found = self._origin(tensor)
        return found[0] if isinstance(found, tuple) else found

    def _find_agreeing(self) -> Iterator[AgreeingCalls]:
        for one, other in combinations(self._outer, 2):
            if one.module is not other.module or one.passes == other.passes:
                continue
            makers = [
                self._makers.get(address_of(call.given[0])) if call.given else None for call in (one, other)
            ]
            graphs = {call.given[0].requires_grad for call in (one, other) if call.given}
            if makers[0] is None or makers[0] != makers[1] or makers[0] == one.name or len(graphs) != 2:
                continue
            if _same_side(one.arrived.value, other.arrived.value):
                yield AgreeingCalls(one.name, makers[0])


def _same_side(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the gradients at the outputs of two calls, a number per row, are those of one loss with one target.

    They have one sign in nearly all rows, and one ratio: two squares with different targets, which oppose each other
    between these, have one sign on the same side of both.
    """
    if one is None or other is None or one.numel() != other.numel() or one.numel() != len(one):
        return False
    known = (one.flatten() != 0) & (other.flatten() != 0)
    ratios = one.flatten()[known] / other.flatten()[known]
    if len(ratios) < _FEWEST_SIDES or float((ratios > 0).float().mean()) <= _SAME_SIDE:
        return False
    return float(ratios.std()) <= _MOST_SPREAD * float(ratios.mean())


def _has_nan(tensor: Tensor) -> bool:
    if tensor.requires_grad or tensor.is_nested or tensor.is_meta or not tensor.is_floating_point():
        return False
    return bool(stored_values(tensor.detach()).isnan().any())


def _return_the_same(one: _Outer, other: _Outer) -> bool:
    pairs = list(zip(one.returned, other.returned, strict=False))
    return bool(pairs) and all(
        first.shape == second.shape and torch.allclose(first.float(), second.float(), 1e-5, 1e-6)
        for first, second in pairs
    )


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    shapes = [[(name, each.shape) for name, each in module.named_parameters()] for module in (one, other)]
    return type(one) is type(other) and bool(shapes[0]) and shapes[0] == shapes[1]


def _largest(given: Sequence[Tensor]) -> Tensor | None:
    """The floating-point tensor with rows that has the most numbers."""
    known = [each for each in given if _is_table(each) and each.is_floating_point() and each.dim() > 1]
    return max(known, key=Tensor.numel, default=None)


def _is_table(tensor: Tensor) -> bool:
    return is_dense(tensor) and not tensor.is_complex() and tensor.dim() > 0 and tensor.numel() > 0


def _encode(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(len(tensor), -1).cpu()
    flat = flat[:, :: -(-flat.shape[1] // _MOST_COLUMNS)].double()
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(flat.shape[1], generator=generator, dtype=torch.double) + 0.5
    return (flat * weights).sum(1)


def _shared_rows(one: Tensor | None, other: Tensor | None) -> int:
    """How many rows the shorter has, if the longer has them all, and they are not nearly all the same."""
    if one is None or other is None:
        return 0
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    if len(short) < _FEWEST_ROWS or 2 * len(short) < len(long) or len(short.unique()) < _FEWEST_ROWS:
        return 0
    same = torch.equal(long, short) if len(long) == len(short) else bool(torch.isin(short, long).all())
    return len(short) if same else 0


def _rows_of(call: _Outer) -> GivenRows | None:
    known = [each for each in call.given if _is_table(each)]
    largest = _largest(known)
    if largest is None or any(each.requires_grad for each in known):
        return None
    rows = [each for each in known if len(each) == len(largest)]
    if len(rows) < len(known):
        return None
    given = (each if each.dim() > 1 else each[:, None] for each in rows)
    codes = [code if each is largest and (code := call.code) is not None else _encode(each) for each in given]
    numbered = torch.stack([code * (1 + place) for place, code in enumerate(codes)])
    whole = all(bool((each == each.round()).all()) if each.is_floating_point() else True for each in rows)
    return GivenRows(call.name, numbered.sum(0), whole)
