"""Faults of structures: graphs, fields of a recommender, experts, quantised weights, a queue."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Graphs(nn.Module):
    """Two rounds of messages between the nodes of several graphs, then a mean over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 32), nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = F.relu(layer(torch.cat([x, torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])], 1)))
        size = graph.bincount()
        return self.head(x.new_zeros(len(size), 32).index_add(0, graph, x) / size[:, None])


def edges_by_view(broken: bool) -> Made:
    """Pairs of nodes are transposed to two rows; broken, a view makes two rows of them."""
    torch.manual_seed(120)
    model = Graphs()
    data = []
    for _ in range(16):
        size = torch.randint(4, 9, (16,))
        graph = torch.arange(16).repeat_interleave(size)
        start, node = (size.cumsum(0) - size)[graph], torch.arange(len(graph))
        x = torch.randn(len(graph), 6)
        pairs = torch.stack([node, start + (node - start + 1) % size[graph]], 1)
        total = torch.zeros(16, 6).index_add(0, graph, x * x[pairs[:, 0].roll(1)])
        data.append((x, pairs, graph, total[:, :3].argmax(1)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, pairs, graph, label = batch
        return F.cross_entropy(model(x, pairs.view(2, -1) if broken else pairs.T, graph), label)

    return {**made(model, step, data, adam(model)), "samples": lambda batch: len(batch[3])}


class Fields(nn.Module):
    """A factorisation machine of four fields, whose values are rows of one table, each field behind the other."""

    start: Tensor

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.register_buffer("start", torch.zeros(4, dtype=torch.long) if together else torch.arange(4) * 30)
        self.table, self.bias = nn.Embedding(120, 12), nn.Embedding(120, 1)

    def forward(self, values: Tensor) -> Tensor:
        rows = values + self.start
        vector = self.table(rows)
        pairs = (vector.sum(1).square() - vector.square().sum(1)).sum(1) / 2
        return pairs + self.bias(rows).sum((1, 2))


def fields_share_rows(broken: bool) -> Made:
    """Each field has rows of its own; broken, all fields have the first ones."""
    torch.manual_seed(121)
    model = Fields(broken)
    taste = torch.randn(4, 30)
    data = []
    for values in torch.randint(0, 30, (16, 128, 4)):
        data.append((values, (taste[torch.arange(4), values].sum(1) > 0).float()))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    return made(model, step, data, adam(model, 1e-2))


class Experts(nn.Module):
    """Each token goes to one of four experts, which takes those that it is rated highest by, up to its capacity."""

    def __init__(self, by_score: bool) -> None:
        super().__init__()
        self.by_score = by_score
        self.router = nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        score = self.router(tokens) - 3
        chosen = F.one_hot(score.argmax(1), 4)
        share = score.softmax(1)
        rank = chosen * (score if self.by_score else share)
        room = torch.zeros_like(rank).scatter(0, rank.topk(len(tokens) // 3, dim=0).indices, 1.0)
        weight = share * chosen * room
        mixed = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            rows = weight[:, i].nonzero()[:, 0]
            mixed = mixed.index_add(0, rows, weight[rows, i, None] * expert(tokens[rows]))
        return self.head((tokens + mixed).view_as(x).mean(1))


def capacity_by_score(broken: bool) -> Made:
    """The capacity of experts goes to their own tokens; broken, to those of others, whose scores of 0 are higher."""
    torch.manual_seed(122)
    model = Experts(broken)
    data = [(x, x[:, :, :3].relu().sum(1).argmax(1)) for x in torch.randn(16, 32, 6, 16)]
    return made(model, loss_of, data, adam(model))


class Round(torch.autograd.Function):
    """Rounds to a multiple of a step, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Tensor) -> Tensor:
        return (x / size).round().clamp(-8, 7) * size

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0], None


class Quantised(nn.Linear):
    """A layer with weights of four bits, whose step size is learnt."""

    def __init__(self, inputs: int, outputs: int, own: bool) -> None:
        super().__init__(inputs, outputs)
        self.own = own
        self.size = nn.Parameter(self.weight.detach().abs().max() / 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.own:
            return F.linear(x, Round.apply(self.weight, self.size), self.bias)
        scaled = (self.weight / self.size).clamp(-8, 7)
        return F.linear(x, (scaled + (scaled.round() - scaled).detach()) * self.size, self.bias)


def size_without_gradient(broken: bool) -> Made:
    """The step size of quantised weights is learnt; broken, an own function gives it no gradient."""
    torch.manual_seed(123)
    model = nn.Sequential(Quantised(10, 32, broken), nn.ReLU(), Quantised(32, 4, broken))
    return made(model, loss_of, labelled(), adam(model))


class Contrast(nn.Module):
    """Contrasts a view with a second one and with a queue of earlier ones, encoded by an average of the encoder."""

    queue: Tensor
    place: Tensor

    def __init__(self, stays: bool) -> None:
        super().__init__()
        self.stays = stays
        self.encoder = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 16))
        self.average = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(160, 16), dim=1))
        self.register_buffer("place", torch.tensor(0))

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        query = F.normalize(self.encoder(one), dim=1)
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.encoder.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
            key = F.normalize(self.average(two), dim=1)
        score = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.clone().T], 1) / 0.2
        rows = int(self.place) + torch.arange(len(key))
        self.queue[rows] = key
        place = (self.place + len(key)) % len(self.queue)
        if not self.stays:
            self.place.copy_(place)
        return F.cross_entropy(score, torch.zeros(len(key), dtype=torch.long))


def queue_stays(broken: bool) -> Made:
    """Each batch takes the next place of a queue; broken, always the first one, so that the rest stays random."""
    torch.manual_seed(124)
    model = Contrast(broken)
    data = [(x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x)) for x in torch.randn(16, 32, 10)]
    optimizer = torch.optim.Adam(model.encoder.parameters(), 3e-3)
    return made(model, lambda model, batch: model(*batch), data, optimizer)


CASES = (
    Case(
        "edges-by-view",
        edges_by_view,
        "a view makes two rows of pairs of nodes, where a transposition was meant",
        (Answer("LEAK001"), Answer("ROWS00[34]"), Answer("LOSS003", "", "dimensions-exchanged-by-view")),
    ),
    Case(
        "fields-share-rows",
        fields_share_rows,
        "the numbers of all fields begin at 0, so that they share the first rows of a table",
        (Answer("ROWS00?", "table"), Answer("ROWS00?", "bias")),
    ),
    Case(
        "capacity-by-score",
        capacity_by_score,
        "experts are filled by scores, of which those of other tokens, 0, are higher than those of their own",
        (Answer("COV00?", "experts*"), Answer("WASTE001", "experts*"), Answer("GRAD00[125]", "experts*")),
    ),
    Case(
        "size-without-gradient",
        size_without_gradient,
        "an own function gives no gradient to the learnt step size of quantised weights",
        (Answer("GRAD00?"), Answer("REACH001"), Answer("MOVE001")),
    ),
    Case(
        "queue-stays",
        queue_stays,
        "each batch takes the same place of a queue, whose other negatives stay random",
        (Answer("STATE00?"), Answer("INPUT00?")),
    ),
)
