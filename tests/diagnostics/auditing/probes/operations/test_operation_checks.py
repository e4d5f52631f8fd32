"""What losses and softmax receive is judged by what they do, and sound uses are not accused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Severity, audit
from diagnostics.auditing.tracing.operation_trace import OperationTrace

Step = Callable[[nn.Module, Any], Tensor]
B = 16


def codes(
    step: Step, model: nn.Module | None = None, targets: Callable[[Tensor], Tensor] | None = None
) -> set[str]:
    """The codes of LOSS003, SOFTMAX001 and LEAK001 above a note."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    choose = targets or (lambda x: x[:, :3].argmax(1))
    batches = [(x, choose(x)) for x in torch.randn(4, B, 6)]
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 0.01), steps=4)
    rules = ("LOSS003", "SOFTMAX001", "LEAK001")
    return {each.code for each in report.findings if each.rule in rules and each.severity > Severity.NOTE}


SOUND: dict[str, Step] = {
    "cross entropy": lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    "nll of logarithms": lambda m, b: F.nll_loss(m(b[0]).log_softmax(1), b[1]),
    "nll of a logarithm": lambda m, b: F.nll_loss((m(b[0]).softmax(1) + 1e-6).log(), b[1]),
    "soft targets": lambda m, b: F.cross_entropy(m(b[0]), m(b[0]).softmax(1).detach()),
    "distillation": lambda m, b: F.kl_div(
        m(b[0]).log_softmax(1), b[0][:, :3].softmax(1), reduction="batchmean"
    ),
    "probabilities": lambda m, b: F.binary_cross_entropy(m(b[0]).sigmoid(), F.one_hot(b[1], 3).float()),
    "consistency": lambda m, b: F.mse_loss(m(b[0]).softmax(1), F.one_hot(b[1], 3).float()),
    "reverse entropy": lambda m, b: F.cross_entropy(b[0][:, :3], m(b[0]).softmax(1)),
    "one score is finite": lambda m, b: (
        (m(b[0]).masked_fill(torch.arange(3) > 0, -torch.inf).softmax(1) * m(b[0])).square().mean()
    ),
    "sharp": lambda m, b: F.mse_loss((8 * m(b[0])).softmax(1), F.one_hot(b[1], 3).float()),
    "all real": lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), torch.ones(B, 3)),
    "similarities": lambda m, b: F.cross_entropy(m(b[0]) @ m(b[0] + 1).T, torch.arange(B)),
    "similarities to itself without a diagonal": lambda m, b: F.cross_entropy(
        (m(b[0]) @ m(b[0]).T).masked_fill(torch.eye(B, dtype=torch.bool), -1e9), torch.arange(B).roll(1)
    ),
    "normalised over features": lambda m, b: F.cross_entropy(F.normalize(m(b[0]), dim=1), b[1]),
    "decorrelated features": lambda m, b: (
        (F.normalize(m(b[0]), dim=0).T @ F.normalize(m(b[0]), dim=0) - torch.eye(3)).square().sum()
    ),
    "scaled tanh": lambda m, b: F.mse_loss(8 * m(b[0]).tanh(), 3 * b[0][:, :3]),
    "an outlier beyond tanh": lambda m, b: F.mse_loss(m(b[0]).tanh(), (b[0][:, :3] / 2).clamp(-1, 1.2)),
    "smoothed bits": lambda m, b: F.binary_cross_entropy_with_logits(
        m(b[0]), 0.9 * b[0][:, :3].gt(0).float()
    ),
    "pairs of differences": lambda m, b: (m(b[0])[:, 0][:, None] - m(b[0])[:, 0]).abs().mean(),
    "spread of outputs": lambda m, b: (m(b[0])[:, 0][:, None] - m(b[0])[:, 0]).square().mean(),
    "weighted pairs": lambda m, b: (
        (m(b[0])[:, 0][:, None] - b[0][:, 0]).square() * torch.linspace(0, 1, B)
    ).mean(),
    "a column and a row of one kernel": lambda m, b: torch.exp(
        -(m(b[0])[:, 0].unsqueeze(1) - b[0][:, 0]).square()
    ).mean(),
    "a column and a column": lambda m, b: (m(b[0])[:, :1] - b[0][:, :1]).square().mean(),
    "a column and features": lambda m, b: (m(b[0])[:, :1] * torch.arange(3)).square().mean(),
    "ranks": lambda m, b: F.margin_ranking_loss(m(b[0])[:, 0], m(b[0])[:, 1], b[0][:, 0].sign(), margin=1.0),
    "alike in all batches": lambda m, b: F.cosine_embedding_loss(m(b[0]), b[0][:, :3], torch.ones(B)),
    "classes moved": lambda m, b: F.cross_entropy(
        m(b[0].unflatten(0, (4, 4))).movedim(2, 1), b[1].view(4, 4)
    ),
    "classes flattened": lambda m, b: F.cross_entropy(m(b[0].unflatten(0, (4, 4))).flatten(0, 1), b[1]),
    "rows in groups": lambda m, b: m(b[0]).view(4, 12, 1).view(12, 4, 1).square().mean(),
    "numbers of a row in groups": lambda m, b: m(b[0]).repeat(1, 4).view(B, 6, 2).square().mean(),
    "some of the scores": lambda m, b: F.cross_entropy(m(b[0])[:, [2, 0, 1]], b[1]),
    "attention": lambda m, b: F.mse_loss(
        (m(b[0])[:, None] * b[0][:, :3, None]).softmax(-1).sum((1, 2)), b[0][:, 0]
    ),
}
WRONG: dict[str, tuple[Step, str]] = {
    "softmax": (lambda m, b: F.cross_entropy(m(b[0]).softmax(-1), b[1]), "applied-twice"),
    "softmax and a view": (
        lambda m, b: F.cross_entropy(m(b[0]).softmax(-1).view(B, 3), b[1]),
        "applied-twice",
    ),
    "module": (lambda m, b: nn.CrossEntropyLoss()(nn.Softmax(1)(m(b[0])), b[1]), "applied-twice"),
    "nll of logits": (lambda m, b: F.nll_loss(m(b[0]), b[1]), "not-logarithms"),
    "kl of probabilities": (
        lambda m, b: F.kl_div(m(b[0]).softmax(1), b[0][:, :3].softmax(1)),
        "not-logarithms",
    ),
    "pairs": (lambda m, b: F.smooth_l1_loss(m(b[0])[:, :1], b[0][:, 0]), "broadcast"),
    "pairs by hand": (lambda m, b: (m(b[0])[:, :1] - b[0][:, 0]).square().mean(), "broadcast-by-hand"),
    "weights in a column": (lambda m, b: (b[0][:, :1] * m(b[0])[:, 0]).mean(), "broadcast-by-hand"),
    "means of pairs": (lambda m, b: (b[0][:, 0].unsqueeze(1) * m(b[0])[:, 0]).mean(), "broadcast-by-hand"),
    "squares of pairs": (
        lambda m, b: ((m(b[0])[:, 0][:, None] - b[0][:, 0]) ** 2).mean(),
        "broadcast-by-hand",
    ),
    "ranks from 0": (
        lambda m, b: F.margin_ranking_loss(m(b[0])[:, 0], m(b[0])[:, 1], b[0][:, 0].gt(0).float()),
        "not-signs",
    ),
    "likeness from 0": (
        lambda m, b: nn.CosineEmbeddingLoss()(m(b[0]), b[0][:, :3], b[0][:, 0].gt(0).float()),
        "not-signs",
    ),
    "classes by a view": (
        lambda m, b: F.cross_entropy(m(b[0].unflatten(0, (4, 4))).view(4, 3, 4), b[1].view(4, 4)),
        "classes-misread",
    ),
    "classes of a target by a view": (
        lambda m, b: F.mse_loss(
            m(b[0]).view(4, 4, 3).permute(0, 2, 1), F.one_hot(b[1].view(4, 4), 3).float().view(4, 3, 4)
        ),
        "dimensions-exchanged-by-view",
    ),
    "one": (lambda m, b: (m(b[0]).topk(1).values.softmax(1) * m(b[0])).square().mean(), "one-element"),
    "exchanged": (
        lambda m, b: F.cross_entropy(F.one_hot(b[1], 3).float(), m(b[0]).softmax(1)),
        "exchanged",
    ),
    "exchanged bits": (
        lambda m, b: F.binary_cross_entropy_with_logits(b[0][:, :3].gt(0).float(), m(b[0]).sigmoid()),
        "exchanged",
    ),
    "hard": (lambda m, b: F.mse_loss((1e6 * m(b[0])).softmax(1), F.one_hot(b[1], 3).float()), "one-hot"),
    "beyond tanh": (lambda m, b: F.l1_loss(m(b[0]).tanh(), 3 * b[0][:, :3]), "out-of-range"),
    "below relu": (lambda m, b: F.mse_loss(m(b[0]).relu()[:, 0], b[0][:, 0]), "out-of-range"),
    "signs as bits": (
        lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[0][:, :3].sign()),
        "not-probabilities",
    ),
    "normalised over samples": (
        lambda m, b: F.cross_entropy(F.normalize(m(b[0]), dim=0), b[1]),
        "normalised-over-samples",
    ),
    "itself": (lambda m, b: F.cross_entropy(m(b[0]) @ m(b[0]).T, torch.arange(B)), "finds-itself"),
    "samples": (lambda m, b: F.mse_loss(m(b[0]).softmax(0), F.one_hot(b[1], 3).float()), "over-samples"),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
@pytest.mark.parametrize("name", WRONG)
def test_it_is_named(name: str) -> None:
    step, code = WRONG[name]
    assert codes(step) == {code}


@pytest.mark.parametrize("name", SOUND)
def test_it_is_not_accused(name: str) -> None:
    assert codes(SOUND[name]) == set()


class Segments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, None])


@pytest.mark.parametrize(
    ("arrange", "expected"),
    [
        (lambda scores: scores.transpose(1, 2).reshape(-1, 3), set()),
        (lambda scores: scores.reshape(-1, 3), {"classes-misread"}),
    ],
    ids=["moved", "viewed"],
)
def test_classes_of_a_convolution(arrange: Callable[[Tensor], Tensor], expected: set[str]) -> None:
    step = lambda m, b: F.cross_entropy(arrange(m(b[0])), (b[0] > 0).long().flatten())  # noqa: E731
    assert codes(step, nn.Sequential(Segments())) == expected


def test_equal_targets() -> None:
    assert codes(SOUND["cross entropy"], targets=lambda x: torch.ones(B, dtype=torch.long)) == {
        "equal-targets"
    }


ZEROS = torch.zeros(B, 3)


def residual(model: nn.Module, x: Tensor) -> Tensor:
    """Of a differential equation: the derivative of what the model gives, minus a known function."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    return slope[:, :3] - x.sin()[:, :3]


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        (lambda m, b: F.mse_loss(residual(m, b[0]), ZEROS), set()),
        (lambda m, b: F.mse_loss(residual(m, b[0]), ZEROS) + F.mse_loss(m(b[0] * 0), ZEROS), set()),
        (lambda m, b: F.mse_loss(m(b[0]), ZEROS), {"equal-targets"}),
        (lambda m, b: F.mse_loss(residual(m, b[0]), b[1]), {"equal-targets"}),
    ],
    ids=["of an equation", "with a condition at the edge", "of outputs", "of data"],
)
def test_zeros_that_a_program_keeps_are_compared_with_residuals(compare: Step, expected: set[str]) -> None:
    assert codes(compare, targets=lambda x: torch.zeros(B, 3)) == expected


def test_targets_that_are_decided_by_the_answers_of_the_model_may_be_equal() -> None:
    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(batch[0])
        wrong = scores.argmax(1) > 2  # as early answers of a hard task: none is right
        return F.binary_cross_entropy_with_logits(scores[:, 0], wrong.logical_not().logical_not().float())

    def of_data(model: nn.Module, batch: Any) -> Tensor:
        wrong = batch[0].argmax(1) > 5
        return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], wrong.float())

    assert codes(step) == set()
    assert codes(of_data) == {"equal-targets"}


def test_targets_are_those_of_the_time_of_the_call() -> None:
    labels, scores = torch.empty(B), torch.zeros(B)
    with OperationTrace() as trace:
        for value in (1, 0):
            F.binary_cross_entropy_with_logits(scores, labels.fill_(value))
    assert [each.target.unique().tolist() for each in trace.losses.compared] == [[1], [0]]
    assert all(each.made for each in trace.losses.compared)


class Mixing(nn.Module):
    def __init__(self, mixes: str) -> None:
        super().__init__()
        self.mixes = mixes
        self.layer = nn.Linear(6, 3)
        self.register_buffer("edges", torch.eye(B if mixes == "graph" else 1).roll(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.mixes == "pairs":
            return h @ h.T
        if self.mixes == "place":
            return h + torch.arange(len(h))[:, None]
        if self.mixes == "noise":
            return h + torch.randn_like(h)
        if self.mixes == "graph":
            return self.edges @ h
        return h - h.mean(0) if self.mixes == "mean" else h


@pytest.mark.parametrize(
    ("mixes", "found"),
    [
        ("", set()),
        ("mean", {"mixes-samples"}),
        ("pairs", set()),
        ("place", {"place-in-batch"}),
        ("noise", set()),
        ("graph", set()),
    ],
)
def test_samples_that_mix_are_found_without_a_probe(mixes: str, found: set[str]) -> None:
    assert codes(lambda m, b: m(b[0]).square().mean(), Mixing(mixes)) == found


class Attending(nn.Module):
    """Attention of a learnt query to padded tokens, by two functions of torch that read a mask in opposite ways."""

    def __init__(self, by: str, inverted: bool) -> None:
        super().__init__()
        self.embed, self.attention = nn.Embedding(9, 8), nn.MultiheadAttention(8, 1, batch_first=True)
        self.query, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 3)
        self.by, self.inverted = by, inverted

    def forward(self, ids: Tensor) -> Tensor:
        x, padding = self.embed(ids), (ids == 0) != self.inverted
        query = self.query.expand(len(ids), 1, 8)
        if self.by == "module":
            return self.head(self.attention(query, x, x, key_padding_mask=padding)[0][:, 0])
        mask = ~padding[:, None, None]
        seen = F.scaled_dot_product_attention(query[:, None], x[:, None], x[:, None], attn_mask=mask)
        return self.head(seen[:, 0, 0])


@pytest.mark.parametrize("by", ["module", "function"])
@pytest.mark.parametrize("inverted", [True, False])
def test_an_attention_that_reads_the_padding(by: str, inverted: bool) -> None:
    torch.manual_seed(0)
    length = torch.arange(6) < torch.randint(2, 5, (4, B, 1))
    batches = [(ids, ids[:, 0] % 3) for ids in torch.randint(1, 9, (4, B, 6)) * length]
    model = Attending(by, inverted)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, optimizer, steps=4)
    assert any(each.code == "reads-padding-alone" for each in report.findings) == inverted


class Weighing(nn.Module):
    """Attention over five tokens, some of which are masked; `hide` does that to the scores."""

    def __init__(self, hide: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.query, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.hide = hide

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.embed(ids), (ids != 0).float()[:, None]
        scores = self.hide(self.query(x) @ x.transpose(1, 2), mask)
        return self.head((scores.softmax(-1) @ x)[:, 0])


@pytest.mark.parametrize(
    ("hide", "found"),
    [
        (lambda scores, mask: scores * mask, True),
        (lambda scores, mask: scores * mask / 8**0.5, True),
        (lambda scores, mask: scores + mask, True),
        (lambda scores, mask: (mask > 0) * scores, True),
        (lambda scores, mask: scores.masked_fill(mask == 0, -torch.inf), False),
        (lambda scores, mask: (scores * mask).masked_fill(mask == 0, -1e9), False),
        (lambda scores, mask: scores * mask + (1 - mask) * -1e9, False),
        (lambda scores, mask: scores + (1 - mask) * -1e9, False),
        (lambda scores, mask: scores + 0.5, False),
    ],
)
def test_a_mask_that_is_multiplied_with_scores(hide: Callable[[Tensor, Tensor], Tensor], found: bool) -> None:
    torch.manual_seed(0)
    lengths = torch.arange(5) < torch.randint(2, 5, (4, B, 1))
    batches = [(ids, ids[:, 0] % 3) for ids in torch.randint(1, 9, (4, B, 5)) * lengths]
    model = Weighing(hide)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    report = audit(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, optimizer, steps=4)
    assert any(each.code == "mask-multiplied" for each in report.findings) is found


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda scores, b: F.cross_entropy(scores.relu(), b[1]), True),
        (lambda scores, b: F.binary_cross_entropy_with_logits(scores.relu()[:, 0], b[1].float() / 2), True),
        (lambda scores, b: F.cross_entropy(scores.relu() - 1, b[1]), False),
        (lambda scores, b: F.mse_loss(scores.relu(), b[0][:, :3].abs()), False),
    ],
)
def test_logits_that_pass_a_relu(loss: Callable[[Tensor, Any], Tensor], found: bool) -> None:
    assert ("activation-on-logits" in codes(lambda m, b: loss(m(b[0]), b))) is found


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        ([0, 1, 2, 0], True),
        ([1, 1, 1, 1], False),  # all targets are equal
        ([0, 1, None, 2], False),
    ],
)
def test_batches_of_one_class_each(batches: list[int | None], found: bool) -> None:
    left = iter(batches)

    def choose(x: Tensor) -> Tensor:
        label = next(left)
        return x[:, :3].argmax(1) if label is None else torch.full((B,), label)

    assert ("one-class-per-batch" in codes(SOUND["cross entropy"], targets=choose)) is found


def tagged(labels: Callable[[Tensor, Tensor], Tensor], ignored: int) -> set[str]:
    """The codes of a tagger of five classes, whose sequences end in padding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))
    batches = []
    for ids in torch.randint(0, 20, (4, B, 8)):
        padding = torch.arange(8) >= torch.randint(5, 8, (B, 1))
        batches.append((ids, labels(ids, padding)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=ignored)

    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 0.01), steps=4)
    return {each.code for each in report.findings if each.rule == "LOSS003"}


@pytest.mark.parametrize(
    ("labels", "ignored", "found"),
    [
        (lambda ids, padding: (ids % 5).masked_fill(padding, 0), 0, True),
        (lambda ids, padding: (ids % 4 + 1).masked_fill(padding, 0), 0, False),
        (lambda ids, padding: (ids % 5).masked_fill(padding, -100), -100, False),
        (lambda ids, padding: (ids % 4 + 1) * (ids > 16), 0, False),  # most are left out on purpose
    ],
    ids=["a class", "padding alone", "another number", "masked tokens"],
)
def test_a_class_that_the_loss_ignores(
    labels: Callable[[Tensor, Tensor], Tensor], ignored: int, found: bool
) -> None:
    assert ("class-ignored" in tagged(labels, ignored)) is found
