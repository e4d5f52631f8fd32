"""Variations of modules that are one, tied, hidden or wrongly laid out, and of outputs that collapse."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made


class Attention(nn.Module):
    """Self-attention by hand."""

    def __init__(self, width: int, chained: bool = False, over: int = -1) -> None:
        super().__init__()
        if chained:
            self.query = self.key = self.value = nn.Linear(width, width)
        else:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.over = over
        self.merge = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        batch, length, width = state.shape
        q, k, v = (
            each(state).view(batch, length, 2, -1).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) / (width // 2) ** 0.5).softmax(self.over)
        return self.merge((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(15, 16), nn.Parameter(0.1 * torch.randn(6, 16))
        self.attention = Attention(16, **options)
        self.feed = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.out = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        state = self.embed(input_ids) + self.place
        state = state + self.attention(state)
        logits = self.out((state + self.feed(state)).mean(1))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def sentences() -> list[dict[str, Tensor]]:
    return [{"input_ids": ids, "labels": ids[:, 1] % 5} for ids in torch.randint(0, 15, (8, 16, 6))]


def of_sentences(net: nn.Module) -> Made:
    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 1e-3),
        "batches": sentences(),
        "step": lambda net, batch: net(**batch)["loss"],
        "samples": lambda batch: len(batch["labels"]),
    }


def chained_assignment(broken: bool) -> Made:
    """Three projections; broken, a chained assignment makes one layer of them."""
    torch.manual_seed(60)
    return of_sentences(Encoder(chained=broken))


def softmax_over_heads(broken: bool) -> Made:
    """Attention weights sum to 1 over the keys; broken, over the heads."""
    torch.manual_seed(61)
    return of_sentences(Encoder(over=1 if broken else -1))


class Distilled(nn.Module):
    """A student that learns from itself, by an average of its weights."""

    def __init__(self, shallow: bool) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8))
        self.teacher = (
            nn.Sequential(*map(copy.copy, self.student)) if shallow else copy.deepcopy(self.student)
        )
        if not shallow:
            self.teacher.requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for own, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            own.mul_(0.99).add_(other, alpha=0.01)


def shallow_copy(broken: bool) -> Made:
    """A teacher is the average of its student; broken, its layers are shallow copies, which have the same weights."""
    torch.manual_seed(62)
    net = Distilled(broken)
    optimizer = torch.optim.AdamW(net.student.parameters(), 1e-3)

    def step(net: Any, images: Tensor) -> float:
        with torch.no_grad():
            wanted = (net.teacher(images) / 0.1).softmax(1)
        found = (net.student(images + 0.1 * torch.randn_like(images)) / 0.2).log_softmax(1)
        loss = -(wanted * found).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.follow()
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": list(torch.randn(8, 16, 1, 8, 8)), "step": step}


class Speaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(25, 16)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2)
        )
        self.lm_head = nn.Linear(16, 25, bias=False)
        self.lm_head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        state = self.tokens(ids)
        for block in self.blocks:
            state = block(state, mask, is_causal=True)
        return self.lm_head(state)


def tie_by_value(broken: bool) -> Made:
    """The head shares the weights of the embedding; broken, a fresh parameter has a copy of them."""
    torch.manual_seed(63)
    net = Speaker()
    if broken:
        net.lm_head.weight = nn.Parameter(net.tokens.weight.detach().clone())
    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 1e-3),
        "batches": [(start + torch.arange(9)) % 25 for start in torch.randint(0, 25, (8, 16, 1))],
        "step": lambda net, ids: F.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()),
        "expect_tied": [("tokens", "lm_head")],
    }


class Convoluted(nn.Module):
    """Frames through a convolution, then a transformer."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.frames = nn.Conv1d(4, 16, 3, padding=1)
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=batch_first)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classify = nn.Linear(16, 3)

    def forward(self, signal: Tensor) -> Tensor:
        state = F.relu(self.frames(signal)).transpose(1, 2)
        return self.classify(self.transformer(state).mean(1))


def layout_of_transformer(broken: bool) -> Made:
    """Frames of signals through a transformer; broken, it takes the samples for the frames."""
    torch.manual_seed(64)
    net = Convoluted(not broken)
    loader = [(x, x.mean(2)[:, :3].argmax(1)) for x in torch.randn(8, 16, 4, 9)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Queries(nn.Module):
    """Learnt queries read a set by nn.MultiheadAttention, as in set transformers."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.points = nn.Linear(3, 16)
        self.read = nn.MultiheadAttention(16, 2, batch_first=batch_first)
        self.score = nn.Linear(16, 2)

    def forward(self, cloud: Tensor) -> Tensor:
        state = torch.relu(self.points(cloud))
        seen, _ = self.read(state, state, state)
        return self.score((state + seen).amax(1))


def layout_of_attention(broken: bool) -> Made:
    """Clouds of points attend to their own points; broken, points attend to those of other clouds."""
    torch.manual_seed(65)
    net = Queries(not broken)
    loader = [(x, (x.norm(dim=2).mean(1) > 1.55).long()) for x in torch.randn(8, 24, 10, 3)]
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)

    def train(net: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": loader, "step": train}


class Mixture(nn.Module):
    """A mixture density network."""

    def __init__(self, over: int) -> None:
        super().__init__()
        self.over = over
        self.body = nn.Sequential(nn.Linear(1, 32), nn.Tanh())
        self.share, self.centre, self.width = nn.Linear(32, 5), nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.body(x)
        return self.share(state).log_softmax(self.over), self.centre(state), self.width(state).exp()


def shares_over_samples(broken: bool) -> Made:
    """A density is a mixture; broken, the shares sum to 1 over the samples, not over the components."""
    torch.manual_seed(66)
    net = Mixture(0 if broken else 1)
    loader = []
    for x in 2 * torch.randn(8, 32, 1):
        loader.append((x, x * torch.randint(0, 2, x.shape).mul(2).sub(1) + 0.1 * torch.randn_like(x)))

    def step(net: nn.Module, batch: Any) -> Tensor:
        share, centre, width = net(batch[0])
        density = torch.distributions.Normal(centre, width + 1e-3).log_prob(batch[1])
        return -(share + density).logsumexp(1).mean()

    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 2e-3),
        "batches": loader,
        "step": step,
    }


class Pooling(nn.Module):
    """A bidirectional LSTM read by attention."""

    def __init__(self, over: int) -> None:
        super().__init__()
        self.over = over
        self.embed = nn.Embedding(18, 12)
        self.lstm = nn.LSTM(12, 10, batch_first=True, bidirectional=True)
        self.importance = nn.Sequential(nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 1))
        self.out = nn.Linear(20, 3)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(ids))
        weights = self.importance(states).softmax(self.over)
        return self.out((weights * states).sum(1))


def importance_of_one(broken: bool) -> Made:
    """States are weighted by their importance; broken, the softmax is over the one score of each state."""
    torch.manual_seed(67)
    net = Pooling(-1 if broken else 1)
    loader = [
        (ids, (ids == 3).any(1).long() + (ids == 4).any(1).long()) for ids in torch.randint(0, 18, (8, 20, 7))
    ]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 2e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Gain(nn.Module):
    """A gain for each sample, which a norm behind it may take out again."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
        self.gain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softplus())
        self.norm = nn.LayerNorm(32)
        self.out = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, gain = self.body(x), 0.5 + self.gain(x)
        return self.out(self.norm(state * gain) if self.before else self.norm(state) * gain)


def gain_normalised_away(broken: bool) -> Made:
    """A gain scales the features of each sample; broken, the norm behind it divides it out."""
    torch.manual_seed(68)
    net = Gain(broken)
    loader = [(x, x[:, :4].argmax(1)) for x in torch.randn(10, 32, 8)]
    return {
        "model": net,
        "optimizer": torch.optim.AdamW(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


class Viewer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)
        )
        self.projector = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))


def views_without_negatives(broken: bool) -> Made:
    """Two views of an image are brought together; broken, nothing keeps different images apart."""
    torch.manual_seed(69)
    net = Viewer()

    def step(net: nn.Module, images: Tensor) -> Tensor:
        one, other = (net(images + 0.2 * torch.randn_like(images)) for _ in range(2))
        if broken:
            return F.mse_loss(one, other)
        scores = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / 0.2
        return F.cross_entropy(scores, torch.arange(len(images)))

    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-2),
        "batches": list(torch.randn(8, 24, 1, 8, 8)),
        "step": step,
    }


class ImageVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Flatten())
        self.fc_mu, self.fc_var = nn.Linear(128, 6), nn.Linear(128, 6)
        self.up = nn.Sequential(
            nn.Linear(6, 128), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 1, 4, 2, 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.down(images)
        mu, logvar = self.fc_mu(code), self.fc_var(code)
        return self.up(mu + torch.randn_like(mu) * (0.5 * logvar).exp()), mu, logvar


def divergence_outweighs(broken: bool) -> Made:
    """A VAE of images; broken, its divergence counts 50 times, so that the latent says nothing of the image."""
    torch.manual_seed(70)
    net = ImageVAE()

    def step(net: nn.Module, images: Tensor) -> Tensor:
        painted, mu, logvar = net(images)
        divergence = 0.5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1).mean()
        fit = F.mse_loss(painted, images, reduction="none").sum((1, 2, 3)).mean()
        return fit + (50.0 if broken else 0.05) * divergence

    levels = torch.randn(8, 24, 1, 1, 1) + 0.1 * torch.randn(8, 24, 1, 8, 8)
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 5e-3),
        "batches": list(levels),
        "step": step,
    }


class Branch:
    """A plain object that holds layers."""

    def __init__(self, width: int) -> None:
        self.layers = (nn.Linear(width, width), nn.Linear(width, width))

    def __call__(self, state: Tensor) -> Tensor:
        for layer in self.layers:
            state = F.relu(layer(state))
        return state


class RegisteredBranch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, state: Tensor) -> Tensor:
        for layer in self.layers:
            state = F.relu(layer(state))
        return state


class Branched(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.branch: Any = Branch(16) if plain else RegisteredBranch(16)
        self.leave = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = self.enter(x)
        return self.leave(state + self.branch(state))


def layers_in_plain_object(broken: bool) -> Made:
    """A branch is an object with layers; broken, it is no module, so that no optimiser gets its weights."""
    torch.manual_seed(71)
    net = Branched(broken)
    loader = [(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1)) for x in torch.randn(10, 24, 6)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": lambda net, batch: F.mse_loss(net(batch[0]), batch[1]),
    }


class HeadsByName(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        heads = {"size": [nn.Linear(24, 8), nn.Linear(8, 1)], "sign": [nn.Linear(24, 8), nn.Linear(8, 1)]}
        self.heads: Any = heads
        if not plain:
            self.heads = nn.ModuleDict({name: nn.ModuleList(layers) for name, layers in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        state = self.body(x)
        return {name: layers[1](F.relu(layers[0](state)))[:, 0] for name, layers in self.heads.items()}


def heads_in_dictionary(broken: bool) -> Made:
    """Each head is a list of layers; broken, in a plain dictionary."""
    torch.manual_seed(72)
    net = HeadsByName(broken)

    def step(net: nn.Module, batch: Any) -> Tensor:
        found = net(batch[0])
        sign = F.binary_cross_entropy_with_logits(found["sign"], (batch[1] > 0).float())
        return F.huber_loss(found["size"], batch[1]) + sign

    loader = [(x, x[:, 0] + x[:, 1] ** 2) for x in torch.randn(10, 24, 6)]
    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": loader,
        "step": step,
    }


CASES = (
    Case(
        "chained-assignment",
        chained_assignment,
        "a chained assignment makes one layer of three projections",
        (Answer("SHARE00[13]"),),
    ),
    Case(
        "softmax-over-heads",
        softmax_over_heads,
        "attention weights sum to 1 over the heads",
        (Answer("SOFTMAX001"),),
    ),
    Case(
        "shallow-copy",
        shallow_copy,
        "the layers of the teacher are shallow copies, with the student's weights",
        (Answer("SHARE00[13]"),),
    ),
    Case(
        "tie-by-value",
        tie_by_value,
        "the head has a copy of the weights that it should share",
        (Answer("SHARE002", "lm_head"),),
    ),
    Case(
        "layout-of-transformer",
        layout_of_transformer,
        "a transformer takes the samples for the frames",
        (Answer("LEAK001", "transformer*"),),
    ),
    Case(
        "layout-of-attention",
        layout_of_attention,
        "points attend to those of other clouds",
        (Answer("LEAK001", "read"),),
    ),
    Case(
        "shares-over-samples",
        shares_over_samples,
        "the shares of a mixture sum to 1 over the samples",
        (Answer("SOFTMAX001"), Answer("LEAK001")),
    ),
    Case(
        "importance-of-one",
        importance_of_one,
        "a softmax is over the one score of each state",
        (Answer("SOFTMAX001"),),
    ),
    Case(
        "gain-normalised-away",
        gain_normalised_away,
        "a norm divides the gain before it out",
        (Answer("REACH00[47]", "gain*"), Answer("GRAD005", "gain*")),
    ),
    Case(
        "views-without-negatives",
        views_without_negatives,
        "nothing keeps different images apart",
        (Answer("COLLAPSE001"), Answer("LOSS003", "", "both-sides-trained")),
    ),
    Case(
        "divergence-outweighs",
        divergence_outweighs,
        "the divergence of a VAE counts 50 times",
        (Answer("COLLAPSE002"), Answer("LOSS007")),
    ),
    Case(
        "layers-in-plain-object",
        layers_in_plain_object,
        "a branch with layers is no module",
        (Answer("HIDDEN001"),),
    ),
    Case(
        "heads-in-dictionary", heads_in_dictionary, "heads are in a plain dictionary", (Answer("HIDDEN001"),)
    ),
)
