"""The eleven faults and two healthy controls of the release test, planted in any subject, and what must be said.

A fault of the module itself is a forward hook that runs before the monitor's; a fault of what uses the module is
put around its call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import Finding, Severity
from tests.diagnostics.release.subject import STEPS, Encoding, Subject, Update, add_module, train, update

ONSET = 40  # of the collapse in mid-run
DRIFT = (30, 70)
SPIKES = frozenset({13, 38, 63, 88})  # 4 % of the steps


@dataclass(frozen=True)
class Said:
    """A finding that must be reported.

    Attributes:
        module: A role of the subject, or a name.
        code: Code of the cause; "" if any will do.
        first: Earliest and latest first bad step; `last` the same of the last one.
        note: Whether a note is enough.
    """

    rule: str
    module: str
    code: str
    first: tuple[int, int] = (0, 5)
    last: tuple[int, int] = (0, STEPS)
    note: bool = False

    def matches(self, finding: Finding, subject: Subject) -> bool:
        """Whether a finding, and no consequence of one, says it."""
        evidence = finding.evidence
        return (
            finding.rule == self.rule
            and finding.module == getattr(subject, self.module, self.module)
            and self.code in ("", finding.code)
            and (self.note or finding.severity > Severity.NOTE)
            and self.first[0] <= evidence.first_step <= self.first[1]
            and self.last[0] <= evidence.last_step <= self.last[1]
        )


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        plant: Changes the subject.
        said: Finding that must be reported; None for a healthy control.
        update: The end of a step, where the fault lies there.
        frozen: Whether the decoder is declared to be frozen.
        asks: Function that looks for further findings after the training, in addition to the monitor.
    """

    id: str
    what: str
    said: Said | None
    plant: Callable[[Subject], None] = lambda subject: None
    update: Update = update
    frozen: bool = False
    asks: Callable[[Subject], list[Finding]] = lambda subject: []
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, make: Callable[..., Subject], seed: int, steps: int = STEPS) -> Verdict:
        """Plant it, train, and judge the findings."""
        subject = make(seed, **self.options)
        self.plant(subject)
        findings = train(subject, self.update, [subject.decoder] if self.frozen else (), steps)
        return judge(self, subject, [*findings, *self.asks(subject)])


@dataclass(frozen=True)
class Verdict:
    """The outcome of one run.

    Attributes:
        named: Whether the fault was named; for a healthy control, whether nothing above a note was reported.
        others: Other findings above a note, as rule and module.
        findings: All findings.
    """

    named: bool
    others: tuple[str, ...]
    findings: tuple[Finding, ...]


def judge(fault: Fault, subject: Subject, findings: Sequence[Finding]) -> Verdict:
    """Compare what was said with what must be."""
    loud = [finding for finding in findings if finding.severity > Severity.NOTE]
    right = [finding for finding in findings if fault.said and fault.said.matches(finding, subject)]
    others = tuple(f"{finding.rule} {finding.module}".strip() for finding in loud if finding not in right)
    return Verdict(bool(right) if fault.said else not loud, others, tuple(findings))


# -- faults of what uses the encoder ---------------------------------------------------------------


def around_context(change: Callable[[Tensor], Tensor]) -> Callable[[Subject], None]:
    """Change the context between the encoder and what reads it."""

    def plant(subject: Subject) -> None:
        def wrap(encode: Encoding) -> Encoding:
            return lambda *args: subject.map_context(encode(*args), change)

        subject.wrap_encoding(wrap)

    return plant


def live_row(context: Tensor) -> Tensor:
    """True for the first row alone, to be broadcast."""
    return (torch.arange(len(context)) == 0).reshape(-1, *[1] * (context.dim() - 1))


def one_live_row(context: Tensor) -> Tensor:
    return torch.where(live_row(context), context, context.detach())


def cached_rows(subject: Subject) -> None:
    cache: list[Tensor] = []

    def change(context: Tensor) -> Tensor:
        before = cache[-1] if cache else context.detach()
        mixed = torch.where(live_row(context), context, before)
        cache[:] = [mixed.detach()]
        return mixed

    around_context(change)(subject)


def without_grad(subject: Subject) -> None:
    subject.wrap_encoding(torch.no_grad())


def scorer_through_item(subject: Subject) -> None:
    width = subject.probe().shape[-1]
    scorer = nn.Linear(width, 1)
    add_module(subject, "scorer", scorer)

    def change(context: Tensor) -> Tensor:
        rows = context.reshape(len(context), -1, width).mean(1)
        scores = torch.tensor([scorer(row).item() for row in rows])
        return context * (1 + scores.reshape(-1, *[1] * (context.dim() - 1)))

    around_context(change)(subject)


# -- faults of the encoder itself ------------------------------------------------------------------


def altered_output(alter: Callable[[int, Tensor], Tensor]) -> Callable[[Subject], None]:
    """The output of the encoder as `alter` (step, output) leaves it."""

    def plant(subject: Subject) -> None:
        step = -1
        forward = subject.loss

        def loss() -> Tensor:
            nonlocal step
            step += 1
            return forward()

        subject.loss = loss  # type: ignore[method-assign]
        subject.model.get_submodule(subject.encoder).register_forward_hook(
            lambda module, args, output: (
                alter(step, output)
                if isinstance(output, Tensor)
                else subject.map_context(output, lambda context: alter(step, context))
            )
        )

    return plant


def nearly_equal(output: Tensor) -> Tensor:
    return output.mean(0) + 1e-3 * output


def ramp(step: int) -> float:
    first, last = DRIFT
    return min(max((step - first) / (last - first), 0.0), 1.0)


def drifting(step: int, output: Tensor) -> Tensor:
    """By three of its own spreads, slowly."""
    return output + 3.0 * ramp(step) * output.detach().flatten(0, -2).std(0).mean()


# -- faults of the update --------------------------------------------------------------------------


def gradients_zeroed(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    for parameter in subject.model.get_submodule(subject.decoder).parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    for optimizer in subject.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def frozen_with_stale_gradients(subject: Subject, loss: Tensor) -> None:
    loss.backward()
    subject.model.get_submodule(subject.decoder).requires_grad_(False)
    for optimizer in subject.optimizers:
        optimizer.step()
    for parameter in subject.model.parameters():
        if parameter.requires_grad:
            parameter.grad = None


def frozen_decoder(subject: Subject) -> None:
    subject.model.get_submodule(subject.decoder).requires_grad_(False)


FAULTS: tuple[Fault, ...] = (
    Fault("healthy", "nothing", None),
    Fault("frozen", "nothing; the decoder is frozen as it should be", None, frozen_decoder, frozen=True),
    Fault("a0", "where(mask, enc(x), enc(x).detach()), one row live",
          Said("COV001", "encoder", "samples-cut"), around_context(one_live_row)),
    Fault("a", "the same with a cache of earlier outputs", Said("COV001", "encoder", "samples-cut"), cached_rows),
    Fault("b1", "encoder output nearly equal for all samples", Said("COLLAPSE001", "encoder", ""),
          altered_output(lambda step, output: nearly_equal(output))),
    Fault("b2", "the same from mid-run", Said("COLLAPSE001", "encoder", "", first=(ONSET, ONSET)),
          altered_output(lambda step, output: nearly_equal(output) if step >= ONSET else output)),
    Fault("c1", "slow drift of the encoder's output",
          Said("DRIFT001", "encoder", "", first=(DRIFT[0] - 10, DRIFT[0] + 15), last=(DRIFT[1] - 15, STEPS)),
          altered_output(drifting)),
    Fault("c2", "40x spikes on 4 % of the steps", Said("SPIKE001", "encoder", "output-spikes", first=(13, 13)),
          altered_output(lambda step, output: output * 40 if step in SPIKES else output)),
    Fault("d1", "gradients zeroed, weight decay moves the frozen decoder",
          Said("FROZEN001", "decoder", "weight-decay"), update=gradients_zeroed, frozen=True),
    Fault("d2", "requires_grad False with stale gradients in the optimiser",
          Said("FROZEN001", "decoder", "stale-gradient-frozen"), update=frozen_with_stale_gradients, frozen=True),
    Fault("e1", "the encoder is used only under no_grad", Said("GRAD001", "encoder", "no-grad"), without_grad),
    Fault("e2", "calls of the core under no_grad", Said("CALL001", "core", "calls-without-grad"),
          options={"cut_calls": True}),
    Fault("f", "sub-module called in a Python loop through .item()",
          Said("GRAD001", "scorer", "detached"), scorer_through_item),
)  # fmt: skip
