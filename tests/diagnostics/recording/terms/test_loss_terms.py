"""Named terms: what is recorded equals brute-force autograd, and training is bit for bit what it is without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diagnostics import Absent, Monitor, audit
from tests.diagnostics.refusals import refused

SAMPLES = 6


class Recomputed(torch.autograd.Function):
    """A checkpoint as users write it: its backward pass runs another one, which writes to `.grad`."""

    @staticmethod
    def forward(ctx: Any, run: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.run, ctx.x, ctx.weights = run, x.detach(), len(weights)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, ...]:
        with torch.enable_grad():
            torch.autograd.backward(ctx.run(ctx.x), *upstream)
        return (None, None, *[None] * ctx.weights)


class Net(nn.Module):
    """Samples are cut by a mask on the way to the first term; dropout, batch statistics and a repeated forward pass."""

    def __init__(self, reentrant: bool | str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh())
        self.head = nn.Linear(8, 2)
        self.spare = nn.Linear(8, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> dict[str, Tensor | float]:
        if self.reentrant is None:
            context = self.encoder(x)
        elif self.reentrant == "own":
            context = Recomputed.apply(self.encoder, x, *self.encoder.parameters())
        else:
            context = checkpoint(self.encoder, x, use_reentrant=self.reentrant, preserve_rng_state=False)
        live = (torch.arange(len(x)) < 2)[:, None]
        used = torch.where(live, context, context.detach())
        return {
            "task": self.head(used).square().mean(),
            "size": 0.1 * context[:3].square().sum(),
            "constant": 2.0,
            "graphless": torch.tensor(0.5),
            "spread": 0.01 * self.spare.weight.square().sum(),
        }


def train(model: Net, monitor: Monitor | None, steps: int = 3) -> list[Tensor]:
    """Weights, buffers, gradients and the next random number after some steps."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        x = torch.randn(SAMPLES, 4, requires_grad=model.reentrant is True)
        optimizer.zero_grad()
        if monitor is None:
            sum(model(x).values()).backward()
            optimizer.step()
            continue
        with monitor.step(samples=SAMPLES):
            parts = model(x)
            monitor.terms(parts)
            sum(parts.values()).backward()
            optimizer.step()
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    return [*model.state_dict().values(), *gradients, torch.rand(3)]


@pytest.mark.parametrize("reentrant", [None, False, True, "own"])
def test_training_is_bit_for_bit_the_same(reentrant: bool | str | None) -> None:
    plain = train(Net(reentrant), None)
    model = Net(reentrant)
    seen = train(model, Monitor(model, regularisers=["size"]))
    assert len(plain) == len(seen)
    assert all(map(torch.equal, plain, seen))


def test_a_term_counts_what_an_own_checkpoint_writes_to_grad() -> None:
    model = Net("own").eval()
    monitor = Monitor(model)
    with monitor.step(samples=SAMPLES):
        parts = model(torch.randn(SAMPLES, 4))
        monitor.terms({"size": parts["size"]})
        sum(parts.values()).backward()
    reached = monitor.last.terms["size"].parameters
    trained = {name for name, reach in reached.items() if reach.kind in ("some", "all")}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}


def brute_force(model: Net, x: Tensor, term: str, module: str) -> tuple[list[Tensor | None], float]:
    """Gradients of a term for the parameters of a module, and the share of samples that the module sends it through."""
    kept: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(lambda m, args, output: kept.append(output))
    value = model(x)[term]
    handle.remove()
    if not isinstance(value, Tensor) or not value.requires_grad:
        return [None for _ in model.get_submodule(module).parameters()], 0.0
    parameters = list(model.get_submodule(module).parameters())
    gradients = torch.autograd.grad(value, [*parameters, *kept], allow_unused=True)
    through = gradients[len(parameters) :]
    covered = sum(bool(g.abs().sum(1)[row]) for g in through if g is not None for row in range(len(x)))
    return list(gradients[: len(parameters)]), covered / len(x)


@pytest.mark.parametrize("term", ["task", "size", "constant", "graphless", "spread"])
@pytest.mark.parametrize("module", ["encoder", "head"])
def test_reach_and_coverage_equal_brute_force(term: str, module: str) -> None:
    model = Net().eval()
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(3))
    gradients, coverage = brute_force(model, x, term, module)
    before = [parameter.detach().clone() for parameter in model.get_submodule(module).parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, regularisers=["size", "spread"])
    with monitor.step(samples=SAMPLES):
        parts = model(x)
        monitor.terms(parts)
        sum(parts.values()).backward()
        optimizer.step()
    record = monitor.last.terms[term]
    reach = record.modules[module]
    assert record.unknown is None
    assert record.value == pytest.approx(float(torch.as_tensor(parts[term]).detach()))
    assert record.regulariser == (term in ("size", "spread"))
    assert reach.coverage == pytest.approx(coverage)
    arrived = [gradient for gradient in gradients if gradient is not None]
    assert reach.params_none == len(gradients) - len(arrived)
    assert reach.params_zero == sum(not gradient.any() for gradient in arrived)
    if arrived:
        assert reach.norm == pytest.approx(float(torch.cat([g.flatten() for g in arrived]).norm()), rel=1e-5)
        after = [each.detach() for each in model.get_submodule(module).parameters()]
        fall = sum(
            float((gradient * (old - new)).sum())
            for gradient, old, new in zip(gradients, before, after, strict=True)
            if gradient is not None
        )
        assert reach.descent == pytest.approx(fall, rel=1e-4)
    else:
        assert isinstance(reach.norm, Absent)
        assert isinstance(reach.descent, Absent)
    for name, gradient in zip(
        (name for name, _ in model.get_submodule(module).named_parameters()), gradients, strict=True
    ):
        kind = record.parameters[f"{module}.{name}"].kind
        assert (kind == "none") == (gradient is None)


def test_terms_of_micro_batches_add_up() -> None:
    model = Net().eval()
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(3))
    monitor = Monitor(model, watch=["head"])
    with monitor.step(samples=3):
        for part in x.split(3):
            parts = model(part)
            monitor.terms(parts)
            sum(parts.values()).backward()
    whole = [model(part)["task"] for part in x.split(3)]
    expected = torch.autograd.grad(sum(whole), list(model.head.parameters()))
    record = monitor.last.terms["task"]
    assert record.value == pytest.approx(float(sum(whole).detach()))
    assert record.modules["head"].norm == pytest.approx(
        float(torch.cat([gradient.flatten() for gradient in expected]).norm()), rel=1e-5
    )


def test_the_gradient_of_the_step_is_recorded_as_without_terms() -> None:
    records = []
    for named in (False, True):
        model = Net().eval()
        monitor = Monitor(model)
        with monitor.step(samples=SAMPLES):
            parts = model(torch.ones(SAMPLES, 4))
            if named:
                monitor.terms(parts)
            sum(parts.values()).backward()
        records.append({name: record.scalars() for name, record in monitor.last.modules.items()})
    assert records[0] == records[1]


def after_backward(parts: dict[str, Any], measure: Callable[[], None]) -> None:
    sum(parts.values()).backward()
    measure()


def test_a_graph_that_is_gone_is_reported_as_unknown() -> None:
    model = Net().eval()
    monitor = Monitor(model, regularisers=["size"])
    with monitor.step(samples=SAMPLES):
        parts = model(torch.ones(SAMPLES, 4))
        after_backward(parts, lambda: monitor.terms(parts))
    record = monitor.last.terms["task"]
    assert record.unknown is not None
    assert (record.unknown.code, record.modules) == ("not-differentiable", {})
    assert monitor.last.modules["encoder"].state == "arrived"


def test_reentrant_checkpointing_is_reported_as_unknown() -> None:
    model = Net(reentrant=True)
    monitor = Monitor(model)
    train(model, monitor, steps=1)
    unknown = monitor.last.terms["task"].unknown
    assert unknown is not None
    assert unknown.code == "reentrant-checkpoint"
    assert "reentrant-checkpoint" in {finding.code for finding in monitor.findings()}


def test_outside_a_recorded_step_terms_do_nothing() -> None:
    model = Net().eval()
    monitor = Monitor(model, every=2)
    monitor.terms(model(torch.ones(SAMPLES, 4)))
    for _ in range(2):
        with monitor.step(samples=SAMPLES):
            parts = model(torch.ones(SAMPLES, 4))
            monitor.terms(parts)
            sum(parts.values()).backward()
    assert set(monitor.last.terms) == set(parts)
    assert monitor.last.step == 0


@pytest.mark.parametrize(
    ("terms", "kind", "code"),
    [
        ([1.0], TypeError, "monitor.terms-not-named"),
        ({"": 1.0}, TypeError, "monitor.terms-not-named"),
        ({"task": "1"}, TypeError, "monitor.terms-not-named"),
        ({"task": torch.ones(2)}, ValueError, "monitor.term-not-scalar"),
    ],
)
def test_what_is_no_mapping_of_names_to_scalars_is_refused(
    terms: Any, kind: type[Exception], code: str
) -> None:
    monitor = Monitor(Net())
    with refused(kind, code), monitor.step(samples=SAMPLES):
        monitor.terms(terms)


def test_a_regulariser_that_is_no_term_is_reported() -> None:
    model = Net().eval()
    monitor = Monitor(model, regularisers=["sizes"])
    with monitor.step(samples=SAMPLES):
        monitor.terms(model(torch.ones(SAMPLES, 4)))
    assert "unknown-regulariser" in {finding.code for finding in monitor.findings()}


def test_an_audit_takes_the_terms_that_the_step_returns() -> None:
    model = Net()
    report = audit(
        model,
        lambda model, x: model(x),
        [torch.ones(SAMPLES, 4)],
        torch.optim.SGD(model.parameters(), 0.1),
        regularisers=["size"],
        steps=3,
    )
    assert report.last.terms["task"].modules["head"].kind == "some"
    assert report.last.terms["size"].modules["head"].kind == "none"
    assert len(report.losses) == 3
    assert report.losses[-1] == pytest.approx(
        sum(term.value for term in report.last.terms.values()), rel=1e-5
    )
    assert "size (regulariser)" in str(report)


@pytest.mark.parametrize("named", [True, False])
def test_an_audit_names_the_terms_of_a_tuple_and_chooses_among_named_ones(named: bool) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(model: nn.Module, x: Tensor) -> Any:
        parts = model(x)
        task, size = parts["task"], parts["size"]
        return {"task": task, "size": size} if named else (task, size)

    batches = [torch.randn(SAMPLES, 4)]
    found = audit(model, step, batches, optimizer, steps=2, terms=["task"] if named else ["task", "size"])
    assert set(found.last.terms) == ({"task"} if named else {"task", "size"})
    whole = audit(model, step, batches, optimizer, steps=2, terms=[] if named else ["task", "size"])
    assert found.losses == whole.losses  # those that are not measured still count
    with refused(ValueError, "monitor.terms-not-returned", allowed="task, kl, size"):
        audit(model, step, batches, optimizer, steps=2, terms=["task", "kl", "size"])
