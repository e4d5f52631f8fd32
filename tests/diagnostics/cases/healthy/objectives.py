"""Healthy programs with unusual losses: no tool may accuse them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made


def replay() -> Made:
    """Q-learning: one action in an environment, then an update from 32 remembered ones; the target lags."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    model = nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})
    optimizer, memory = adam(online), deque(maxlen=500)  # type: ignore[var-annotated]
    state = torch.randn(4)

    def act(state: Tensor) -> Tensor:
        with torch.no_grad():
            greedy = int(model["online"](state[None]).argmax())
        action = greedy if torch.rand(()) > 0.2 else int(torch.randint(0, 2, ()))
        after = 0.9 * state + 0.3 * torch.randn(4) + (0.1 if action else -0.1)
        memory.append((state, action, -float(after[0].abs()), after))
        return after

    for _ in range(64):
        state = act(state)
    held = [state]

    def step(model: Any, _: Any) -> float:
        held[0] = act(held[0])
        drawn = [memory[int(place)] for place in torch.randint(0, len(memory), (32,))]
        before, action, reward, after = zip(*drawn, strict=True)
        with torch.no_grad():
            best = model["target"](torch.stack(after)).amax(1)
        value = model["online"](torch.stack(before)).gather(1, torch.tensor(action)[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(value, torch.tensor(reward) + 0.9 * best)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model["online"].parameters(), 100)
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(model["target"].parameters(), model["online"].parameters(), strict=True):
                own.lerp_(other, 0.02)
        return loss.item()

    return made(model, step, [torch.zeros(32)] * 20, optimizer)


class Momentum(nn.Module):
    """An encoder, a slow copy of it, and a queue of what the copy gave for earlier batches."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))
        self.slow = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(128, 8), dim=1))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        query = F.normalize(self.encoder(one), dim=1)
        with torch.no_grad():
            for own, from_ in zip(self.slow.parameters(), self.encoder.parameters(), strict=True):
                own.lerp_(from_, 0.01)
            key = F.normalize(self.slow(other), dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.clone().T], 1) / 0.2
        self.queue.copy_(torch.cat([key, self.queue[: -len(key)]]))
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def memory_bank() -> Made:
    torch.manual_seed(0)
    model = Momentum()
    data = [(x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)) for x in torch.randn(20, 32, 10)]
    return made(model, lambda model, batch: model(*batch), data, adam(model.encoder))


class Coupling(nn.Module):
    """Half of the features are scaled and shifted by functions of the other half; the last layer starts at zero."""

    def __init__(self, flipped: bool) -> None:
        super().__init__()
        self.body, self.last, self.flipped = nn.Linear(3, 32), nn.Linear(32, 6), flipped
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, 1)[:: -1 if self.flipped else 1]
        scale, shift = self.last(self.body(kept).relu()).chunk(2, 1)
        scale = scale.tanh()
        parts = kept, moved * scale.exp() + shift
        return torch.cat(parts[:: -1 if self.flipped else 1], 1), scale.sum(1)


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(bool(number % 2)) for number in range(4))

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, change = coupling(x)
            total = total + change
        return total - 0.5 * x.square().sum(1) - 3 * 1.8379


def normalising_flow() -> Made:
    torch.manual_seed(0)
    model = Flow()
    data = [x @ torch.randn(6, 6) for x in torch.randn(20, 64, 6)]
    return made(model, lambda model, x: -model(x).mean(), data, adam(model, 1e-3))


class Annealed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(32, 3), nn.Linear(32, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h).clamp(-8, 8)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decoder(latent), 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def annealed_divergence() -> Made:
    """The divergence counts nothing at first, and only beyond a tenth of a nat per latent (free bits)."""
    torch.manual_seed(0)
    model, count = Annealed(), [0]
    mix = torch.randn(3, 8)

    def step(model: nn.Module, x: Tensor) -> Tensor:
        output, divergence = model(x)
        weight = min(1.0, count[0] / 50)
        count[0] += 1
        cost = divergence.mean(0).clamp(min=0.1).sum()
        return F.mse_loss(output, x, reduction="none").sum(1).mean() + weight * cost

    return made(model, step, [x @ mix for x in torch.randn(20, 32, 3)], adam(model))


def differential_equation() -> Made:
    """u' = -u with u(0) = 1: derivatives of the network are in the loss, and one point is the boundary."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(model: nn.Module, time: Tensor) -> Tensor:
        time = time.requires_grad_()
        value = model(time)
        (slope,) = torch.autograd.grad(value.sum(), time, create_graph=True)
        start = model(torch.zeros(1, 1))
        return (slope + value).square().mean() + 10 * (start - 1).square().mean()

    return made(model, step, list(2 * torch.rand(20, 32, 1)), adam(model))


def langevin() -> Made:
    """An energy model: samples walk downhill with noise, without gradient for the weights, then the energies differ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 1))
    optimizer = adam(model, 1e-3)

    def sample(model: nn.Module, x: Tensor) -> Tensor:
        model.requires_grad_(False)
        model.eval()
        for _ in range(5):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x)
            x = x - 0.1 * slope + 0.05 * torch.randn_like(x)
        model.requires_grad_(True)
        model.train()
        return x.detach()

    def step(model: nn.Module, real: Tensor) -> float:
        fake = sample(model, torch.randn_like(real))
        up, down = model(real), model(fake)
        loss = up.mean() - down.mean() + 0.1 * (up.square() + down.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, list(1 + 0.3 * torch.randn(20, 32, 4)), optimizer)


class Chooser(nn.Module):
    """A message of four symbols, each a hard choice with the gradient of a soft one."""

    def __init__(self) -> None:
        super().__init__()
        self.speak, self.words, self.listen = (
            nn.Linear(10, 4 * 8),
            nn.Linear(8, 12, bias=False),
            nn.Linear(48, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        chosen = F.gumbel_softmax(self.speak(x).view(-1, 4, 8), tau=1.0, hard=True)
        return self.listen(self.words(chosen).flatten(1))


def hard_choices() -> Made:
    torch.manual_seed(0)
    model = Chooser()
    data = list(torch.randn(20, 32, 10))
    return made(model, lambda model, x: F.mse_loss(model(x), x), data, adam(model))


class Reversed(torch.autograd.Function):
    """Gives its input back, and its gradient negated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -0.3 * gradients[0]


class Adversarial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.label, self.domain = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.label(features), self.domain(Reversed.apply(features)).squeeze(1)


def gradient_reversal() -> Made:
    """Features should say the label and not the domain; half of the batch has no label."""
    torch.manual_seed(0)
    model, data = Adversarial(), []
    for x, y in labelled():
        domain = (torch.arange(32) >= 16).float()
        data.append((x + domain[:, None] * 0.5, y, domain))

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits, domain = model(batch[0])
        return F.cross_entropy(logits[:16], batch[1][:16]) + F.binary_cross_entropy_with_logits(
            domain, batch[2]
        )

    return made(model, step, data, adam(model))


def policy_gradient() -> Made:
    """REINFORCE: a surrogate whose value says nothing, with a learnt baseline."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"policy": classifier(), "value": nn.Linear(10, 1)})

    def step(model: Any, batch: Any) -> Tensor:
        policy = torch.distributions.Categorical(logits=model["policy"](batch[0]))
        action = policy.sample()
        reward = (action == batch[1]).float()
        value = model["value"](batch[0]).squeeze(1)
        gain = (reward - value).detach()
        return (
            -(policy.log_prob(action) * gain).mean()
            + F.mse_loss(value, reward)
            - 0.01 * policy.entropy().mean()
        )

    return made(model, step, labelled(), adam(model))


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.GRU(6, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0]).log_softmax(2)


def connectionist() -> Made:
    """CTC: the loss wants time first, and targets of several lengths."""
    torch.manual_seed(0)
    model, data = Speech(), []
    for x in torch.randn(20, 16, 12, 6):
        words = x[:, ::4, :4].argmax(2) + 1
        data.append((x, words, torch.randint(1, 4, (16,))))

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(batch[0]).transpose(0, 1)
        times = torch.full((len(batch[0]),), scores.shape[0])
        return F.ctc_loss(scores, batch[1], times, batch[2], zero_infinity=True)

    return made(model, step, data, adam(model))


class Words(nn.Module):
    """Two tables of vectors: of words and of their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.near = nn.Embedding(200, 16, sparse=True), nn.Embedding(200, 16, sparse=True)
        nn.init.zeros_(self.near.weight)

    def forward(self, word: Tensor, near: Tensor, far: Tensor) -> Tensor:
        centre = self.word(word)
        right = (centre * self.near(near)).sum(1)
        wrong = (self.near(far) @ centre[:, :, None]).squeeze(2)
        return -(F.logsigmoid(right) + F.logsigmoid(-wrong).sum(1)).mean()


def word_vectors() -> Made:
    torch.manual_seed(0)
    model, data = Words(), []
    for word in torch.randint(0, 200, (20, 32)):
        data.append((word, (word + 1) % 200, torch.randint(0, 200, (32, 5))))
    return made(
        model, lambda model, batch: model(*batch), data, torch.optim.SparseAdam(model.parameters(), 1e-2)
    )


class Swapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.prototypes = classifier(), nn.Linear(4, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.encoder(x), dim=1))


def balanced_assignment() -> Made:
    """SwAV: each view predicts the cluster of the other one, and clusters are balanced over the batch."""
    torch.manual_seed(0)
    model = Swapped()

    @torch.no_grad()
    def assign(scores: Tensor) -> Tensor:
        shares = (scores / 0.1).exp().T
        for _ in range(3):
            shares = shares / shares.sum(1, keepdim=True)
            shares = shares / shares.sum(0, keepdim=True)
        return shares.T

    def step(model: nn.Module, x: Tensor) -> Tensor:
        one, other = model(x + 0.1 * torch.randn_like(x)), model(x + 0.1 * torch.randn_like(x))
        return F.cross_entropy(one / 0.2, assign(other)) + F.cross_entropy(other / 0.2, assign(one))

    return made(model, step, list(torch.randn(20, 32, 10)), adam(model))


class Pooled(nn.Module):
    """Graphs of several sizes in one list of nodes; each node knows its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor, count: int) -> Tensor:
        state = self.first(nodes).relu()
        state = state.index_add(0, edges[1], state[edges[0]])
        state = self.second(state).relu()
        return self.head(state.new_zeros(count, 16).index_add(0, graph, state))


def batch_of_graphs() -> Made:
    torch.manual_seed(0)
    model, data = Pooled(), []
    for _ in range(20):
        graph = torch.arange(12).repeat_interleave(torch.randint(2, 6, (12,)))
        nodes = torch.randn(len(graph), 5)
        edges = torch.nonzero((graph[:, None] == graph) & (torch.rand(len(graph), len(graph)) < 0.5)).T
        total = torch.zeros(12).index_add(0, graph, nodes[:, 0])
        data.append((nodes, edges, graph, (total > 0).long()))

    def step(model: nn.Module, batch: Any) -> Tensor:
        nodes, edges, graph, label = batch
        return F.cross_entropy(model(nodes, edges, graph, len(label)), label)

    return made(model, step, data, adam(model)) | {"samples": lambda batch: len(batch[3])}


class Convolved(nn.Module):
    """Two layers over a graph that is given as pairs of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        state = self.first(x)
        state = self.second(state.index_add(0, edges[1], state[edges[0]]).relu())
        return state.index_add(0, edges[1], state[edges[0]])


def few_labelled_nodes() -> Made:
    """The same graph of 200 nodes in each step, 20 of which have a label."""
    torch.manual_seed(0)
    model, edges = Convolved(), torch.randint(0, 200, (2, 600))
    x = torch.randn(200, 10)
    batch = (x, edges, x[:, :4].argmax(1), torch.arange(200) % 10 == 0)

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, edges, labels, known = batch
        return F.cross_entropy(model(x, edges)[known], labels[known])

    return made(model, step, [batch] * 20, adam(model)) | {"samples": lambda batch: len(batch[0])}


class Assays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.often, self.rarely = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.body(x)
        return [self.often(h).squeeze(1), self.rarely(h).squeeze(1)]


def missing_answers() -> Made:
    """Two tasks: every sample has an answer to the first, one in four to the second."""
    torch.manual_seed(0)
    model, data = Assays(), []
    for x in torch.randn(20, 32, 10):
        known = torch.rand(32) < 0.25
        known[int(torch.randint(0, 32, ()))] = True
        data.append((x, (x[:, 0] > 0).float(), (x[:, 1] > 0).float(), known))

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, often, rarely, known = batch
        one, other = model(x)
        loss = F.binary_cross_entropy_with_logits(one, often)
        return loss + F.binary_cross_entropy_with_logits(other[known], rarely[known])

    return made(model, step, data, adam(model))


def hardest_triplets() -> Made:
    """Each sample against its farthest equal and its nearest other in the batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))

    def step(model: nn.Module, batch: Any) -> Tensor:
        points = F.normalize(model(batch[0]), dim=1)
        apart = (points[:, None] - points).square().sum(2).clamp(min=1e-12).sqrt()
        same = batch[1][:, None] == batch[1]
        far = apart.masked_fill(~same, 0).amax(1)
        near = apart.masked_fill(same, 9).amin(1)
        return F.softplus(5 * (far - near)).mean()

    return made(model, step, labelled(), adam(model))


def mixed_samples() -> Made:
    """Mixup with label smoothing: each sample is mixed with another one, and so is its label."""
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        share, other = torch.distributions.Beta(0.4, 0.4).sample(), torch.randperm(len(batch[0]))
        logits = model(torch.lerp(batch[0][other], batch[0], share))
        own = F.cross_entropy(logits, batch[1], label_smoothing=0.1)
        return share * own + (1 - share) * F.cross_entropy(logits, batch[1][other], label_smoothing=0.1)

    return made(model, step, labelled(), adam(model))


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = (
            nn.Sequential(nn.Linear(10, 32), nn.ReLU()),
            nn.Linear(32, 4),
            nn.Linear(32, 1),
        )
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.kind(h), self.size(h).squeeze(1)


def learnt_weights_of_tasks() -> Made:
    """Each task is weighted by a learnt variance, so that the loss may become negative."""
    torch.manual_seed(0)
    model = Weighted()

    def step(model: Any, batch: Any) -> Tensor:
        kind, size = model(batch[0])
        losses = torch.stack([F.cross_entropy(kind, batch[1]), F.mse_loss(size, batch[0][:, 5])])
        return (losses * (-model.log_variance).exp() + model.log_variance).sum()

    return made(model, step, labelled(), adam(model))


PROGRAMS: dict[str, Callable[[], Made]] = {
    "Q-learning from a replay memory": replay,
    "contrast with a queue": memory_bank,
    "normalising flow": normalising_flow,
    "divergence that grows, with free bits": annealed_divergence,
    "derivatives in the loss": differential_equation,
    "energies of sampled walks": langevin,
    "hard choices, straight through": hard_choices,
    "gradient reversal": gradient_reversal,
    "policy gradient with a baseline": policy_gradient,
    "alignment of sequences (CTC)": connectionist,
    "word vectors alone": word_vectors,
    "clusters balanced over the batch": balanced_assignment,
    "graphs of several sizes": batch_of_graphs,
    "a graph with few labels": few_labelled_nodes,
    "answers to a second task for some": missing_answers,
    "hardest triplets of a batch": hardest_triplets,
    "mixed samples": mixed_samples,
    "tasks with learnt weights": learnt_weights_of_tasks,
}
