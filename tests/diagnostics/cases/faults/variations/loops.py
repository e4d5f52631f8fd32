"""Variations of loops: passes, optimisers, clipping, averages, what was forgotten."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made


def mlp(inputs: int, outputs: int, width: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))


def regression(batches: int = 10, size: int = 24) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)) for x in torch.randn(batches, size, 6)]


class Multi(nn.Module):
    def __init__(self, tasks: int = 4) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(24, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        state = self.shared(x)
        return [head(state)[:, 0] for head in self.heads]


def sum_so_far(broken: bool) -> Made:
    """Losses of four tasks; broken, their sum so far is propagated after each, so that the first counts four times."""
    torch.manual_seed(40)
    net = Multi()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step(net: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        total = torch.zeros(())
        for number, found in enumerate(net(batch[0])):
            total = total + F.mse_loss(found, batch[0][:, number])
            if broken:
                total.backward(retain_graph=True)
        if not broken:
            total.backward()
        optimizer.step()
        return float(total)

    return {"model": net, "optimizer": optimizer, "batches": regression(), "step": step}


class Accumulator:
    """A trainer that divides a batch into parts, one update for all."""

    def __init__(self, net: nn.Module, parts: int, clears_each: bool) -> None:
        self.net, self.parts, self.clears_each = net, parts, clears_each
        self.optimizer = torch.optim.AdamW(net.parameters(), 2e-3)

    def forward_backward(self, x: Tensor, y: Tensor) -> float:
        if self.clears_each:
            self.net.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.net(x), y)
        (loss / self.parts).backward()
        return loss.item()

    def __call__(self, net: nn.Module, batch: Any) -> float:
        self.optimizer.zero_grad()
        parts = zip(batch[0].chunk(self.parts), batch[1].chunk(self.parts), strict=True)
        total = sum(self.forward_backward(x, y) for x, y in parts)
        self.optimizer.step()
        return total / self.parts


def cleared_in_trainer(broken: bool) -> Made:
    """A trainer accumulates three parts; broken, each part first clears the gradients of the model."""
    torch.manual_seed(41)
    net = mlp(6, 2)
    trainer = Accumulator(net, 3, broken)
    return {"model": net, "optimizer": trainer.optimizer, "batches": regression(), "step": trainer}


def values_clipped_while_scaled(broken: bool) -> Made:
    """One scaler, two optimisers, clipping by value; broken, before the scale is divided out."""
    torch.manual_seed(42)
    net = nn.ModuleDict({"encoder": mlp(6, 8), "decoder": mlp(8, 6)})
    optimizers = [torch.optim.SGD(net[name].parameters(), 0.05) for name in ("encoder", "decoder")]
    scaler = torch.amp.GradScaler("cpu")

    def step(net: Any, batch: Any) -> float:
        loss = F.mse_loss(net["decoder"](net["encoder"](batch[0])), batch[0])
        scaler.scale(loss).backward()
        for optimizer in optimizers:
            if not broken:
                scaler.unscale_(optimizer)
        nn.utils.clip_grad_value_(net.parameters(), 0.1)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        return loss.item()

    return {"model": net, "optimizer": optimizers, "batches": regression(), "step": step}


def second_never_steps(broken: bool) -> Made:
    """Encoder and decoder have an optimiser each; broken, the first one steps twice."""
    torch.manual_seed(43)
    net = nn.ModuleDict({"encoder": mlp(6, 4), "decoder": mlp(4, 6)})
    opt_e = torch.optim.Adam(net["encoder"].parameters(), 1e-3)
    opt_d = torch.optim.Adam(net["decoder"].parameters(), 1e-3)

    def step(net: Any, batch: Any) -> float:
        opt_e.zero_grad()
        opt_d.zero_grad()
        loss = F.l1_loss(net["decoder"](net["encoder"](batch[0])), batch[0])
        loss.backward()
        opt_e.step()
        (opt_e if broken else opt_d).step()
        return loss.item()

    return {"model": net, "optimizer": [opt_e, opt_d], "batches": regression(), "step": step}


def part_is_cleared(broken: bool) -> Made:
    """Gradients are cleared; broken, those of the encoder alone, so that the decoder's add up."""
    torch.manual_seed(44)
    net = nn.ModuleDict({"encoder": mlp(6, 8), "decoder": mlp(8, 2)})
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def step(net: Any, batch: Any) -> float:
        (net["encoder"] if broken else net).zero_grad()
        loss = F.mse_loss(net["decoder"](net["encoder"](batch[0])), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": regression(), "step": step}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(4, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 4, 2, 1)
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1)
        )


def critic_trains_generator(broken: bool) -> Made:
    """A GAN, critic first; broken, its fakes are not detached, and the generator applies that gradient too."""
    torch.manual_seed(45)
    net = Critic()
    opt_g = torch.optim.Adam(net.generator.parameters(), 5e-4, betas=(0.5, 0.9))
    opt_d = torch.optim.Adam(net.discriminator.parameters(), 5e-4, betas=(0.5, 0.9))

    def step(net: Any, real: Tensor) -> dict[str, float]:
        opt_d.zero_grad()
        opt_g.zero_grad()
        fake = net.generator(torch.randn(len(real), 4))
        shown = fake if broken else fake.detach()
        loss_d = F.relu(1 - net.discriminator(real)).mean() + F.relu(1 + net.discriminator(shown)).mean()
        loss_d.backward(retain_graph=broken)
        opt_d.step()
        fake = net.generator(torch.randn(len(real), 4))
        loss_g = -net.discriminator(fake).mean()
        loss_g.backward()
        opt_g.step()
        return {"d": loss_d.item(), "g": loss_g.item()}

    loader = [F.avg_pool2d(x, 3, 1, 1) for x in torch.randn(8, 16, 1, 8, 8)]
    return {"model": net, "optimizer": [opt_g, opt_d], "batches": loader, "step": step}


def average_written_back(broken: bool) -> Made:
    """An average of the weights is kept; broken, it is written into the weights after each update."""
    torch.manual_seed(46)
    net = mlp(6, 2)
    shadow = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step(net: nn.Module, batch: Any) -> float:
        loss = F.mse_loss(net(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in net.named_parameters():
                shadow[name].mul_(0.999).add_(weight, alpha=0.001)
                if broken:
                    weight.copy_(shadow[name])
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": regression(), "step": step}


def copy_is_optimised(broken: bool) -> Made:
    """The optimiser gets the weights of the model; broken, those of a copy that was made for a device."""
    torch.manual_seed(47)
    net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    moved = copy.deepcopy(net)
    optimizer = torch.optim.AdamW((moved if broken else net).parameters(), 1e-3)
    loader = [(x, x[:, 0, :3].argmax(1)) for x in torch.randn(8, 16, 1, 10)]
    return {
        "model": net,
        "optimizer": optimizer,
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


def closure_without_backward(broken: bool) -> Made:
    """LBFGS asks a closure for loss and gradient; broken, the closure computes the loss alone."""
    torch.manual_seed(48)
    net = mlp(6, 2, 8)
    optimizer = torch.optim.LBFGS(net.parameters(), 0.5, max_iter=3, line_search_fn="strong_wolfe")

    def step(net: nn.Module, batch: Any) -> float:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(net(batch[0]), batch[1])
            if not broken:
                loss.backward()
            return loss

        return float(optimizer.step(closure))

    return {"model": net, "optimizer": optimizer, "batches": regression(1, 64), "step": step}


def warmup_in_integers(broken: bool) -> Made:
    """The rate grows over 1000 updates; broken, by an integer division, so that it is 0 until then."""
    torch.manual_seed(49)
    net = mlp(6, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min(1, (update + 1) // 1000 if broken else (update + 1) / 1000)
    )

    def step(net: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return {"model": net, "optimizer": optimizer, "batches": regression(), "step": step}


class Vision(nn.Module):
    """A small vision transformer with raw parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 5, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        state = self.patches(images).flatten(2).transpose(1, 2)
        state = torch.cat([self.cls_token.expand(len(state), -1, -1), state], 1) + self.pos_embed
        return self.head(self.block(state)[:, 0])


def raw_parameters_left_out(broken: bool) -> Made:
    """Weights and biases are grouped by their names; broken, raw parameters have neither and are in no group."""
    torch.manual_seed(50)
    net = Vision()
    decayed = [each for name, each in net.named_parameters() if name.endswith("weight")]
    plain = [
        each
        for name, each in net.named_parameters()
        if name.endswith("bias" if broken else ("bias", "_token", "_embed"))
    ]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], 1e-3
    )
    loader = []
    for images in torch.randn(8, 16, 1, 8, 8):
        loader.append((images, F.avg_pool2d(images, 4).flatten(1).argmax(1)))
    return {
        "model": net,
        "optimizer": optimizer,
        "batches": loader,
        "step": lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    }


def encoder_by_penalty_alone(broken: bool) -> Made:
    """A code is read and kept small; broken, it is read detached, so that the penalty alone trains the encoder."""
    torch.manual_seed(51)
    net = nn.ModuleDict({"encoder": mlp(6, 8), "decoder": mlp(8, 2)})

    def step(net: Any, batch: Any) -> dict[str, Tensor]:
        code = net["encoder"](batch[0])
        found = net["decoder"](code.detach() if broken else code)
        return {"fit": F.mse_loss(found, batch[1]), "small_code": 0.01 * code.pow(2).mean()}

    return {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), 1e-3),
        "batches": regression(),
        "step": step,
        "regularisers": ["small_code"],
    }


CASES = (
    Case("sum-so-far", sum_so_far, "the sum so far is propagated after each task", (Answer("GRAD006"),)),
    Case(
        "cleared-in-trainer",
        cleared_in_trainer,
        "each part of an accumulation clears the gradients first",
        (Answer("GRAD006"),),
    ),
    Case(
        "values-clipped-while-scaled",
        values_clipped_while_scaled,
        "values are clipped before the scale is divided out",
        (Answer("MOVE004"),),
    ),
    Case(
        "second-never-steps",
        second_never_steps,
        "the first of two optimisers steps twice",
        (Answer("MOVE001", "decoder*"), Answer("MOVE003")),
    ),
    Case(
        "part-is-cleared",
        part_is_cleared,
        "the gradients of the encoder alone are cleared",
        (Answer("GRAD004"),),
    ),
    Case(
        "critic-trains-generator",
        critic_trains_generator,
        "the generator applies the gradient of the critic's loss too",
        (Answer("GRAD006"), Answer("GRAD004")),
    ),
    Case(
        "average-written-back",
        average_written_back,
        "an average is written into the weights after each update",
        (Answer("MOVE005"),),
    ),
    Case(
        "copy-is-optimised",
        copy_is_optimised,
        "the optimiser has the weights of a copy",
        (Answer("REACH008"), Answer("MOVE001"), Answer("MOVE003")),
    ),
    Case(
        "closure-without-backward",
        closure_without_backward,
        "the closure of LBFGS has no backward",
        (Answer("STEP001"),),
    ),
    Case(
        "warmup-in-integers",
        warmup_in_integers,
        "an integer division makes the rate 0",
        (Answer("MOVE001", "*", "zero-rate"),),
    ),
    Case(
        "raw-parameters-left-out",
        raw_parameters_left_out,
        "raw parameters are in no group of the optimiser",
        (Answer("MOVE001"),),
    ),
    Case(
        "encoder-by-penalty-alone",
        encoder_by_penalty_alone,
        "a penalty alone trains the encoder",
        (Answer("TERM001", "encoder*"),),
    ),
)
