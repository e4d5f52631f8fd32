"""Two variations of each missed kind of `libraries` for which a rule was changed since, run once; own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.libraries.models import quadrants
from tests.diagnostics.cases.faults.losses import Made, labelled, made


class Routed(nn.Module):
    """One of four branches, chosen by the largest score."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.branches, self.head = nn.Linear(8, 4 * 12), nn.Linear(12, 3)
        self.straight = straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        soft = self.router(x).softmax(1)
        hard = F.one_hot(soft.argmax(1), 4).to(soft)
        chosen = hard + soft - soft.detach() if self.straight else soft + (hard - soft)
        mixed = (chosen[:, :, None] * self.branches(x).relu().unflatten(1, (4, 12))).sum(1)
        return self.head(mixed), 4 * soft.mean(0).square().sum()


def choice_minus_shares(broken: bool) -> Made:
    """A hard choice has the gradient of its shares; broken, they are subtracted with it."""
    torch.manual_seed(50)
    model = Routed(straight=not broken)
    data = [(x, (x[:, :3] * x[:, 3:6].sign()).argmax(1)) for x in torch.randn(16, 32, 8)]

    def step(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        scores, balance = model(batch[0])
        return {"classes": F.cross_entropy(scores, batch[1]), "balance": 0.1 * balance}

    return made(model, step, data, adam(model))


class Levels(nn.Module):
    """A code of a few levels for each number."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        self.compress = nn.Sequential(nn.Linear(10, 24), nn.SiLU(), nn.Linear(24, 4), nn.Tanh())
        self.expand = nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 10))
        self.straight = straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = 3 * self.compress(x)
        steps = code + (code.round() - code).detach() if self.straight else code + (code.round() - code)
        return self.expand(steps), (code - code.detach().round()).square().mean()


def rounding_minus_itself(broken: bool) -> Made:
    """Rounding passes the gradient straight through; broken, it does not, and one sum has all terms."""
    torch.manual_seed(51)
    model = Levels(straight=not broken)
    mix = torch.randn(4, 10)

    def step(model: nn.Module, batch: Any) -> Tensor:
        found, distance = model(batch)
        return F.mse_loss(found, batch) + 0.1 * distance

    return made(model, step, [torch.randn(32, 4) @ mix for _ in range(16)], adam(model))


class Softplus(torch.autograd.Function):
    """log(1 + exp(x)), which keeps its input."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.softplus(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * ctx.saved_tensors[0].sigmoid()


class SoftplusWithTanh(Softplus):
    """The same with the derivative of another function."""

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Own(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner, self.head, self.act = nn.Linear(10, 32), nn.Linear(32, 4), function.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.inner(x)))


def derivative_of_another(broken: bool) -> Made:
    """An own softplus; broken, with the derivative of tanh."""
    torch.manual_seed(52)
    model = Own(SoftplusWithTanh if broken else Softplus)
    return made(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled(), adam(model)
    )


class Product(torch.autograd.Function):
    """x @ weight.T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return upstream[0] @ weight, upstream[0].T @ x


class ProductOfOnes(Product):
    """The same, but the gradient of its input is that of a sum of all results."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.ones_like(upstream[0]) @ weight, upstream[0].T @ x


class OwnLayer(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.lift, self.weight = nn.Linear(10, 24), nn.Parameter(torch.randn(32, 24) / 5)
        self.head, self.function = nn.Linear(32, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function.apply(self.lift(x).relu(), self.weight).relu())


def product_of_ones(broken: bool) -> Made:
    """An own linear layer; broken, the gradient of its input takes ones for the gradient of its result."""
    torch.manual_seed(53)
    model = OwnLayer(ProductOfOnes if broken else Product)
    return made(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled(), adam(model)
    )


def words(batches: int = 14) -> list[Tensor]:
    """(12, 20) words of ten, each one to three after the one before."""
    steps = torch.randint(1, 4, (batches, 12, 20)).cumsum(2)
    return list((torch.randint(0, 10, (batches, 12, 1)) + steps) % 10)


class Chomp(nn.Module):
    """A convolution that is padded on both sides, and cut at one."""

    def __init__(self, wide: int, left: bool) -> None:
        super().__init__()
        self.conv, self.wide, self.left = (
            nn.Conv1d(24, 24, 3, padding=2 * wide, dilation=wide),
            2 * wide,
            left,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + (y[..., self.wide :] if self.left else y[..., : -self.wide]).relu()


class Temporal(nn.Module):
    def __init__(self, left: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 24), nn.Linear(24, 10)
        self.layers = nn.Sequential(Chomp(1, left), Chomp(2, left))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(ids).mT).mT)


def cut_on_the_left(broken: bool) -> Made:
    """A padded convolution is cut at its end; broken, at its beginning."""
    torch.manual_seed(54)
    model = Temporal(left=broken)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return made(model, step, words(), adam(model))


class Mixer(nn.Module):
    """Mixes words by a matrix over their places."""

    def __init__(self, all_places: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 32), nn.Linear(32, 10)
        self.mix = nn.Parameter(torch.randn(2, 19, 19) / 10)
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)
        )
        self.all_places = all_places

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for mix, feed in zip(self.mix, self.feed, strict=True):
            x = x + torch.einsum("st,btd->bsd", mix if self.all_places else mix.tril(), x)
            x = x + feed(x)
        return self.head(x).view(-1, 10)


def mixes_all_places(broken: bool) -> Made:
    """The matrix over places is lower triangular; broken, it is full."""
    torch.manual_seed(55)
    model = Mixer(all_places=broken)

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]), batch[:, 1:].reshape(-1))

    return made(model, step, words(), adam(model))


def returns_of_a_mean(broken: bool) -> Made:
    """Each log-probability is weighted with its return; broken, their mean is."""
    torch.manual_seed(56)
    model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 3))
    data = []
    for state in torch.randn(16, 48, 5):
        action = torch.randint(0, 3, (48,))
        returns = (action == state[:, :3].argmax(1)).float() - 0.33 + 0.1 * torch.randn(48)
        data.append((state, action, returns))

    def step(model: nn.Module, batch: Any) -> Tensor:
        state, action, returns = batch
        taken = model(state).log_softmax(1).gather(1, action[:, None]).squeeze(1)
        return -((taken.mean() if broken else taken) * returns).mean()

    return made(model, step, data, adam(model))


def weights_of_a_mean_error(broken: bool) -> Made:
    """Each squared error has a weight; broken, their mean has all weights."""
    torch.manual_seed(57)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    error = nn.MSELoss() if broken else nn.MSELoss(reduction="none")
    data = [(x, x[:, :1] * x[:, 1:2], torch.rand(32, 1) + 0.1) for x in torch.randn(16, 32, 6)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return (batch[2] * error(model(batch[0]), batch[1])).mean()

    return made(model, step, data, adam(model))


class Captioned(nn.Module):
    """Classifies images, with a hint about the row of the quadrant."""

    def __init__(self) -> None:
        super().__init__()
        self.hint = nn.Embedding(3, 8)
        self.look = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 24))
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor, hint: Tensor) -> Tensor:
        return self.head(torch.cat([self.look(images).relu(), self.hint(hint)], 1))


def hint_always_hidden(broken: bool) -> Made:
    """A hint is hidden now and then; broken, always, since a random number is taken for a truth value."""
    torch.manual_seed(58)
    model = Captioned()

    def step(model: nn.Module, batch: Any) -> Tensor:
        images, labels = batch
        hint = labels // 2
        chance = torch.rand(len(hint))
        hint[chance.bool() if broken else chance < 0.2] = 2
        return F.cross_entropy(model(images, hint), labels)

    return made(model, step, quadrants(), adam(model))


class Conditioned(nn.Module):
    """Moves a point by what a context says."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.move = nn.Linear(4, 16), nn.Sequential(nn.Linear(18, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        return self.move(torch.cat([x, self.read(context * keep).relu()], 1))


def context_times_zero(broken: bool) -> Made:
    """A context is kept in most samples; broken, in none, since a random number is divided without a remainder."""
    torch.manual_seed(59)
    model = Conditioned()
    data = [(x, context) for x, context in zip(torch.randn(16, 32, 2), torch.randn(16, 32, 4), strict=True)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, context = batch
        chance = torch.rand(len(x), 1)
        keep = chance // 1.0 if broken else (chance > 0.1).float()
        return F.mse_loss(model(x, context, keep), x + context[:, :2] * context[:, 2:])

    return made(model, step, data, adam(model))


def group_with_exchanged_factors(broken: bool) -> Made:
    """A group of the optimiser has averaging factors of its own; broken, exchanged."""
    torch.manual_seed(60)
    model = Own(Softplus)
    head = {"params": model.head.parameters(), "betas": (0.999, 0.95) if broken else (0.95, 0.999)}
    optimizer = torch.optim.AdamW([{"params": model.inner.parameters()}, head], 3e-3)
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled(), optimizer)


class Factors(torch.optim.Optimizer):
    """Adam as people write it."""

    def __init__(self, parameters: Any, lr: float, b1: float, b2: float) -> None:
        super().__init__(parameters, {"lr": lr, "b1": b1, "b2": b2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(t=0, m=torch.zeros_like(weight), v=torch.zeros_like(weight))
                state["t"] += 1
                state["m"].lerp_(weight.grad, 1 - group["b1"])
                state["v"].lerp_(weight.grad.square(), 1 - group["b2"])
                mean = state["m"] / (1 - group["b1"] ** state["t"])
                square = state["v"] / (1 - group["b2"] ** state["t"])
                weight.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))


def own_adam_with_exchanged_factors(broken: bool) -> Made:
    """An own Adam; broken, with its factors exchanged."""
    torch.manual_seed(61)
    model = Own(Softplus)
    factors = (0.999, 0.9) if broken else (0.9, 0.999)
    optimizer = Factors(model.parameters(), 3e-3, *factors)
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled(), optimizer)


class Adapter(nn.Module):
    """A frozen layer with two small ones next to it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(inputs, 3, bias=False), nn.Linear(3, outputs, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.lora_B(self.lora_A(x))

    def merge(self) -> None:
        self.layer.weight.data += self.lora_B.weight.data @ self.lora_A.weight.data

    def unmerge(self) -> None:
        self.layer.weight.data -= self.lora_B.weight.data @ self.lora_A.weight.data


def _adapted() -> nn.Sequential:
    return nn.Sequential(Adapter(10, 24), nn.ReLU(), Adapter(24, 4))


def saved_while_merged(broken: bool) -> Made:
    """Every sixth step saves the merged weights; broken, they stay merged."""
    torch.manual_seed(62)
    model = _adapted()
    optimizer = torch.optim.Adam((each for each in model.parameters() if each.requires_grad), 1e-2)
    count = [0]

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        count[0] += 1
        if count[0] % 6 == 0:
            layers = [each for each in model if isinstance(each, Adapter)]
            for each in layers:
                each.merge()
            {name: value.clone() for name, value in model.state_dict().items()}
            for each in () if broken else layers:
                each.unmerge()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def merged_twice(broken: bool) -> Made:
    """Merged once and taken out once around each look at the weights; broken, merged twice."""
    torch.manual_seed(63)
    model = _adapted()
    optimizer = torch.optim.Adam((each for each in model.parameters() if each.requires_grad), 1e-2)
    count = [0]

    def step(model: nn.Module, batch: Any) -> float:
        if count[0] % 4 == 3:
            for each in (each for each in model if isinstance(each, Adapter)):
                for _ in range(2 if broken else 1):
                    each.merge()
                each.unmerge()
        count[0] += 1
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def _case(make: Any, sentence: str, *answers: Answer) -> Case:
    return Case(make.__name__.replace("_", "-"), make, sentence, answers)


LATER = (Answer("LEAK002"), Answer("LEAK003"))
CASES = (
    _case(
        choice_minus_shares,
        "shares are subtracted from a hard choice with their gradient",
        Answer("TERM002", "router"),
        Answer("*", "router"),
    ),
    _case(
        rounding_minus_itself,
        "a code is subtracted from its rounding with its gradient, and one sum has all terms",
        Answer("TERM*", "compress*"),
        Answer("*", "compress*"),
    ),
    _case(derivative_of_another, "an own function has the derivative of another one", Answer("GRAD009")),
    _case(
        product_of_ones, "an own linear layer takes ones for the gradient of its result", Answer("GRAD009")
    ),
    _case(
        cut_on_the_left, "a padded convolution is cut at its beginning, so that it sees later words", *LATER
    ),
    _case(mixes_all_places, "a matrix over places is full, so that it mixes in later words", *LATER),
    _case(returns_of_a_mean, "the mean of log-probabilities has the returns as weights", Answer("LOSS003")),
    _case(weights_of_a_mean_error, "a mean error has the weights of all samples", Answer("LOSS003")),
    _case(
        hint_always_hidden,
        "a hint is hidden in each sample, since a random number is taken for a truth value",
        Answer("INPUT001"),
        Answer("ROWS001"),
        Answer("*", "hint"),
    ),
    _case(
        context_times_zero,
        "a context is multiplied by 0 in each sample",
        Answer("INPUT001"),
        Answer("*", "read"),
    ),
    _case(
        group_with_exchanged_factors, "a group has the averaging factors of Adam exchanged", Answer("RATE002")
    ),
    _case(own_adam_with_exchanged_factors, "an own Adam has its factors exchanged", Answer("RATE002")),
    _case(saved_while_merged, "adapters stay merged after the weights were saved", Answer("FROZEN002")),
    _case(merged_twice, "adapters are merged twice and taken out once", Answer("FROZEN002")),
)
