"""Answers in the inputs and odd uses of embeddings are found; what looks alike and is meant is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Severity, audit
from diagnostics.auditing.observed_step import observe_step
from diagnostics.auditing.probes.data_checks import check_data

CHECKED = ("LEAK002", "LEAK003", "ROWS001", "ROWS002", "DROP001", "ORIGIN001", "ROUND001")
WORDS, LENGTH, SAMPLES = 12, 8, 8


class Language(nn.Module):
    """A running mean of embeddings, over earlier, later or all positions."""

    def __init__(self, sees: str = "earlier", padding: int | None = None, segments: int = 2) -> None:
        super().__init__()
        self.sees = sees
        self.words = nn.Embedding(WORDS, 16, padding_idx=padding)
        self.segments = nn.Embedding(segments, 16)
        self.head = nn.Linear(16, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.words(tokens) + self.segments(torch.zeros_like(tokens))
        if self.sees == "all":
            found = found + found.mean(1, keepdim=True)
        elif self.sees == "later":
            found = found.flip(1).cumsum(1).flip(1)
        else:
            found = found.cumsum(1)
        return self.head(found)


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def masked_token(model: nn.Module, tokens: Tensor) -> Tensor:
    hidden = tokens.clone()
    hidden[:, 2] = 0
    return F.cross_entropy(model(hidden).flatten(0, 1), tokens.flatten())


def sentences(padding: str = "none") -> list[Tensor]:
    torch.manual_seed(0)
    found = []
    for tokens in torch.randint(1, WORDS, (3, SAMPLES, LENGTH)):
        if padding == "end":
            tokens[:, -2:] = 0
        elif padding == "inside":
            tokens[:, 2:4] = 0
        found.append(tokens)
    return found


def rules(model: nn.Module, step: Any, batches: Any) -> list[str]:
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 1e-3), steps=3)
    every = [each for one in report.findings for each in (one, *one.consequences)]
    return [each.rule for each in every if each.rule in CHECKED]


@pytest.mark.parametrize("sees", ["later", "all"])
def test_a_model_that_sees_what_it_predicts(sees: str) -> None:
    assert rules(Language(sees), next_token, sentences()) == ["LEAK002"]


@pytest.mark.parametrize(("sees", "step"), [("earlier", next_token), ("all", masked_token)])
def test_a_model_that_does_not(sees: str, step: Any) -> None:
    assert rules(Language(sees), step, sentences()) == []


class Continued(Language):
    """Each batch continues the sequences of the last one."""

    state: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.words(tokens).cumsum(1)
        found = found if self.state is None else found + self.state
        self.state = found[:, -1:].detach()
        return self.head(found)


def test_a_state_of_the_batch_before_is_not_a_later_token() -> None:
    assert rules(Continued(), next_token, sentences()) == []


@pytest.mark.parametrize(
    ("padding", "placed", "expected"),
    [(0, "inside", ["ROWS002"]), (0, "end", []), (None, "inside", []), (0, "none", [])],
)
def test_padding_between_tokens(padding: int | None, placed: str, expected: list[str]) -> None:
    assert rules(Language(padding=padding), next_token, sentences(placed)) == expected


@pytest.mark.parametrize(("segments", "expected"), [(2, []), (32, ["ROWS001"])])
def test_an_embedding_of_which_one_row_is_used(segments: int, expected: list[str]) -> None:
    assert rules(Language(segments=segments), next_token, sentences()) == expected


@pytest.mark.parametrize(("noise", "expected"), [(0.0, ["LEAK003"]), (1.0, [])])
def test_a_label_among_the_features(noise: float, expected: list[str]) -> None:
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    batches = []
    for _ in range(3):
        shown = F.one_hot(labels, 3).float() + noise * torch.randn(24, 3)
        batches.append((torch.cat([torch.randn(24, 5), torch.ones(24, 1), shown], 1), labels))
    model = nn.Sequential(nn.Linear(9, 3))
    assert rules(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batches) == expected


@pytest.mark.parametrize("form", ["one-hot", "bits"])
@pytest.mark.parametrize(("others", "expected"), [(0, []), (5, ["LEAK003"])])
def test_messages_that_are_to_be_transmitted_are_no_label_among_features(
    form: str, others: int, expected: list[str]
) -> None:
    """An autoencoder over a noisy channel is given the message as a one-hot vector, or as bits."""
    torch.manual_seed(0)
    batches = []
    for _ in range(3):
        messages = torch.randint(8, (48,))
        bits = (messages[:, None] >> torch.arange(3)) & 1
        sent = F.one_hot(messages, 8) if form == "one-hot" else bits
        batches.append((torch.cat([sent.float(), torch.randn(48, others)], 1), messages))
    model = nn.Sequential(nn.Linear(batches[0][0].shape[1], 4), nn.Linear(4, 8))
    assert rules(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches) == expected


@pytest.mark.parametrize("samples", [4, 8])
def test_features_that_look_like_the_label_by_chance(samples: int) -> None:
    torch.manual_seed(0)
    model, labels = nn.Sequential(nn.Linear(2000, 2)), torch.arange(samples) % 2
    batches = [((torch.rand(samples, 2000) < 0.5).float(), labels)]
    assert rules(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batches) == []


def test_the_tokens_of_the_user_are_put_back_where_the_model_refuses_others() -> None:
    known: list[Tensor] = []  # outside of the model, whose attributes are put back

    class Picky(Language):
        def forward(self, tokens: Tensor) -> Tensor:
            if not self.training:
                known.append(tokens.clone())
                if not torch.equal(known[0], tokens):
                    raise RuntimeError("other tokens")
            return super().forward(tokens)

    model, (batch, *_) = Picky("all"), sentences()
    before = batch.clone()
    observed = observe_step(model, next_token, batch)
    assert observed is not None
    with pytest.raises(RuntimeError, match="other tokens"):
        check_data(model, [observed], lambda name: name)
    assert len(known) == 2
    assert torch.equal(batch, before)


@pytest.mark.parametrize(("rate", "expected"), [(0.9, ["DROP001"]), (0.5, [])])
def test_a_dropout_that_drops_most(rate: float, expected: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 32), nn.Dropout(rate), nn.Linear(32, 3))
    batches = [(torch.randn(24, 5), torch.arange(24) % 3) for _ in range(3)]
    assert rules(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batches) == expected


def same_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


@pytest.mark.parametrize(
    ("sees", "step", "code"),
    [
        ("earlier", same_token, "not-shifted"),
        ("all", same_token, "target-is-input"),
        ("earlier", next_token, None),
        ("all", masked_token, None),
    ],
)
def test_targets_that_are_not_shifted(sees: str, step: Any, code: str | None) -> None:
    model = Language(sees)
    report = audit(model, step, sentences(), torch.optim.SGD(model.parameters(), 1e-3), steps=3)
    found = [each for each in report.findings if each.rule == "LOSS003"]
    assert {each.code for each in found if each.severity > Severity.NOTE} == (
        {code} if code == "not-shifted" else set()
    )
    assert code is None or code in {each.code for each in found}


def labelled(same_input: bool, same_labels: bool, copied: bool = False) -> list[Any]:
    torch.manual_seed(0)
    given, labels = torch.randn(24, 5), torch.randint(0, 3, (24,))
    return [
        (
            given.clone() if copied and same_input else given if same_input else torch.randn(24, 5),
            labels if same_labels else torch.randint(0, 3, (24,)),
        )
        for _ in range(3)
    ]


def classify(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0].view(24, 5)), batch[1])


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (labelled(same_input=True, same_labels=False), ["ORIGIN001"]),
        (labelled(same_input=True, same_labels=False, copied=True), ["ORIGIN001"]),
        (labelled(same_input=True, same_labels=True), []),
        (labelled(same_input=False, same_labels=False), []),
    ],
    ids=["one tensor", "equal tensors", "one batch", "different"],
)
def test_batches_with_one_input(batches: list[Any], expected: list[str]) -> None:
    assert rules(nn.Sequential(nn.Linear(5, 3)), classify, batches) == expected


def test_a_constant_that_is_no_part_of_the_batch_may_be_the_input() -> None:
    """As of a bandit without context."""
    constant = torch.ones(24, 5)
    step = lambda model, batch: F.cross_entropy(model(constant), batch[1])  # noqa: E731
    assert rules(nn.Sequential(nn.Linear(5, 3)), step, labelled(same_input=True, same_labels=False)) == []


def test_what_a_dropout_takes_from_the_modules_before_it_is_its_consequence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Dropout(0.98), nn.Linear(32, 3))
    batches = labelled(same_input=False, same_labels=False)
    report = audit(model, classify, batches, torch.optim.SGD(model.parameters(), 1e-3), steps=12)
    (finding,) = [each for each in report.findings if each.severity > Severity.NOTE]
    assert finding.rule == "DROP001"
    assert "COV001" in {each.rule for each in finding.consequences}


def after(lag: int, start: int = 0) -> Any:
    """The loss against the tokens some places after each output, of which the first are left out."""

    def step(model: nn.Module, tokens: Tensor) -> Tensor:
        scores = model(tokens)[:, start : LENGTH - lag]
        return F.cross_entropy(scores.transpose(1, 2), tokens[:, start + lag :])

    return step


class Labelled(Language):
    """Is given the labels too, and computes its loss from them."""

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> Any:
        scores = super().forward(tokens)
        if labels is None:
            return {"scores": scores}
        loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "scores": scores}


def given_labels(shifted: int) -> Any:
    def step(model: nn.Module, tokens: Tensor) -> Tensor:
        padding = torch.full((len(tokens), shifted), -100)
        return model(tokens, labels=torch.cat([tokens[:, shifted:], padding], 1))["loss"]

    return step


@pytest.mark.parametrize(
    ("model", "step", "again"),
    [
        (Language(), after(1), False),
        (Language(), after(1, start=2), False),
        (Language(), after(2), True),
        (Language(), after(2, start=1), True),
        (Language("all"), after(2), False),  # it is not causal, which is another fault
        (Language(), lambda model, tokens: after(1)(model, tokens) + after(2)(model, tokens), False),
        (Labelled(), given_labels(0), False),
        (Labelled(), given_labels(1), True),
    ],
    ids=[
        "next",
        "next of the last",
        "second",
        "second of the last",
        "not causal",
        "both",
        "inside",
        "inside again",
    ],
)
def test_targets_that_are_shifted_again(model: nn.Module, step: Any, again: bool) -> None:
    report = audit(model, step, sentences(), torch.optim.SGD(model.parameters(), 1e-3), steps=3)
    assert ("shifted-again" in {each.code for each in report.findings}) == again


class Counting(nn.Module):
    def __init__(self, count: Any) -> None:
        super().__init__()
        self.head, self.count = nn.Linear(5, 3), count

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.count().float().mean()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (lambda: torch.arange(400).to(torch.bfloat16), ["ROUND001"]),
        (lambda: torch.arange(400.0)[None].bfloat16(), ["ROUND001"]),
        (lambda: torch.arange(400, dtype=torch.bfloat16), ["ROUND001"]),
        (lambda: torch.arange(3000).half(), ["ROUND001"]),
        (lambda: torch.arange(400).half(), []),
        (lambda: torch.arange(200).bfloat16(), []),
        (lambda: torch.arange(400).float(), []),
        (lambda: (torch.arange(400) * 37 % 400).bfloat16(), []),  # a number of each sample, not a count
    ],
)
def test_counted_places_in_half_precision(count: Any, expected: list[str]) -> None:
    batches = labelled(same_input=False, same_labels=False)
    assert rules(nn.Sequential(Counting(count)), classify, batches) == expected


class Messages(nn.Module):
    """Sums what neighbours have, and averages the nodes of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        found = self.enter(nodes)
        found = found.index_add(0, edges[1], found[edges[0]])
        sums = found.new_zeros(int(graph.max()) + 1, 8).index_add(0, graph, found.tanh())
        return self.head(sums)


@pytest.mark.parametrize(
    ("sizes", "offset", "expected"),
    [
        ([5, 4, 6, 5], False, ["ROWS003"]),
        ([5, 4, 6, 5], True, []),
        ([9, 1], False, []),  # one graph may be all there is
    ],
)
def test_edges_of_several_graphs(sizes: list[int], offset: bool, expected: list[str]) -> None:
    torch.manual_seed(0)
    batches = []
    for _ in range(4):
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1] * offset
        rings = [torch.arange(size) for size in sizes]
        edges = torch.cat(
            [torch.stack([ring, ring.roll(1)]) + start for ring, start in zip(rings, starts, strict=True)], 1
        )
        graph = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        batches.append((torch.randn(len(graph), 6), edges, graph))
    model = Messages()
    report = audit(
        model,
        lambda m, b: m(*b).square().mean(),
        batches,
        torch.optim.SGD(model.parameters(), 0.01),
        steps=4,
        samples=lambda batch: len(sizes),
    )
    assert [each.rule for each in report.findings if each.rule == "ROWS003"] == expected


class Writer(nn.Module):
    """Scores of the next token; the embedding may know which id is the padding."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8, padding_idx=padding)
        self.read, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.read(self.embed(tokens))[0]).transpose(1, 2)


@pytest.mark.parametrize(
    ("padding", "loss", "named"),
    [
        (0, nn.CrossEntropyLoss(), True),
        (0, nn.CrossEntropyLoss(ignore_index=0), False),
        (None, nn.CrossEntropyLoss(), False),
        (0, lambda s, t: (nn.CrossEntropyLoss(reduction="none")(s, t) * (t != 0)).mean(), False),
    ],
    ids=["counted", "ignored", "not declared", "masked"],
)
def test_padding_among_the_targets(padding: int | None, loss: Any, named: bool) -> None:
    torch.manual_seed(0)
    batches = []
    for _ in range(4):
        tokens = torch.randint(1, 9, (8, 12))
        tokens[torch.arange(12) >= torch.randint(4, 12, (8, 1))] = 0
        batches.append(tokens)
    model = Writer(padding)
    report = audit(
        model,
        lambda m, b: loss(m(b[:, :-1]), b[:, 1:]),
        batches,
        torch.optim.SGD(model.parameters(), 0.01),
        steps=4,
    )
    assert ("padding-counted" in {each.code for each in report.findings}) == named


@pytest.mark.parametrize(
    ("ends", "ignored", "named"),
    [((2, 6), -100, True), ((2, 6), 0, False), ((7, 8), -100, False), ((3, 4), -100, False)],
    ids=["counted", "ignored", "one end of sentence", "one length"],
)
def test_ends_of_rows_that_count(ends: tuple[int, int], ignored: int, named: bool) -> None:
    torch.manual_seed(0)
    batches = []
    for tokens in torch.randint(1, WORDS, (3, SAMPLES, LENGTH + 1)):
        length = torch.randint(*ends, (SAMPLES, 1))
        batches.append(tokens.masked_fill(torch.arange(LENGTH + 1) >= length, 0))

    def step(model: nn.Module, tokens: Tensor) -> Tensor:
        scores = model(tokens[:, :-1]).flatten(0, 1)
        return F.cross_entropy(scores, tokens[:, 1:].flatten(), ignore_index=ignored)

    model = Language()
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 1e-3), steps=3)
    assert ("row-ends-counted" in {each.code for each in report.findings}) is named
