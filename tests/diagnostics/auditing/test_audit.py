"""An audit leaves nothing behind, says the same as a monitor in the user's loop, and knows both kinds of step."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Response, Severity, audit
from tests.diagnostics.refusals import refused

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """A batch norm, dropout and a cache: three kinds of state that a step changes."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.dropout = nn.Dropout(0.1)
        self.decoder = nn.Linear(8, 3)
        self.cut = cut
        self.cache: Tensor | None = None
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        context = self.encoder(x)
        self.cache = context.detach()
        return self.decoder(self.dropout(context.detach() if self.cut else context))


def batches(count: int = 4, samples: int = 10) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(samples, 6, generator=generator), torch.randint(3, (samples,), generator=generator))
        for _ in range(count)
    ]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def whole_step(optimizer: torch.optim.Optimizer) -> Callable[[nn.Module, Batch], float]:
    def step(model: nn.Module, batch: Batch) -> float:
        random.random()
        numpy.random.random()  # noqa: NPY002 - the global state is what is put back
        found = loss(model, batch)
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        return found.item()

    return step


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Everything that the user could see change, with the identity of the tensors that hold it."""
    tensors = [*model.parameters(), *model.buffers()]
    return [
        *((id(tensor), tensor.detach().clone()) for tensor in tensors),
        *((id(p.grad), None if p.grad is None else p.grad.clone()) for p in model.parameters()),
        copy.deepcopy(optimizer.state_dict()),
        [id(state) for state in optimizer.state.values()],
        [(module.training, len(module._forward_hooks)) for module in model.modules()],
        (model.steps, id(model.cache)),
        torch.get_rng_state(),
        random.getstate(),
        numpy.random.get_state(),  # noqa: NPY002 - as above
    ]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, numpy.ndarray):
        return bool((left == right).all())
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def trained(cut: bool = False) -> tuple[Net, torch.optim.Optimizer]:
    """A model in the middle of its training: with moments, a cache, gradients that are not yet cleared."""
    torch.manual_seed(0)
    model = Net(cut)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    step = whole_step(optimizer)
    for batch in batches(2):
        step(model, batch)
    loss(model, batches(1)[0]).backward()
    return model, optimizer


@pytest.mark.parametrize("whole", [True, False], ids=["whole step", "loss alone"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
def test_nothing_is_left_behind(whole: bool, fails: bool) -> None:
    model, optimizer = trained()
    before = state_of(model, optimizer)
    chosen = whole_step(optimizer) if whole else loss
    given = [*batches(3), None] if fails else batches(3)
    if fails:
        with pytest.raises((TypeError, ValueError)):
            audit(model, chosen, given, optimizer)
    else:
        report = audit(model, chosen, given, optimizer)
        assert report.last.parameters["decoder.weight"].changed, "it did train"
    assert same(before, state_of(model, optimizer))


def test_both_kinds_of_step_give_what_a_monitor_in_the_loop_gives() -> None:
    model, optimizer = trained()
    twin, other = trained()
    random_state = torch.get_rng_state()
    whole = audit(model, whole_step(optimizer), batches(3), optimizer, steps=6)
    torch.set_rng_state(random_state)
    monitor = Monitor(twin, other)
    losses = []
    for number in range(6):
        batch = batches(3)[number % 3]
        with monitor.step(samples=10):
            losses.append(whole_step(other)(twin, batch))
    assert whole.losses == tuple(losses)
    assert [record.modules for record in whole.history] == [record.modules for record in monitor.history]
    torch.set_rng_state(random_state)
    alone = audit(model, loss, batches(3), optimizer, steps=1)
    assert alone.losses == whole.losses[:1]
    assert alone.history[0].modules == whole.history[0].modules


def test_names_the_cut_and_is_silent_on_the_sound_twin() -> None:
    broken = audit(*_arguments(cut=True))
    assert [(f.rule, f.module) for f in broken.findings if f.severity > Severity.NOTE] == [
        ("GRAD001", "encoder")
    ]
    assert not broken.clean
    assert not audit(*_arguments(cut=True), ignore=["encoder"], select=["GRAD001"]).findings
    sound = audit(*_arguments(cut=False))
    assert sound.clean, str(sound)
    assert len(sound.history) == len(sound.losses) == 20


def _arguments(cut: bool) -> tuple[Any, ...]:
    model, optimizer = trained(cut)
    return model, loss, batches(), optimizer


def test_a_loss_without_gradient_is_judged_and_not_refused() -> None:
    model, optimizer = trained()

    def forgets(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            return loss(model, batch)

    report = audit(model, forgets, batches(), optimizer)
    (found,) = [finding for finding in report.findings if finding.rule == "GRAD001"]
    assert found.module == ""  # both modules alike: the cause is in none of them
    assert {"encoder", "decoder"} <= {follows.module for follows in found.consequences}
    assert found.code == "no-grad"


def test_without_an_optimizer_the_weights_stay_and_the_rules_say_so() -> None:
    model, _ = trained()
    report = audit(model, loss, batches(1), steps=4)
    assert not report.last.parameters["decoder.weight"].changed
    assert report.last.parameters["decoder.weight"].reach.kind == "all"
    assert ("RULE001", "no-optimizer") in {(finding.rule, finding.code) for finding in report.findings}


def test_a_generator_is_used_once() -> None:
    model, optimizer = trained()
    assert len(audit(model, loss, iter(batches(3)), optimizer).history) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "facts"),
    [
        ({"batches": []}, "auditing.no-batch", {}),
        ({"steps": 0}, "auditing.too-few-steps", {"got": 0}),
        ({"batches": [3]}, "auditing.samples-not-known", {"got": []}),
        ({"batches": [(torch.ones(3, 6), torch.ones(2))]}, "auditing.samples-not-known", {"got": [2, 3]}),
        ({"step": lambda model, batch: model(batch[0])}, "auditing.loss-not-scalar", {"got": (10, 3)}),
        ({"watch": ["encodr"]}, "selection.no-match", {"argument": "watch", "nearest": "encoder"}),
        ({"ignore": ["decodr"]}, "selection.no-match", {"argument": "ignore", "nearest": "decoder"}),
    ],
)
def test_refuses(arguments: dict[str, Any], code: str, facts: dict[str, Any]) -> None:
    model, _ = trained()
    with refused(ValueError, code, **facts):
        audit(**{"model": model, "step": loss, "batches": batches(), **arguments})


def test_one_batch_in_place_of_batches_is_a_type_error() -> None:
    model, _ = trained()
    with refused(TypeError, "auditing.single-batch", got="Tensor"):
        audit(model, loss, torch.ones(3, 6))


def test_every_format_holds_the_finding() -> None:
    report = audit(*_arguments(cut=True))
    for form in ("table", "markdown", "json", "sarif", "html"):
        assert "GRAD001" in report.render(form, "train.py")
    assert str(report) == report.render()
    with refused(ValueError, "auditing.unknown-format", got="pdf"):
        report.render("pdf")


class Templates(nn.Module):
    """A sketch of a solver that answers its input: predicates in a dictionary, a template chosen by argmax and lost."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(6, 8)
        self.selector = nn.Linear(8, 3)
        self.predicates = {"red": nn.Linear(6, 6), "edge": nn.Linear(6, 6), "none": nn.Linear(6, 6)}
        self.keep = keep

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.selector(self.encoder(x).tanh()).softmax(-1)
        chosen = [
            list(self.predicates.values())[place](row)
            for row, place in zip(x, weights.argmax(-1), strict=True)
        ]
        return (torch.stack(chosen) if self.keep else x), weights


@pytest.mark.parametrize("keep", [True, False], ids=["argmax", "answer is the input"])
def test_what_a_regulariser_and_a_list_hide_is_found(keep: bool) -> None:
    def terms(model: nn.Module, x: Tensor) -> dict[str, Tensor | float]:
        answer, weights = model(x)
        return {
            "pixels": (answer - x.roll(1, 1)).square().mean(),
            "entropy": -0.1 * (weights * weights.log()).sum(-1).mean(),
        }

    model = Templates(keep)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    probe = Response(terms, regularisers=["entropy"])
    report = audit(model, terms, [batch], optimizer, probes=[probe], regularisers=["entropy"])
    above = {(each.rule, each.module, each.code) for each in report.findings if each.severity > Severity.NOTE}
    if keep:
        assert above == {("RESPONSE001", "selector", "scalar-read"), ("HIDDEN001", "", "hidden-and-used")}
    else:
        assert above == {("RESPONSE002", "", "no-weight"), ("HIDDEN001", "", "hidden-and-used")}


class Side(nn.Module):
    """A head and a branch whose result is used in one of several ways."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch, self.head, self.use = nn.Linear(4, 4), nn.Linear(4, 4), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.head(x), self.branch(x))


@pytest.mark.parametrize(
    ("use", "rule", "code"),
    [
        (lambda head, branch: head, "RESPONSE002", "result-unused"),
        (lambda head, branch: head + branch.detach(), "GRAD001", "detached"),
        (lambda head, branch: head + (branch * 1e-4 + 10.0).sigmoid(), "RESPONSE003", "unit-saturated"),
        (lambda head, branch: head + branch, "", ""),
    ],
)
def test_the_response_tells_what_the_gradient_does_not(
    use: Callable[[Tensor, Tensor], Tensor], rule: str, code: str
) -> None:
    torch.manual_seed(0)
    model, batch = Side(use), torch.randn(6, 4)
    before = copy.deepcopy(model.state_dict())
    found = audit(
        model, lambda model, x: model(x).square().mean(), [batch], torch.optim.SGD(model.parameters(), 0.01)
    )
    named = [(each.rule, each.code) for each in found.findings if each.module == "branch"]
    assert ((rule, code) in named) if rule else not named
    assert rule == "GRAD001" or all(each[0] != "GRAD001" for each in named)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class WithVector(nn.Module):
    """Takes a vector of its own width, or a number for each sample; mixes the samples if told to."""

    def __init__(self, per_sample: bool, mixes: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.per_sample, self.mixes = per_sample, mixes

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        hidden = self.layer(x - x.mean(0) if self.mixes else x)
        return self.head(hidden * (vector[:, None] if self.per_sample else vector))


@pytest.mark.parametrize(
    ("per_sample", "mixes", "leaks"),
    [(False, False, False), (True, False, False), (True, True, True)],
    ids=["a vector as long as the batch", "a number per sample", "a number per sample, mixed"],
)
def test_a_vector_as_long_as_the_batch_is_no_sample(per_sample: bool, mixes: bool, leaks: bool) -> None:
    torch.manual_seed(0)
    model = WithVector(per_sample, mixes)
    data = [(torch.randn(8, 5), torch.randn(8)) for _ in range(3)]

    def squared(model: nn.Module, batch: Batch) -> Tensor:
        return (model(*batch) - 1).square().mean()

    found = audit(model, squared, data, torch.optim.SGD(model.parameters(), 0.01))
    assert ("LEAK001" in {finding.rule for finding in found.findings}) == leaks


def test_numbers_that_a_whole_step_returns_by_name_are_no_terms() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(model: nn.Module, batch: Batch) -> dict[str, Any]:
        optimizer.zero_grad()
        found = loss(model, batch)
        found.backward()
        optimizer.step()
        return {"loss": found.item(), "accuracy": 0.5, "phase": "warm-up"}

    report = audit(model, step, batches(), optimizer)
    assert report.clean
    assert not report.last.terms
    assert len(report.losses) == 20


class Cached(nn.Module):
    """Keeps what it computed of a batch by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.kept: dict[int, Tensor] = {}

    def forward(self, x: Tensor, number: int) -> Tensor:
        if number not in self.kept:
            self.kept[number] = self.encoder(x).detach()
        return self.head(self.kept[number])


def test_a_result_that_stays_where_it_is_does_not_depend_on_its_place() -> None:
    model = Cached()
    data = [(x, number, y) for number, (x, y) in enumerate(batches(2))]
    report = audit(
        model,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0], batch[1]), batch[2]),
        data,
        torch.optim.SGD(model.parameters(), 0.1),
    )
    assert {each.rule for each in report.findings if each.severity > Severity.NOTE} == {"RESPONSE002"}


class Shut(nn.Module):
    """A gate that is as good as closed: gradients of 1e-26, whose squares are 0."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x[:, :1]) + self.gate(x).sigmoid() * self.body(x))


def test_gradients_without_a_norm_are_next_to_no_gradient() -> None:
    model = Shut(-60.0)
    report = audit(model, loss, batches(), torch.optim.Adam(model.parameters(), 1e-3))
    found = {each.module: each for each in report.findings if each.severity > Severity.NOTE}
    assert found["gate"].code == "saturated"
    held = {each.rule for each in found["gate"].consequences}
    assert {"GRAD005", "MOVE001"} <= held
    assert audit(Shut(0.0), loss, batches()).clean
