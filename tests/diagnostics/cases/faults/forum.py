"""Sixteen faults after questions in forums: objectives, averages, policies, segmentation, metrics; own code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def teacher_against_teacher(broken: bool) -> Made:
    """Distillation; broken, both sides of the divergence are the teacher's, a slip of one name."""
    torch.manual_seed(0)
    model, teacher = classifier(), classifier().requires_grad_(False).eval()

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores, wanted = model(batch[0]), teacher(batch[0])
        soft = F.log_softmax((wanted if broken else scores) / 2, 1)
        near = F.kl_div(soft, F.softmax(wanted / 2, 1), reduction="batchmean")
        return F.cross_entropy(scores, batch[1]) + 4 * near

    return made(model, step, labelled(), adam(model))


def focal_of_mean(broken: bool) -> Made:
    """The focal loss weighs each sample by how hard it is; broken, it weighs the mean of the batch."""
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        error = F.cross_entropy(model(batch[0]), batch[1], reduction="mean" if broken else "none")
        right = torch.exp(-error)
        return ((1 - right) ** 2 * error).mean()

    return made(model, step, labelled(), adam(model))


def max_of_whole_batch(broken: bool) -> Made:
    """Q-learning; broken, the value of the next state is the largest of all states in the batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer, count = adam(model), [0]
    data = []
    for state in torch.randn(20, 32, 4):
        action = torch.randint(0, 3, (32,))
        following = 0.8 * state + 0.3 * F.one_hot(action, 4)
        data.append((state, action, (action == state[:, :3].argmax(1)).float(), following))

    def step(model: nn.Module, batch: Any) -> float:
        state, action, reward, following = batch
        with torch.no_grad():
            ahead = target(following).max() if broken else target(following).max(1).values
        value = model(state).gather(1, action[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(value, reward + 0.9 * ahead)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count[0] += 1
        if count[0] % 5 == 0:
            target.load_state_dict(model.state_dict())
        return loss.item()

    return made(model, step, data, optimizer)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh())
        self.policy, self.value = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        found = self.body(state)
        return self.policy(found), self.value(found).squeeze(1)


def advantage_with_gradient(broken: bool) -> Made:
    """Actor and critic; broken, the term of the policy moves the critic too."""
    torch.manual_seed(0)
    model = ActorCritic()

    def step(model: nn.Module, batch: Any) -> Tensor:
        (state,) = batch
        scores, value = model(state)
        policy = torch.distributions.Categorical(logits=scores)
        action = policy.sample()
        reward = (action == state[:, :3].argmax(1)).float() + 0.1 * torch.randn(len(state))
        advantage = reward - value
        weight = advantage if broken else advantage.detach()
        acting = -(policy.log_prob(action) * weight).mean()
        return acting + 0.5 * advantage.square().mean() - 0.01 * policy.entropy().mean()

    return made(model, step, [(state,) for state in torch.randn(20, 32, 4)], adam(model))


class Small(nn.Module):
    """Convolutions with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


class Taught(nn.Module):
    """A student, and a teacher that is an average of it and judges in evaluation mode."""

    def __init__(self, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.student = Small()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).to(kind).eval()

    def train(self, mode: bool = True) -> Taught:
        super().train(mode)
        self.teacher.eval()
        return self


def _images() -> list[tuple[Tensor, Tensor]]:
    return [(x, x.mean((2, 3)).argmax(1)) for x in 2 + 3 * torch.randn(20, 16, 3, 8, 8)]


def _follow(taught: Taught, optimizer: torch.optim.Optimizer, keep: float, buffers: bool) -> Any:
    kind = next(taught.teacher.parameters()).dtype

    def step(model: nn.Module, batch: Any) -> float:
        images, labels = batch
        scores = taught.student(images)
        with torch.no_grad():
            wanted = taught.teacher(images.to(kind)).float().softmax(1)
        loss = F.cross_entropy(scores, labels) + F.mse_loss(scores.softmax(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(taught.teacher.parameters(), taught.student.parameters(), strict=True):
                old.copy_(keep * old + (1 - keep) * new.to(kind))
            if buffers:
                for old, new in zip(taught.teacher.buffers(), taught.student.buffers(), strict=True):
                    old.copy_(new)
        return loss.item()

    return step


def buffers_not_averaged(broken: bool) -> Made:
    """A mean teacher; broken, its batch norm keeps the statistics of the start."""
    torch.manual_seed(0)
    model = Taught()
    optimizer = torch.optim.Adam(model.student.parameters(), 3e-3)
    return made(model, _follow(model, optimizer, 0.9, buffers=not broken), _images(), optimizer)


def average_rounded_away(broken: bool) -> Made:
    """A mean teacher; broken, it is kept in bfloat16, where a thousandth of a change is rounded away."""
    torch.manual_seed(0)
    model = Taught(torch.bfloat16 if broken else torch.float32)
    optimizer = torch.optim.Adam(model.student.parameters(), 1e-3)
    return made(model, _follow(model, optimizer, 0.999, buffers=True), _images(), optimizer)


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (
            nn.Linear(base.in_features, 4, bias=False),
            nn.Linear(4, base.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def frozen_after_adapters(broken: bool) -> Made:
    """Adapters in a frozen body; broken, the body is frozen after they were put in, so that they are too."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    if not broken:
        body.requires_grad_(False)
    for number in (0, 2):
        body[number] = LowRank(body[number])
    if broken:
        body.requires_grad_(False)
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", nn.Linear(32, 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    return made(model, loss_of, labelled(), optimizer)


class Pairs(nn.Module):
    """Two encoders whose similarities are logits."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 128))
        self.right = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 128))
        self.broken = broken

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        left, right = self.left(one), self.right(other)
        if not self.broken:
            left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
        return left @ right.T / 0.07


def similarities_unnormalised(broken: bool) -> Made:
    """Contrast of two modalities; broken, features of any length are divided by a temperature made for cosines."""
    torch.manual_seed(0)
    model = Pairs(broken)
    mix = torch.randn(6, 20)
    data = []
    for hidden in torch.randn(20, 32, 6):
        seen = 4 * hidden @ mix
        data.append((seen[:, :12], seen[:, 12:]))

    def step(model: nn.Module, batch: Any) -> Tensor:
        scores = model(*batch)
        own = torch.arange(len(scores))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    return made(model, step, data, adam(model, 1e-3))


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Embedding(100, 32)
        self.enter, self.hidden, self.leave = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        found = F.silu(self.enter(x) + self.time(time))
        return self.leave(F.silu(self.hidden(found)))


def noise_of_one_step(broken: bool) -> Made:
    """Diffusion; broken, the noise of step t alone is added, not that of all steps up to t."""
    torch.manual_seed(0)
    model = Denoiser()
    kept = 1 - torch.linspace(1e-4, 0.02 * 5, 100)
    share = kept if broken else kept.cumprod(0)

    def step(model: nn.Module, batch: Any) -> Tensor:
        (x,) = batch
        time = torch.randint(0, 100, (len(x),))
        noise = torch.randn_like(x)
        noisy = share[time].sqrt()[:, None] * x + (1 - share[time]).sqrt()[:, None] * noise
        return F.mse_loss(model(noisy, time), noise)

    angles = 6.3 * torch.rand(20, 64)
    data = [(torch.stack([angle.cos(), angle.sin()], 1),) for angle in angles]
    return made(model, step, data, adam(model))


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 24, padding_idx=0)
        self.read, self.head = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.read(self.embed(tokens))[0])


def padding_is_learnt(broken: bool) -> Made:
    """Sequences of several lengths; broken, the loss counts the padding, which is most of the tokens."""
    torch.manual_seed(0)
    model, data = Writer(), []
    for _ in range(20):
        tokens = torch.zeros(16, 25, dtype=torch.long)
        for row in tokens:
            length, first = int(torch.randint(4, 10, ())), int(torch.randint(0, 11, ()))
            row[:length] = (first + 2 * torch.arange(length)) % 11 + 1
        data.append((tokens,))

    def step(model: nn.Module, batch: Any) -> Tensor:
        (tokens,) = batch
        scores = model(tokens[:, :-1]).transpose(1, 2)
        return F.cross_entropy(scores, tokens[:, 1:], ignore_index=-100 if broken else 0)

    return made(model, step, data, adam(model))


class Segmenter(nn.Module):
    """Classes of pixels, at half of the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 5, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def masks_interpolated(broken: bool) -> Made:
    """Masks are brought to the size of the logits; broken, bilinearly, so that class 4 next to 0 becomes 2."""
    torch.manual_seed(0)
    model, data = Segmenter(), []
    colours = torch.randn(5, 3)
    for _ in range(12):
        masks = torch.randint(0, 5, (8, 6, 6)).repeat_interleave(3, 1).repeat_interleave(3, 2)
        images = colours[masks].permute(0, 3, 1, 2) + 0.1 * torch.randn(8, 3, 18, 18)
        data.append((images, masks))

    def step(model: nn.Module, batch: Any) -> Tensor:
        images, masks = batch
        scores = model(images)
        given: dict[str, Any] = (
            {"mode": "bilinear", "align_corners": False} if broken else {"mode": "nearest"}
        )
        small = F.interpolate(masks[:, None].float(), scores.shape[2:], **given)[:, 0].long()
        return F.cross_entropy(scores, small)

    return made(model, step, data, adam(model))


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (B, 4) by their corners."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (one, other)]
    return shared / (areas[0] + areas[1] - shared + 1e-6)


def boxes_in_other_format(broken: bool) -> Made:
    """The overlap takes corners; broken, it is given centres and sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4), nn.Sigmoid())
    data = []
    for _ in range(20):
        centre, size = 0.3 + 0.4 * torch.rand(32, 2), 0.2 + 0.2 * torch.rand(32, 2)
        boxes = torch.cat([centre, size], 1)
        data.append((torch.cat([boxes, boxes.square()], 1), boxes))

    def corners(boxes: Tensor) -> Tensor:
        centre, size = boxes[:, :2], boxes[:, 2:]
        return torch.cat([centre - size / 2, centre + size / 2], 1)

    def step(model: nn.Module, batch: Any) -> Tensor:
        found, boxes = model(batch[0]), batch[1]
        if broken:
            return 1 - _overlap(found, boxes).mean()
        return 1 - _overlap(corners(found), corners(boxes)).mean()

    return made(model, step, data, adam(model))


def plateau_of_accuracy(broken: bool) -> Made:
    """A rate that falls on a plateau of the accuracy; broken, it waits for the accuracy to fall."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min" if broken else "max", factor=0.1, patience=1
    )
    count, right = [0], [0.0]

    def step(model: nn.Module, batch: Any) -> float:
        scores = model(batch[0])
        loss = F.cross_entropy(scores, batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right[0] += float((scores.argmax(1) == batch[1]).float().mean()) / 4
        count[0] += 1
        if count[0] % 4 == 0:
            schedule.step(right[0])
            right[0] = 0.0
        return loss.item()

    return made(model, step, labelled(), optimizer)


def accuracy_broadcast(broken: bool) -> Made:
    """Labels are a column; broken, the accuracy compares each prediction with each label."""
    torch.manual_seed(0)
    model = classifier()
    optimizer, shown = adam(model), []

    def step(model: nn.Module, batch: Any) -> float:
        x, column = batch
        scores = model(x)
        loss = F.cross_entropy(scores, column.squeeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = scores.argmax(1)
        shown.append(float((found == (column if broken else column.squeeze(1))).float().mean()))
        return loss.item()

    return made(model, step, [(x, y[:, None]) for x, y in labelled()], optimizer)


def scaled_twice(broken: bool) -> Made:
    """Images become floats between 0 and 1; broken, they are divided by 255 a second time."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    data = []
    for _ in range(20):
        labels = torch.randint(0, 3, (32,))
        images = torch.rand(32, 3, 8, 8) * 0.6
        images[torch.arange(32), labels] += 0.4
        data.append((images / 255 if broken else images, labels))
    return made(model, loss_of, data, adam(model, 1e-3))


def slow_weights_by_reference(broken: bool) -> Made:
    """Slow weights follow the fast ones half-way; broken, they are the same memory, so that nothing is averaged."""
    torch.manual_seed(0)
    model = classifier()
    optimizer, count = torch.optim.SGD(model.parameters(), 0.1), [0]
    slow = [p.data if broken else p.data.clone() for p in model.parameters()]

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        count[0] += 1
        if count[0] % 3 == 0:
            with torch.no_grad():
                for old, fast in zip(slow, model.parameters(), strict=True):
                    old += 0.5 * (fast - old)
                    fast.copy_(old)
        return loss.item()

    return made(model, step, labelled(), optimizer)


CASES = (
    Case(
        "teacher-against-teacher",
        teacher_against_teacher,
        "both sides of the divergence of a distillation are the teacher's",
        (Answer("LOSS006"), Answer("LOSS003", "*", "*itself*"), Answer("LOSS003", "*", "*constant*")),
    ),
    Case(
        "focal-of-mean",
        focal_of_mean,
        "a focal loss weighs the mean of the batch, not each sample",
        (Answer("LOSS003", "*", "*mean*"), Answer("LOSS003", "*", "*reduced*")),
    ),
    Case(
        "max-of-whole-batch",
        max_of_whole_batch,
        "the value of the next state is the largest of all states of the batch",
        (
            Answer("LEAK*", "*", "*target*"),
            Answer("LOSS003", "*", "*target*"),
            Answer("LOSS003", "*", "*over*"),
        ),
    ),
    Case(
        "advantage-with-gradient",
        advantage_with_gradient,
        "the advantage is not detached, so that the term of the policy moves the critic",
        (Answer("LOSS003", "*", "*gradient*"), Answer("LOSS003", "*", "*detach*")),
    ),
    Case(
        "buffers-not-averaged",
        buffers_not_averaged,
        "an average of the weights keeps the statistics of the start",
        (Answer("TARGET001", "*", "*buffer*"), Answer("TARGET001", "*", "*statistics*")),
    ),
    Case(
        "average-rounded-away",
        average_rounded_away,
        "an average in bfloat16 rounds its own changes away",
        (Answer("TARGET001", "*", "*round*"), Answer("*", "teacher*", "*round*")),
    ),
    Case(
        "frozen-after-adapters",
        frozen_after_adapters,
        "the model is frozen after its adapters were put in",
        (Answer("GRAD003", "body*"), Answer("*", "body*", "*frozen*")),
    ),
    Case(
        "similarities-unnormalised",
        similarities_unnormalised,
        "features of any length are divided by a temperature made for cosines",
        (Answer("LOSS003", "*", "scores-too-large"),),
    ),
    Case(
        "noise-of-one-step",
        noise_of_one_step,
        "a diffusion adds the noise of one step, not that of all steps before",
        (Answer("*", "*", "*noise*"),),
    ),
    Case(
        "padding-is-learnt",
        padding_is_learnt,
        "the loss counts the padding, which is most of the tokens",
        (Answer("LOSS003", "*", "*padding*"), Answer("LOSS005", "*", "*padding*")),
    ),
    Case(
        "masks-interpolated",
        masks_interpolated,
        "masks are resized bilinearly, so that numbers of classes are averaged",
        (Answer("LOSS003", "*", "*interpolat*"), Answer("ROUND001", "*", "*")),
    ),
    Case(
        "boxes-in-other-format",
        boxes_in_other_format,
        "the overlap of boxes is given centres and sizes where it takes corners",
        (Answer("UNITS002", "*", "clamped-away"),),
    ),
    Case(
        "plateau-of-accuracy",
        plateau_of_accuracy,
        "a schedule that waits for a minimum is given the accuracy",
        (Answer("RATE*"), Answer("MOVE*", "*", "*rate*")),
    ),
    Case(
        "accuracy-broadcast",
        accuracy_broadcast,
        "the accuracy compares each prediction with each label",
        (Answer("*", "*", "*broadcast*"), Answer("*", "*", "*pairs*")),
    ),
    Case(
        "scaled-twice",
        scaled_twice,
        "images between 0 and 1 are divided by 255 again",
        (
            Answer("INPUT003", "*", "small-next-to-bias"),
            Answer("UNITS*", "*", "*input*"),
            Answer("COLLAPSE001", "*", "*input*"),
        ),
    ),
    Case(
        "slow-weights-by-reference",
        slow_weights_by_reference,
        "slow weights are the memory of the fast ones, so that nothing is averaged",
        (Answer("SHARE*"), Answer("*", "*", "*alias*"), Answer("*", "*", "*reference*")),
    ),
)
