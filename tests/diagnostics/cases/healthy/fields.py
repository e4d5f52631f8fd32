"""Healthy programs that look unusual, of the fields of the last faults, written before their rules; own code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Spectrum(nn.Module):
    """Two layers that multiply the low frequencies of a signal with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.drop = nn.Conv1d(1, 16, 1), nn.Conv1d(16, 1, 1)
        self.weights = nn.ParameterList(torch.randn(16, 16, 5, dtype=torch.cfloat) / 16 for _ in range(2))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for weight, skip in zip(self.weights, self.skips, strict=True):
            waves = torch.fft.rfft(x)
            low = torch.einsum("bif,iof->bof", waves[..., :5], weight)
            x = F.gelu(torch.fft.irfft(F.pad(low, (0, waves.shape[2] - 5)), n=x.shape[2]) + skip(x))
        return self.drop(x)


def complex_weights_of_waves() -> Made:
    """Most frequencies are cut off, and the weights of the others are complex."""
    torch.manual_seed(130)
    place = torch.linspace(0, 6.28, 33)[:-1]
    data = []
    for size, phase in torch.randn(16, 2, 24, 1, 1):
        x = size * (place + phase).sin() + 0.5 * (2 * place).cos()
        data.append((x, torch.roll(x, 4, 2)))
    return made(Spectrum(), lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data)


class TwoNorms(nn.Module):
    """A classifier of images with one batch norm for given images and one for disturbed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 12, 3, 2, 1), nn.Linear(12, 3)
        self.norms = nn.ModuleDict({"given": nn.BatchNorm2d(12), "disturbed": nn.BatchNorm2d(12)})

    def forward(self, x: Tensor, kind: str) -> Tensor:
        return self.head(F.relu(self.norms[kind](self.first(x))).mean((2, 3)))


def norms_for_disturbed_images() -> Made:
    """Images are disturbed by their own gradient and have a norm of their own; memory is channels last."""
    torch.manual_seed(131)
    model = TwoNorms().to(memory_format=torch.channels_last)
    data = [(x, x.mean((2, 3)).argmax(1)) for x in torch.randn(16, 24, 3, 8, 8)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].to(memory_format=torch.channels_last)
        shift = torch.zeros_like(x).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x + shift, "disturbed"), batch[1]), shift)
        disturbed = model(x + 0.02 * slope.sign(), "disturbed")
        return F.cross_entropy(model(x, "given"), batch[1]) + F.cross_entropy(disturbed, batch[1])

    return made(model, step, data, adam(model))


def slopes_of_a_code() -> Made:
    """An autoencoder whose code has to change little, with its derivatives by torch.func."""
    torch.manual_seed(132)
    encoder = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    model = nn.ModuleDict({"encoder": encoder, "decoder": nn.Linear(3, 8)})
    mixing = torch.randn(3, 8)
    data = [torch.randn(24, 3) @ mixing for _ in range(16)]

    def step(model: Any, x: Tensor) -> Tensor:
        weights = dict(model["encoder"].named_parameters())
        slopes = vmap(jacrev(lambda row: functional_call(model["encoder"], weights, (row,))))(x)
        return (
            F.mse_loss(model["decoder"](model["encoder"](x)), x) + 0.01 * slopes.square().sum((1, 2)).mean()
        )

    return made(model, step, data, adam(model))


class Bags(nn.Module):
    """Classifies bags of words with weights, which are in one flat list."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(400, 16, mode="sum", sparse=True)
        self.head = nn.Linear(16, 3)

    def forward(self, words: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
        return self.head(self.words(words, starts, per_sample_weights=weights))


def bags_of_rare_words() -> Made:
    """Most words are rare, their gradient is sparse, and they have an optimiser of their own."""
    torch.manual_seed(133)
    model = Bags()
    optimizers = [
        torch.optim.SparseAdam(list(model.words.parameters()), 0.01),
        torch.optim.Adam(model.head.parameters(), 0.01),
    ]
    data = []
    for _ in range(16):
        sizes = torch.randint(1, 9, (32,))
        words = (400 * torch.rand(int(sizes.sum())) ** 3).long()
        label = torch.zeros(32).index_add(0, torch.arange(32).repeat_interleave(sizes), words.float())
        data.append((words, sizes.cumsum(0) - sizes, torch.rand(len(words)) + 0.5, label.long() % 3))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(*batch[:3]), batch[3])

    return {**made(model, step, data, optimizers), "samples": lambda batch: len(batch[3])}


class Means(nn.Module):
    """A sample gets the class whose average code is nearest; the averages are buffers."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 8))
        self.register_buffer("means", torch.randn(4, 8))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        code = self.encoder(x)
        score = -torch.cdist(code, self.means.clone())
        with torch.no_grad():
            for kind in label.unique():
                self.means[kind].lerp_(code[label == kind].mean(0), 0.1)
        return score


def means_in_buffers() -> Made:
    """What classes are compared with has no gradient and moves with the samples."""
    torch.manual_seed(134)
    model = Means()
    return made(model, lambda model, batch: F.cross_entropy(model(*batch), batch[1]), labelled(), adam(model))


def longer_and_longer() -> Made:
    """Sequences are cut to a length that grows, so that late positions are trained later."""
    torch.manual_seed(135)
    model = nn.ModuleDict(
        {
            "word": nn.Embedding(12, 24),
            "place": nn.Embedding(16, 24),
            "state": nn.GRU(24, 32, batch_first=True),
        }
    )
    model["head"] = nn.Linear(32, 12)
    data = [(start + torch.arange(17)) % 12 for start in torch.randint(0, 12, (16, 32, 1))]
    count = [0]

    def step(model: Any, words: Tensor) -> Tensor:
        count[0] += 1
        words = words[:, : min(17, 4 + count[0] // 4)]
        x = model["word"](words[:, :-1]) + model["place"](torch.arange(words.shape[1] - 1))
        return F.cross_entropy(model["head"](model["state"](x)[0]).transpose(1, 2), words[:, 1:])

    return made(model, step, data, adam(model))


class Chooser(nn.Module):
    """Chooses one of five branches for each sample, by a drawn and hard choice that gets colder."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.branches = nn.Linear(10, 5), nn.ModuleList(nn.Linear(10, 16) for _ in range(5))
        self.head = nn.Linear(16, 4)
        self.heat = 2.0

    def forward(self, x: Tensor) -> Tensor:
        self.heat = max(0.5, 0.99 * self.heat)
        choice = F.gumbel_softmax(self.gate(x), self.heat, hard=True)
        results = torch.stack([branch(x).relu() for branch in self.branches], 1)
        return self.head((choice[..., None] * results).sum(1))


def drawn_branches() -> Made:
    """Branches are drawn for each sample, with the gradient of a soft choice."""
    torch.manual_seed(136)
    model = Chooser()
    return made(model, loss_of, labelled(), adam(model))


def layers_on_their_own() -> Made:
    """Each layer tells right labels from wrong ones in its input, without a gradient from behind (forward-forward)."""
    torch.manual_seed(137)
    model = nn.ModuleList([nn.Linear(14, 48), nn.Linear(48, 48)])
    optimizers = [adam(layer) for layer in model]

    def step(model: Any, batch: Any) -> float:
        x, label = batch
        other = (label + torch.randint(1, 4, label.shape)) % 4
        right, wrong = (torch.cat([x, F.one_hot(each, 4).float()], 1) for each in (label, other))
        total = 0.0
        for layer, optimizer in zip(model, optimizers, strict=True):
            right, wrong = layer(F.normalize(right)).relu(), layer(F.normalize(wrong)).relu()
            margin = right.square().mean(1) - 0.5, 0.5 - wrong.square().mean(1)
            loss = sum(F.softplus(-4 * each).mean() for each in margin)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right, wrong = right.detach(), wrong.detach()
            total += loss.item()
        return total

    return made(model, step, labelled(), optimizers)


class Path(nn.Module):
    """Follows a learnt slope in six steps of Runge and Kutta, whose values are computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def rate(self, time: Tensor, x: Tensor) -> Tensor:
        return self.slope(torch.cat([x, time.expand(len(x), 1)], 1))

    def advance(self, time: Tensor, x: Tensor) -> Tensor:
        size = 1 / 6
        a = self.rate(time, x)
        b = self.rate(time + size / 2, x + size / 2 * a)
        c = self.rate(time + size / 2, x + size / 2 * b)
        d = self.rate(time + size, x + size * c)
        return x + size / 6 * (a + 2 * b + 2 * c + d)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(6):
            x = checkpoint(self.advance, torch.tensor(i / 6), x, use_reentrant=False)
        return x


def path_computed_again() -> Made:
    """One network is called 24 times in a step, and 24 times more in the backward pass."""
    torch.manual_seed(138)
    model, turn = Path(), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    data = [(x, x @ turn) for x in torch.randn(16, 32, 2)]
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, adam(model))


class Picture(nn.Module):
    """The picture is what is learnt; the network that looks at it stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.randn(1, 3, 12, 12) / 4)
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)
        self.eye = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, style: Tensor) -> Tensor:
        def relations(x: Tensor) -> Tensor:
            flat = self.eye(x).flatten(2)
            return flat @ flat.transpose(1, 2) / flat.shape[2]

        return F.mse_loss(relations(self.pixels), relations(style)) + 0.01 * self.pixels.square().mean()


def picture_that_is_learnt() -> Made:
    """Every step sees the same style, and no weight of a layer is trained."""
    torch.manual_seed(139)
    model = Picture()
    style = F.avg_pool2d(torch.randn(1, 3, 14, 14), 3, 1) * 3
    optimizer = torch.optim.Adam([model.pixels], 0.03)
    return made(model, lambda model, x: model(x), [style] * 8, optimizer)


def labels_of_sure_answers() -> Made:
    """Samples without a label count once the answer for them is sure, which none is at first (FixMatch)."""
    torch.manual_seed(140)
    model = classifier()
    data = [(x, x[:, :4].argmax(1), y) for x, y in torch.randn(16, 2, 48, 10)]

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, label, unlabelled = batch
        with torch.no_grad():
            share, own = model(unlabelled).softmax(1).max(1)
        again = F.cross_entropy(model(unlabelled + 0.1 * torch.randn_like(unlabelled)), own, reduction="none")
        return {"labelled": F.cross_entropy(model(x), label), "own": (again * (share > 0.6).float()).mean()}

    return made(model, step, data, adam(model))


class Reversible(torch.autograd.Function):
    """Two halves change each other; the backward pass computes the inputs from the outputs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, first: nn.Module, second: nn.Module, *weights: Tensor) -> Any:
        ctx.modules = first, second
        c = a + first(b)
        d = b + second(c)
        ctx.save_for_backward(c, d, *weights)
        return c, d

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        (first, second), (c, d, *weights) = ctx.modules, ctx.saved_tensors
        with torch.no_grad():
            b = d - second(c)
            a = c - first(b)
        with torch.enable_grad():
            a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
            end = a + first(b)
            found = torch.autograd.grad((end, b + second(end)), (a, b, *weights), grad)
        return found[0], found[1], None, None, *found[2:]


class Halves(nn.Module):
    """Three reversible blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 5)) for _ in range(6)
        )
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            a, b = Reversible.apply(a, b, first, second, *first.parameters(), *second.parameters())
        return self.head(torch.cat([a, b], 1))


def reversible_halves() -> Made:
    """An own function calls modules without gradient, and again in the backward pass."""
    torch.manual_seed(141)
    model = Halves()
    return made(model, loss_of, labelled(), adam(model))


def weights_of_two_precisions() -> Made:
    """The optimiser has precise copies of rounded weights, which are written back after each update."""
    torch.manual_seed(142)
    model = classifier().bfloat16()
    precise = [weight.detach().float().requires_grad_() for weight in model.parameters()]
    optimizer = torch.optim.AdamW(precise, 3e-3)

    def step(model: nn.Module, batch: Any) -> float:
        loss = F.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])
        model.zero_grad()
        loss.backward()
        for copied, weight in zip(precise, model.parameters(), strict=True):
            copied.grad = weight.grad.float()
        optimizer.step()
        with torch.no_grad():
            for copied, weight in zip(precise, model.parameters(), strict=True):
                weight.copy_(copied)
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Turning(nn.Module):
    """A recurrence whose matrix stays orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = parametrizations.orthogonal(nn.Linear(24, 24, bias=False))
        self.enter, self.head = nn.Linear(4, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(self.turn(state) + self.enter(x))


def loss_of_each_frame() -> Made:
    """Each frame has a backward pass of its own, and the next one gets its state detached; one update for all."""
    torch.manual_seed(143)
    model = Turning()
    optimizer = adam(model)
    data = [(x, (x + x.roll(1, 1)) / 2) for x in torch.randn(16, 32, 7, 4)]

    def step(model: Any, batch: Any) -> float:
        state, total = torch.zeros(32, 24), 0.0
        optimizer.zero_grad()
        for i in range(1, 7):
            state = model(batch[0][:, i], model(batch[0][:, i - 1], state.detach()))
            loss = F.mse_loss(model.head(state), batch[1][:, i]) / 6
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    return made(model, step, data, optimizer)


class Grids(nn.Module):
    """Features of points come from grids of three sizes, whose cells share rows of a table by a hash."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(512, 2) for _ in range(3))
        for table in self.tables:
            nn.init.uniform_(table.weight, -1e-3, 1e-3)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = []
        for table, size in zip(self.tables, (4, 12, 40), strict=True):
            low = (x * size).floor()
            share, total = x * size - low, 0.0
            for corner in torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]):
                cell = low.long() + corner
                row = (cell[:, 0] ^ (cell[:, 1] * 265443)) % 512
                weight = (share * corner + (1 - share) * (1 - corner)).prod(1, keepdim=True)
                total = total + weight * table(row)
            features.append(total)
        return self.net(torch.cat(features, 1))[:, 0]


def grids_with_a_hash() -> Made:
    """Many rows of small grids are never read, and rows start close to 0."""
    torch.manual_seed(144)
    model = Grids()
    data = [(x, (6 * x[:, 0]).sin() * (4 * x[:, 1]).cos()) for x in torch.rand(16, 128, 2)]
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, adam(model, 1e-2))


def transport_between_sets() -> Made:
    """Generated points are compared with all given ones by a transport plan without gradient."""
    torch.manual_seed(145)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    data = [torch.randn(48, 2) + 2 * torch.randint(0, 2, (48, 1)) for _ in range(16)]

    def step(model: nn.Module, x: Tensor) -> Tensor:
        cost = torch.cdist(model(torch.randn(48, 2)), x).square()
        with torch.no_grad():
            left, right = torch.zeros(48, 1), torch.zeros(1, 48)
            for _ in range(20):
                left = -torch.logsumexp(right - cost, 1, keepdim=True)
                right = -torch.logsumexp(left - cost, 0, keepdim=True)
            plan = (left + right - cost).exp()
        return (plan * cost).sum() / plan.sum()

    return made(model, step, data, adam(model))


def averaged_layers_of_a_teacher() -> Made:
    """A model sees hidden features as 0, and predicts what layers of its own average make of all of them."""
    torch.manual_seed(146)
    student = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU())
    model = nn.ModuleDict({"student": student, "head": nn.Linear(48, 48)})
    model["teacher"] = copy.deepcopy(student).requires_grad_(False).eval()
    mixing = torch.randn(4, 12)
    data = [torch.randn(32, 4) @ mixing for _ in range(16)]
    optimizer = torch.optim.Adam([*student.parameters(), *model["head"].parameters()], 1e-3)

    def step(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(model["teacher"].parameters(), model["student"].parameters(), strict=True):
                slow.lerp_(fast, 0.02)
            early = model["teacher"][:2](x)
            target = (F.layer_norm(early, (48,)) + F.layer_norm(model["teacher"][2:](early), (48,))) / 2
        hidden = x.masked_fill(torch.rand_like(x) < 0.4, 0)
        return F.smooth_l1_loss(model["head"](model["student"](hidden)), target)

    return made(model, step, data, optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "complex weights of waves": complex_weights_of_waves,
    "norms for disturbed images": norms_for_disturbed_images,
    "slopes of a code": slopes_of_a_code,
    "bags of rare words": bags_of_rare_words,
    "means in buffers": means_in_buffers,
    "longer and longer sequences": longer_and_longer,
    "drawn branches": drawn_branches,
    "layers on their own": layers_on_their_own,
    "path that is computed again": path_computed_again,
    "picture that is learnt": picture_that_is_learnt,
    "labels of sure answers": labels_of_sure_answers,
    "reversible halves": reversible_halves,
    "weights of two precisions": weights_of_two_precisions,
    "loss of each frame": loss_of_each_frame,
    "grids with a hash": grids_with_a_hash,
    "transport between sets": transport_between_sets,
    "averaged layers of a teacher": averaged_layers_of_a_teacher,
}
