"""Everything that a step measures equals brute force on random programs that mix all ways of calling a module.

The truth: a twin of the model runs the same forward pass without a monitor and without checkpointing, and every
sample's loss is differentiated alone, with respect to what each call returned (its gradient edge, so that later
changes in place do not matter) and to the weights. Nothing of the toolkit takes part in it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint

from diagnostics import Absent, Monitor

TOKENS, WIDTH = 2, 3
NAMES = ("first", "second")


@dataclass(frozen=True)
class Call:
    """One call of a module: how it is fed, what it returns, and what becomes of that."""

    module: str
    enabled: bool  # gradients, when it runs
    layout: str
    structure: str
    change: str  # in place, of what it returned
    cut: str  # how samples that are not live are cut
    live: tuple[bool, ...]  # per sample of the batch
    recompute: str


@dataclass(frozen=True)
class Case:
    """One training step."""

    batch: int
    calls: tuple[Call, ...]
    micro_batches: tuple[tuple[int, ...], ...]  # the samples of each; they accumulate into one step
    passes: int  # backward passes per micro-batch, each of its own part of the loss
    weighted: tuple[bool, ...]  # samples that have a loss
    autocast: bool
    seed: int


class Piece(nn.Module):
    """Half of its units are zero, exactly; returns its result in several structures."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, rows: Tensor, structure: str) -> Any:
        y = self.linear(x)
        y = torch.where(y > 0, y, 0.0)
        if structure == "tuple":
            return y, y * 2
        if structure == "nested":
            return {"hidden": [None, {"y": y}], "others": (3, y.sum(-1), rows)}
        return y.view(y.shape) if structure == "view" else y


def join(output: Any, structure: str) -> Tensor:
    """Use every tensor that a piece returned."""
    if structure == "tuple":
        return output[0] + output[1]
    if structure == "nested":
        return output["hidden"][1]["y"] + output["others"][1][..., None]
    return output


def change(output: Tensor, how: str, live: Tensor) -> None:
    """Change what a piece returned, in place; `live` has the leading shape of `output`."""
    mask = live.reshape(live.shape + (1,) * (output.dim() - live.dim()))
    if how == "scale":
        output.mul_(mask)
    elif how == "fill":
        output.masked_fill_(~mask, 0.0)
    elif how == "detach rows":
        output[~live] = output[~live].detach()


@dataclass
class Returned:
    """What one call returned: gradient edges, and the sample of each row."""

    call: Call
    edges: list[Any]
    samples: Tensor


class Program(nn.Module):
    """Runs the calls one after the other on a state (samples, TOKENS, WIDTH)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(case.seed)
        self.first, self.second, self.head = Piece(), Piece(), nn.Linear(WIDTH, 2)
        self.to(dtype_of(case))
        self.case = case
        self.returned: list[Returned] = []

    def forward(self, x: Tensor, samples: Tensor, checkpointing: bool) -> Tensor:
        state = x
        for call in self.case.calls:
            with torch.set_grad_enabled(call.enabled):
                if checkpointing and call.recompute and call.enabled:
                    reentrant = call.recompute == "reentrant"
                    added = checkpoint(self.run, state, samples, call, use_reentrant=reentrant)
                else:
                    added = self.run(state, samples, call)
            state = state + added
        return self.head(state).mean(1)

    def run(self, state: Tensor, samples: Tensor, call: Call) -> Tensor:
        kept = torch.arange(len(samples))[::2] if call.layout == "subset" else torch.arange(len(samples))
        x, rows = state[kept], samples[kept]
        if call.layout == "folded":
            x, rows = x.flatten(0, 1), rows.repeat_interleave(TOKENS)
        elif call.layout == "sequence first":
            x, rows = x.transpose(0, 1), rows.expand(TOKENS, -1)
        output = self.get_submodule(call.module)(x, rows=rows, structure=call.structure)
        self.note(call, output, rows)
        live = torch.tensor(call.live)[rows]
        if isinstance(output, Tensor):
            change(output, call.change, live)
        y = join(output, call.structure)
        live = live.reshape(live.shape + (1,) * (y.dim() - live.dim()))
        if call.cut == "where":
            y = torch.where(live, y, y.detach())
        elif call.cut == "mask":
            y = y * live
        if call.layout == "folded":
            y = y.unflatten(0, (-1, TOKENS))
        elif call.layout == "sequence first":
            y = y.transpose(0, 1)
        return torch.zeros_like(state).index_add(0, kept, y.to(state.dtype))

    def note(self, call: Call, output: Any, rows: Tensor) -> None:
        parts = {
            "tuple": lambda: list(output),
            "nested": lambda: [output["hidden"][1]["y"], output["others"][1]],
        }
        tensors = parts.get(call.structure, lambda: [output])()
        edges = [get_gradient_edge(tensor) for tensor in tensors if tensor.requires_grad]
        self.returned.append(Returned(call, edges, rows.flatten()))


def losses_of(output: Tensor, samples: Tensor, case: Case) -> list[Tensor]:
    """Per backward pass, the loss of each sample; every sample's loss lies in one pass alone."""
    weight = torch.tensor(case.weighted)[samples] * (samples + 1)
    losses = weight * output.double().square().sum(1)
    return [losses * (samples % case.passes == number) for number in range(case.passes)]


def inputs(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randn(case.batch, TOKENS, WIDTH, generator=generator, dtype=dtype_of(case)).requires_grad_()


def dtype_of(case: Case) -> torch.dtype:
    return torch.float32 if case.autocast else torch.float64  # double takes no part in autocast


def mixed(case: Case) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if case.autocast else nullcontext()


@dataclass
class Truth:
    """Per module and call, the largest |gradient| of each row; per parameter, its gradient (None if it has none)."""

    calls: dict[str, list[tuple[Returned, Tensor]]]
    parameters: dict[str, Tensor | None]


def brute_force(case: Case) -> Truth:
    """One backward pass per sample."""
    model = Program(case)
    calls: dict[str, list[tuple[Returned, Tensor]]] = {name: [] for name in NAMES}
    totals: dict[str, Tensor | None] = dict.fromkeys(name for name, _ in model.named_parameters())
    for group in case.micro_batches:
        samples = torch.tensor(group)
        model.returned.clear()
        with mixed(case):
            output = model(inputs(case)[samples], samples, checkpointing=False)
        loss = sum(losses_of(output, samples, case))
        for returned in model.returned:
            sizes = torch.zeros(len(returned.samples), dtype=torch.float64)
            for place, sample in enumerate(group):
                mine = returned.samples == sample
                for edge in returned.edges:
                    (gradient,) = torch.autograd.grad(loss[place], edge, retain_graph=True, allow_unused=True)
                    if gradient is not None:
                        rows = gradient.reshape(len(sizes), -1).abs().amax(1).double()
                        sizes[mine] = torch.maximum(sizes, rows)[mine]
            calls[returned.call.module].append((returned, sizes))
        for name, parameter in model.named_parameters():
            for place in range(len(group)):
                (gradient,) = torch.autograd.grad(
                    loss[place], parameter, retain_graph=True, allow_unused=True
                )
                if gradient is not None:
                    before = totals[name]
                    totals[name] = gradient if before is None else before + gradient
    return Truth(calls, totals)


def observe(case: Case) -> Monitor:
    """The step as it is trained, with a monitor."""
    model = Program(case)
    by_argument = dict.fromkeys(NAMES, lambda args, kwargs, output: kwargs["rows"])
    monitor = Monitor(model, watch=NAMES, rows=by_argument)
    with monitor.step(samples=case.batch):
        for group in case.micro_batches:
            samples = torch.tensor(group)
            with mixed(case):
                output = model(inputs(case)[samples], samples, checkpointing=True)
            parts = losses_of(output, samples, case)
            for number, part in enumerate(parts):
                part.sum().backward(retain_graph=number + 1 < len(parts))
    return monitor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 4))
    flags = st.tuples(*[st.booleans()] * batch)
    call = st.builds(
        Call,
        module=st.sampled_from(NAMES),
        enabled=st.sampled_from([True, True, True, False]),
        layout=st.sampled_from(["plain", "subset", "folded", "sequence first"]),
        structure=st.sampled_from(["plain", "tuple", "nested", "view"]),
        change=st.sampled_from(["", "scale", "fill", "detach rows"]),
        cut=st.sampled_from(["", "where", "mask"]),
        live=flags,
        recompute=st.sampled_from(["", "reentrant", "non-reentrant"]),
    )
    order = draw(st.permutations(range(batch)))
    border = draw(st.integers(0, batch - 1))
    calls = tuple(draw(st.lists(call, min_size=1, max_size=4)))
    several = draw(st.integers(1, 2))
    # torch refuses a second backward pass through a reentrant checkpoint
    passes = 1 if any(one.recompute == "reentrant" for one in calls) else several
    return Case(
        batch=batch,
        calls=calls,
        micro_batches=tuple(tuple(part) for part in (order[:border], order[border:]) if part),
        passes=passes,
        weighted=draw(flags),
        autocast=draw(st.booleans()),
        seed=draw(st.integers(0, 10_000)),
    )


def changed_view(call: Call) -> bool:
    """torch gives a view that is changed in place a new history: its gradient cannot be seen."""
    return call.structure == "view" and bool(call.change) and call.enabled


def compare(case: Case) -> None:
    """Everything measured against the truth."""
    truth, monitor = brute_force(case), observe(case)
    tolerance = 1e-5 if case.autocast else 1e-9
    for name in NAMES:
        calls = truth.calls[name]
        if any(changed_view(returned.call) for returned, _ in calls):
            coverage = monitor.coverage(name)
            assert isinstance(coverage, Absent) or coverage == 1.0  # what other calls show may suffice
            continue
        n = torch.zeros(case.batch, dtype=torch.float64)
        processed = set()
        for returned, sizes in calls:
            n.scatter_reduce_(0, returned.samples, sizes, "amax")
            processed |= set(returned.samples.tolist())
        covering = int((n > 0).sum())
        assert monitor.coverage(name) == covering / case.batch
        if processed:
            assert monitor.waste(name) == pytest.approx(1 - covering / len(processed))
        if covering:
            expected = float(n.sum() ** 2 / (case.batch * n.square().sum()))
            assert monitor.evenness(name) == pytest.approx(expected, rel=max(tolerance, 1e-6))
        record = monitor.last.modules[name]
        assert record.calls_total == len(calls)
        assert record.calls_with_gradient == sum(bool(sizes.any()) for _, sizes in calls)
        # reentrant checkpoints run again from the last to the first
        torch.testing.assert_close(
            sorted(call.row_gradients.double().tolist() for call in record.calls if call.gradient),
            sorted(sizes.tolist() for _, sizes in calls if sizes.any()),
            rtol=tolerance,
            atol=0.0,
        )
    for name, gradient in truth.parameters.items():
        if name.split(".")[0] not in NAMES:
            continue
        reach = monitor.reach(name)
        if gradient is None:
            assert reach.kind == "none"
            continue
        if case.autocast:  # sums in bfloat16, in another order
            assert reach.kind in ("some", "all") or not gradient.any()
            continue
        share = float((gradient != 0).double().mean())
        assert reach.kind == ("zero" if not share else "all" if share == 1 else "some")
        assert reach.nonzero == pytest.approx(share)
        assert reach.norm == pytest.approx(float(gradient.norm()), rel=tolerance)


@settings(max_examples=30)
@given(case=cases())
def test_equals_brute_force(case: Case) -> None:
    compare(case)


@pytest.mark.slow
@settings(max_examples=2000)
@given(case=cases())
def test_equals_brute_force_on_many(case: Case) -> None:
    compare(case)
