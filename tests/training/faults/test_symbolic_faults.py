"""Each fault of the symbolic solver does what its name says, measured on the gradients and answers of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diagnostics import Monitor, Severity
from etrm.config import Config, load, with_settings
from etrm.errors import ConfigError
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic import Grids, loop_evaluator, parse, tensor_evaluator
from etrm.symbolic.batches import read_queries
from etrm.symbolic.templates import as_tokens
from etrm.training.faults import FAULTS, RENAMED, build_recipe, find_all
from etrm.training.loss import act_loss
from etrm.training.trainer import Trainer
from tests.errors import raises_code

RECURSIVE = {name for name, fault in FAULTS.items() if fault.models == "recursive"}
SYMBOLIC = {name for name, fault in FAULTS.items() if fault.models == "symbolic"}
PREDICATES = {"core.predicates.guards", "core.predicates.pairs"}


def rules(*faults: str, **symbolic: Any) -> Config:
    return with_settings(
        load("symbolic-rules"),
        faults=faults,
        data={"max_tasks": 60, "max_side": 4},
        model={"symbolic": {"guards": 3, "width": 8, **symbolic}},
        train={"batch_size": 4, "warmup_steps": 0, "threads": 1},
        monitor={"enabled": False},
    )


def first_step(config: Config) -> tuple[Trainer, Tensor, dict[str, Tensor | None]]:
    """A trainer, its logits on its first batch, and the gradient of each parameter."""
    trainer = Trainer(config)
    slots = trainer.slots[0]
    slots.refill([True] * len(slots.indices))
    batch = slots.batch()
    _, output = trainer.model(trainer.carries[0], batch)
    act_loss(output, batch.labels, "softmax").lm.sum().backward()
    return trainer, output.logits, {name: p.grad for name, p in trainer.model.named_parameters()}


def module_of(name: str) -> str:
    return ".".join(name.split(".")[:3])


def modules(gradients: dict[str, Tensor | None], *, zero: bool | None) -> set[str]:
    """The modules that have a tensor without gradient (None), or with one that is zero or not."""
    return {
        module_of(name)
        for name, gradient in gradients.items()
        if (gradient is None if zero is None else gradient is not None and (not gradient.any()) == zero)
    }


def test_a_healthy_solver_has_gradients_in_every_tensor() -> None:
    _, _, gradients = first_step(rules())
    assert modules(gradients, zero=None) == set()
    assert {module_of(name) for name, g in gradients.items() if g is not None and g.any()} >= PREDICATES


def test_a_lost_assignment_answers_the_query_whatever_the_context_is() -> None:
    trainer, logits, _ = first_step(rules("assignment-lost"))
    model, batch = trainer.model, trainer.slots[0].batch()
    queries = read_queries(batch)
    copied = queries.read(as_tokens(queries.grids, queries.region)).argmax(-1)
    assert torch.equal(logits.argmax(-1), copied)
    rows, templates = batch.size, model.context_shape[1]
    other = torch.randn(rows, 1, templates).softmax(-1)
    _, output = model.step(trainer.carries[0], batch, other)
    torch.testing.assert_close(output.logits, logits)
    healthy = first_step(rules())[1]
    assert not torch.equal(healthy.argmax(-1), copied)


def test_unregistered_predicates_get_gradients_and_stay_as_they_are() -> None:
    trainer, _, gradients = first_step(rules("predicates-unregistered"))
    assert {module_of(name) for name in gradients} == {"encoder.selector.rules"} | {
        f"encoder.selector.{name}" for name in ("conditions", "sources", "log_scale")
    }
    assert not any("predicates" in name for name in trainer.model.state_dict())
    assert isinstance(trainer.model, SymbolicVariant)
    hidden: Any = trainer.model.core.predicates
    weights = [p for module in hidden.learned.values() for p in module.parameters()]
    before = [p.detach().clone() for p in weights]
    assert all(p.grad is not None and p.grad.any() for p in weights)
    trainer.train_step()
    assert all(torch.equal(p, old) for p, old in zip(weights, before, strict=True))


def test_read_predicates_have_the_same_values_and_no_gradient() -> None:
    _, logits, gradients = first_step(rules("predicates-item"))
    _, healthy, _ = first_step(rules())
    assert torch.equal(logits, healthy)
    assert modules(gradients, zero=None) == PREDICATES


def test_a_hard_selection_lets_no_gradient_into_the_selector() -> None:
    _, _, gradients = first_step(rules("hard-selection"))
    assert {name.partition(".")[0] for name in modules(gradients, zero=None)} == {"encoder"}
    assert modules(gradients, zero=False) == PREDICATES


ENCODER = "encoder.selector.encoder"


def test_early_cycles_without_gradient_starve_the_encoder_and_not_the_refiners() -> None:
    _, _, gradients = first_step(rules("cycles-no-grad"))
    assert modules(gradients, zero=None) == {ENCODER}
    refiners = {f"encoder.selector.refine_{name}" for name in "yz"}
    assert modules(gradients, zero=False) >= refiners
    healthy = rules(selector="demos", cycle_grad="last", inject="every_cycle")
    _, _, gradients = first_step(healthy)
    assert ENCODER in modules(gradients, zero=False)
    assert modules(gradients, zero=None) == set()


@pytest.mark.parametrize("tnorm", ["product", "lukasiewicz"])
@pytest.mark.parametrize("families", [("learned",), ("original", "learned")])
def test_a_tautology_has_a_gradient_of_exactly_zero(tnorm: str, families: tuple[str, ...]) -> None:
    _, _, gradients = first_step(rules("tautology-guard", tnorm=tnorm, families=families))
    assert modules(gradients, zero=None) == set()
    assert modules(gradients, zero=True) >= PREDICATES
    assert PREDICATES.isdisjoint(modules(gradients, zero=False))


def test_a_python_loop_has_the_values_and_gradients_of_all_cells_at_once() -> None:
    _, logits, gradients = first_step(rules("python-loop-predicates"))
    _, healthy, expected = first_step(rules())
    torch.testing.assert_close(logits, healthy, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fault", ["predicates-unregistered", "predicates-item", "python-loop-predicates"])
def test_other_predicates_have_the_same_values_for_single_cells_too(fault: str) -> None:
    guard = parse("where exists y: related(x, y, 0) and learned(y, 1) paint 3")
    grids, truths = Grids.of([[[0, 1, 2], [3, 0, 1]]]), []
    for faults in ((), (fault,)):
        model = Trainer(rules(*faults)).model
        assert isinstance(model, SymbolicVariant)
        for evaluator in (tensor_evaluator, loop_evaluator):
            painted = evaluator.apply_rule(
                guard, grids, model.core.predicates, model.core.templates.semantics
            )
            truths.append(painted.colours)
    for other in truths[1:]:
        torch.testing.assert_close(other, truths[0])


# -- what the monitor says ------------------------------------------------------------------------


def watched(*faults: str, steps: int = 6) -> tuple[Monitor, dict[str, set[str]]]:
    """A monitor of the learned predicates after some steps, and the modules that its rules name."""
    trainer = Trainer(rules(*faults))
    slots = trainer.slots[0]
    monitor = Monitor(trainer.model, trainer.optimizers, watch=["encoder", "core", *sorted(PREDICATES)])
    for _ in range(steps):
        slots.refill([True] * len(slots.indices))
        batch = slots.batch()
        with monitor.step(samples=batch.size):
            _, output = trainer.model(trainer.carries[0], batch)
            act_loss(output, batch.labels, "softmax").lm.sum().backward()
            for optimizer in trainer.optimizers:
                optimizer.step()
                optimizer.zero_grad()
    named: dict[str, set[str]] = {}
    for finding in monitor.findings():
        if finding.severity > Severity.NOTE:
            named.setdefault(finding.rule, set()).add(finding.module)
    return monitor, named


@pytest.mark.slow
def test_the_monitor_sees_that_a_loop_costs_calls_and_no_gradient() -> None:
    once, healthy = watched(steps=2)
    looped, named = watched("python-loop-predicates", steps=2)
    assert healthy == named == {}
    for name in PREDICATES:
        calls = looped.last.modules[name].scalars()["calls"]
        assert calls >= 9 * once.last.modules[name].scalars()["calls"]  # the smallest grid has 9 cells
        assert looped.last.modules[name].scalars()["calls_with_gradient"] == calls


@pytest.mark.parametrize(("fault", "rule"), [("predicates-item", "GRAD001"), ("tautology-guard", "GRAD002")])
def test_the_monitor_tells_no_gradient_from_a_gradient_of_zero(fault: str, rule: str) -> None:
    _, named = watched(fault)
    assert named[rule] >= PREDICATES
    assert {"GRAD001", "GRAD002"} - {rule} - named.keys()


# -- which models they act on ---------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SYMBOLIC - RENAMED.keys()))
def test_a_fault_of_the_symbolic_solver_is_refused_on_other_models(name: str) -> None:
    with raises_code(ConfigError, "fault.needs-symbolic", name):
        build_recipe(with_settings(load("smoke"), faults=(name,)))


@pytest.mark.parametrize("name", sorted(RECURSIVE))
def test_a_fault_of_the_recursive_core_is_refused_on_the_symbolic_solver(name: str) -> None:
    with raises_code(ConfigError, "fault.needs-recursive", name):
        build_recipe(rules(name))


def test_the_name_of_the_loop_means_a_scalar_read_in_runs_of_recursive_models() -> None:
    name = "python-loop-predicates"
    for preset, meant in (("smoke", "scalar-read"), ("symbolic-rules", name)):
        faulty = with_settings(load(preset), faults=(name,))
        assert [fault.name for fault in find_all(faulty)] == [meant]


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - RECURSIVE - {"context-nan"}))
def test_every_other_fault_acts_on_the_symbolic_solver(name: str) -> None:
    trainer = Trainer(rules(name))
    assert trainer.train_step()["loss"] > 0
