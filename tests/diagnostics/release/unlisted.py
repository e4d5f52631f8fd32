"""Faults outside the table of the release test: what the toolkit says of what nobody listed.

`said` is what would be right; where the toolkit cannot know, that is None and the table says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.diagnostics.release.faults import ONSET, Fault, Said, around_context
from tests.diagnostics.release.subject import Encoding, Subject, add_module, update


def replace_decoder(subject: Subject) -> None:
    """The optimiser keeps the old one."""
    decoder = subject.model.get_submodule(subject.decoder)
    for parent in decoder.modules():
        for name, parameter in list(parent._parameters.items()):
            if parameter is not None:
                parent._parameters[name] = nn.Parameter(parameter.detach().clone())


def rate_zero(subject: Subject) -> None:
    """A group of its own for the encoder, whose rate was forgotten."""
    wanted = {id(parameter) for parameter in subject.model.get_submodule(subject.encoder).parameters()}
    for optimizer in subject.optimizers:
        for group in list(optimizer.param_groups):
            mine = [parameter for parameter in group["params"] if id(parameter) in wanted]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
            if mine:
                rest = {key: value for key, value in group.items() if key != "params"}
                optimizer.add_param_group({**rest, "params": mine, "lr": 0.0, "initial_lr": 0.0})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def own_optimizer(subject: Subject) -> None:
    """The encoder has an optimiser of its own, the last."""
    wanted = {id(parameter) for parameter in subject.model.get_submodule(subject.encoder).parameters()}
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    subject.optimizers[:] = [optimizer for optimizer in subject.optimizers if optimizer.param_groups]
    own = torch.optim.AdamW(subject.model.get_submodule(subject.encoder).parameters(), lr=1e-3)
    own.param_groups[0]["initial_lr"] = 1e-3
    subject.optimizers.append(own)


def last_forgotten(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    for optimizer in subject.optimizers[:-1]:
        optimizer.step()
    for optimizer in subject.optimizers:
        optimizer.zero_grad()


def rate_ends(subject: Subject) -> None:
    """A schedule that was made for fewer steps."""
    step = -1
    forward = subject.loss

    def loss() -> Tensor:
        nonlocal step
        step += 1
        value = forward()
        for optimizer in subject.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if step >= ONSET else group["lr"]
        return value

    subject.loss = loss  # type: ignore[method-assign]


def not_registered(subject: Subject) -> None:
    """A scale of the context that is a tensor, no parameter."""
    scale = torch.ones(subject.probe().shape[-1], requires_grad=True)
    around_context(lambda context: context * scale)(subject)


def averaged(subject: Subject, loss: Tensor) -> None:
    """The average is copied into the weights that are trained."""
    before = [parameter.detach().clone() for parameter in subject.model.parameters()]
    update(subject, loss)
    for parameter, average in zip(subject.model.parameters(), before, strict=True):
        parameter.data.copy_(average.lerp(parameter.data, 0.01))


def inference(subject: Subject) -> None:
    def wrap(encode: Encoding) -> Encoding:
        def call(*args: Any) -> Any:
            with torch.inference_mode():
                output = encode(*args)
            return subject.map_context(output, lambda context: context.clone())

        return call

    subject.wrap_encoding(wrap)


def uphill(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["maximize"] = True


def tied(subject: Subject) -> None:
    """A weight of the encoder is a weight of the core as well."""
    wanted = [
        (module, name, parameter)
        for module in subject.model.get_submodule(subject.core).modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.dim() == 2
    ]
    for module in subject.model.get_submodule(subject.encoder).modules():
        for name, parameter in module._parameters.items():
            for other, theirs, weight in wanted:
                if parameter is not None and parameter.shape == weight.shape:
                    other._parameters[theirs] = module._parameters[name]
                    return
    raise LookupError("no two weights of one shape")


def evaluation_mode(subject: Subject) -> None:
    """Batch statistics on the context, and a model that was left in evaluation mode."""
    context = subject.probe()
    norm = nn.BatchNorm1d(context.shape[-1])
    add_module(subject, "norm", norm)
    around_context(lambda c: norm(c) if c.dim() == 2 else norm(c.transpose(1, 2)).transpose(1, 2))(subject)
    forward = subject.loss

    def loss() -> Tensor:
        subject.model.eval()
        return forward()

    subject.loss = loss  # type: ignore[method-assign]


def second_head(subject: Subject) -> None:
    """A second reader of the context, whose output is detached before it is added."""
    width = subject.probe().shape[-1]
    head = nn.Linear(width, width)
    add_module(subject, "second_head", head)
    around_context(lambda context: context + head(context).detach())(subject)


def on_loss(change: Callable[[Subject, Tensor], Tensor]) -> Callable[[Subject], None]:
    def plant(subject: Subject) -> None:
        forward = subject.loss
        subject.loss = lambda: change(subject, forward())  # type: ignore[method-assign]

    return plant


def shuffled_context(subject: Subject) -> None:
    """Every sample is given the context of its neighbour."""
    around_context(lambda context: context.roll(1, 0))(subject)


def faint_branch(context: Tensor) -> Tensor:
    return 1e-6 * context + (1 - 1e-6) * context.detach()


def first_half(context: Tensor) -> Tensor:
    return (torch.arange(len(context)) < len(context) // 4).reshape(-1, *[1] * (context.dim() - 1))


def inverted_mask(context: Tensor) -> Tensor:
    """Padding was to be cut off; the samples are."""
    return torch.where(first_half(context), context, context.detach())


def never_cleared(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    for optimizer in subject.optimizers:
        optimizer.step()


def clipped_to_nothing(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(subject.model.parameters(), 1e-9)
    for optimizer in subject.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def never_stepping(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    for optimizer in subject.optimizers:
        optimizer.zero_grad()


def cleared_too_early(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    for optimizer in subject.optimizers:
        optimizer.zero_grad()
        optimizer.step()


def set_back(subject: Subject, loss: Tensor) -> None:
    """A restored copy of the encoder undoes each update."""
    module = subject.model.get_submodule(subject.encoder)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    update(subject, loss)
    module.load_state_dict(before)


def poisoned(subject: Subject) -> None:
    """The loss is infinite in step 20: a bad division."""
    step = -1
    forward = subject.loss

    def loss() -> Tensor:
        nonlocal step
        step += 1
        return forward() * (float("inf") if step == 20 else 1.0)

    subject.loss = loss  # type: ignore[method-assign]


def detached_input(subject: Subject) -> None:
    def wrap(encode: Encoding) -> Encoding:
        def call(*args: Any) -> Any:
            return subject.map_context(encode(*args), lambda context: context.detach())

        return call

    subject.wrap_encoding(wrap)


UNLISTED: tuple[Fault, ...] = (
    Fault("replaced", "weights of the decoder replaced after the optimiser was made",
          Said("MOVE001", "decoder", "in-no-group"), replace_decoder),
    Fault("rate 0", "a group of the encoder with a learning rate of 0",
          Said("MOVE001", "encoder", "zero-rate"), rate_zero),
    Fault("not cleared", "zero_grad is missing", Said("GRAD004", "", "zero-grad-missing"), update=never_cleared),
    Fault("cleared early", "zero_grad stands between backward and step",
          Said("MOVE001", "", "cleared-gradient"), update=cleared_too_early),
    Fault("no step", "optimizer.step is missing", Said("MOVE003", "", "no-step-inside"), update=never_stepping),
    Fault("set back", "the encoder's weights are restored after each update",
          Said("MOVE001", "encoder", "set-back"), update=set_back),
    Fault("head", "one of two readers of the context is detached",
          Said("GRAD001", "second_head", "detached"), second_head),
    Fault("detached", "the encoder's output is detached", Said("GRAD001", "encoder", "detached"), detached_input),
    Fault("mask", "an inverted mask cuts three quarters of the samples off",
          Said("COV001", "encoder", "samples-cut"), around_context(inverted_mask)),
    Fault("loss mask", "the loss counts no sample at all",
          Said("GRAD002", "", "zero-factor"), on_loss(lambda subject, loss: loss * 0.0)),
    Fault("evaluation", "the model is left in evaluation mode",
          Said("MODE001", "norm", "left-in-evaluation"), evaluation_mode),
    Fault("not finite", "an infinite loss on one step",
          Said("REACH003", "", "overflow-in-loss", first=(20, 20)), poisoned),
    Fault("tied", "a weight of the encoder is a weight of the core by mistake",
          Said("SHARE001", "encoder", "shared-tensor", note=True), tied),
    Fault("faint", "the gradient of the encoder is a millionth of what it should be",
          Said("GRAD005", "encoder", "tiny-factor"), around_context(faint_branch)),
    Fault("shuffled", "every sample is given the context of another one; said by the probe SampleIndependence",
          Said("LEAK001", "core", "mixes-samples"), shuffled_context, asks=lambda subject: subject.independence()),
    Fault("healthy, asked", "nothing; the probe SampleIndependence is asked as well",
          None, asks=lambda subject: subject.independence()),
    Fault("no step of one", "the encoder has an optimiser of its own, which never steps",
          Said("MOVE003", "encoder", "no-step-inside"), own_optimizer, update=last_forgotten),
    Fault("rate ends", "all learning rates are 0 from step 40 on",
          Said("RATE001", "", "rate-vanished", first=(ONSET, ONSET)), rate_ends),
    Fault("not registered", "a scale of the context is a plain tensor, in no optimiser",
          Said("REACH005", "", "plain-tensor"), not_registered),
    Fault("averaged", "an average of the weights is copied back after each update",
          Said("MOVE005", "", "overwritten"), update=averaged),
    Fault("rounded", "the context is rounded, and nothing lets its gradient through",
          Said("GRAD002", "encoder", "zero-factor"), around_context(lambda context: (100 * context).round() / 100)),
    Fault("inference", "the encoder runs in inference mode",
          Said("GRAD001", "encoder", "no-grad"), inference),
    Fault("uphill", "the optimisers climb the loss: maximize=True", Said("LOSS004", "", "maximised"), uphill),
    Fault("divided twice", "the mean of the loss is divided by the batch once more",
          None, on_loss(lambda subject, loss: loss / subject.samples)),
    Fault("clipped", "the gradient is clipped to a norm of 1e-9",
          Said("MOVE004", "", "below-eps"), update=clipped_to_nothing),
)  # fmt: skip
