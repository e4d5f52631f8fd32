"""Questions to a model beyond its gradients, asked by `audit(..., probes=[...])`.

A probe is anything with a `rule`, the id of its findings, and `run(model, batch) -> list[Finding]`; one of your own is
a class in a file of your own, its findings made by `probe_finding`: docs/toolkit.md. The audit runs each once, on the
last batch, after the steps, and puts the model back. A probe that raises ends the audit: no answer is not silence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from diagnostics.errors import InvalidValue
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.rules import causes
from diagnostics.selection import select_modules
from diagnostics.testing.failure import CheckFailed, failure
from diagnostics.testing.output_assertions import assert_sample_independence


class Probe(Protocol):
    """One question."""

    @property
    def rule(self) -> str:
        """The id of its findings, such as CONTEXT001; `select` and `ignore` know it."""
        ...

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """What is wrong, an empty list where nothing is. It may leave the model changed."""
        ...


def probe_finding(
    rule: str,
    message: str,
    *,
    metric: str,
    value: float,
    threshold: float | None,
    cause: str,
    remedy: str,
    module: str = "",
    severity: Severity = Severity.CRITICAL,
    code: str = "",
) -> Finding:
    """A finding of a probe, at step 0.

    Args:
        code: Stable name of the cause, for a rule of your own that can name several: a baseline knows a finding by
            rule, module and code.
    """
    evidence = Evidence(metric, value, threshold, 0, 0)
    return Finding(rule, severity, module, message, evidence, cause, remedy, code=code)


@dataclass(frozen=True)
class SampleIndependence:
    """LEAK001: changing one sample changes the outputs of that sample alone, in training mode or not.

    Attributes:
        inputs: The tensors of a batch that lead with the samples, in what `forward` takes.
        forward: (model, inputs) -> output; by default `model(*inputs)` for a tuple, else `model(inputs)`.
        training: The mode; batch statistics leak in training mode by design.
        tolerance: Relative to the root mean square of the output. A recursion of our model comes to 1e-5 in single
            precision by rounding alone, since other batch mates are computed in another order.
    """

    inputs: Callable[[Any], Any]
    forward: Callable[[nn.Module, Any], Any] | None = None
    training: bool = False
    watch: Sequence[str] | None = None
    tolerance: float = 1e-4
    rule: ClassVar[str] = "LEAK001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """The first module that mixes samples, if one does."""
        model.train(self.training)
        forward = self.forward
        try:
            assert_sample_independence(
                model,
                self.inputs(batch),
                forward=None if forward is None else lambda inputs: forward(model, inputs),
                watch=self.watch,
                tolerance=self.tolerance,
            )
        except CheckFailed as failed:
            return list(failed.findings)
        return []


@dataclass(frozen=True)
class ContextUse:
    """CONTEXT001: giving every sample the context of another changes the loss.

    Attributes:
        loss: (model, batch) -> the mean loss.
        shuffled: (batch, index) -> the batch with its context, and nothing else, taken from samples `index`.
        samples: Samples in the batch.
        at_least: Change of the loss that counts as use, relative to the loss. It is a change in either
            direction: an untrained model that uses its context is as likely to lose as to gain.
        tries: Cyclic shifts that are tried; the largest change counts.
    """

    loss: Callable[[nn.Module, Any], Tensor]
    shuffled: Callable[[Any, Tensor], Any]
    samples: Callable[[Any], int]
    at_least: float = 1e-4
    tries: int = 3
    rule: ClassVar[str] = "CONTEXT001"

    @torch.no_grad()
    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Compares in evaluation mode, so that dropout makes no difference.

        Raises:
            ValueError: Fewer than two samples: there is no other context.
        """
        model.eval()
        count = self.samples(batch)
        if count < 2:
            raise InvalidValue(
                "probes.too-few-samples",
                "the use of a context: at least two samples are needed, found {got}",
                got=count,
            )
        own = float(self.loss(model, batch))
        changes = [
            abs(float(self.loss(model, self.shuffled(batch, torch.arange(count).roll(shift)))) - own)
            for shift in range(1, min(self.tries, count - 1) + 1)
        ]
        change = max(changes) / abs(own) if own else max(changes)
        if change >= self.at_least:
            return []
        return [
            failure(
                self.rule,
                "",
                f"the context of another sample changes the loss by {change:.3g} of it",
                change,
                self.at_least,
                causes.CONTEXT_LOST,
            )
        ]


@dataclass(frozen=True)
class Provenance:
    """ORIGIN001: what stands at the loss belongs to the samples that were asked for.

    Attributes:
        asked: batch -> an id per sample, as the loader gave them.
        arrived: (model, batch) -> the id per sample as it stands at the loss, after carries, caches and sorting.
    """

    asked: Callable[[Any], Sequence[Hashable]]
    arrived: Callable[[nn.Module, Any], Sequence[Hashable]]
    rule: ClassVar[str] = "ORIGIN001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Compares the ids place by place."""
        asked, arrived = _plain(self.asked(batch)), _plain(self.arrived(model, batch))
        pairs = zip(asked, arrived, strict=False)
        wrong = [place for place, (left, right) in enumerate(pairs) if left != right]
        missing = abs(len(asked) - len(arrived))
        if not wrong and not missing:
            return []
        if missing:
            said = f"{len(asked)} samples were asked for and {len(arrived)} stand at the loss"
            cause = causes.DROPPED_OR_REPEATED
        else:
            place = wrong[0]
            said = (
                f"{len(wrong)} of {len(asked)} samples stand in another's place: at {place} sample"
                f" {asked[place]!r} was asked for and {arrived[place]!r} stands"
            )
            same = sorted(map(repr, asked)) == sorted(map(repr, arrived))
            cause = causes.REORDERED if same else causes.OTHER_SAMPLES
        return [failure(self.rule, "", said, float(len(wrong) + missing), 0.0, cause)]


@dataclass(frozen=True)
class EvaluatorOracle:
    """ORACLE001: the evaluator gives 1 to the labels and 0 to predictions that are wrong throughout.

    Attributes:
        score: (predictions, batch) -> the share that is right.
        labels: batch -> predictions that are right.
        wrong: batch -> predictions of which none is right.
    """

    score: Callable[[Any, Any], float]
    labels: Callable[[Any], Any]
    wrong: Callable[[Any], Any]
    rule: ClassVar[str] = "ORACLE001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Does not use the model."""
        found = []
        for given, make, expected, cause in (
            ("the labels", self.labels, 1.0, causes.LABELS_BELOW_ONE),
            ("wrong predictions", self.wrong, 0.0, causes.WRONG_ABOVE_ZERO),
        ):
            score = float(self.score(make(batch), batch))
            if not math.isclose(score, expected, abs_tol=1e-6):
                said = f"the evaluator gives {score:.4g} to {given}, expected {expected:g}"
                found.append(failure(self.rule, "", said, score, expected, cause))
        return found


@dataclass(frozen=True)
class Cost:
    """COST001, a note: the share of the forward pass that each module takes.

    Attributes:
        forward: (model, batch) -> anything.
        repeats: Forward passes; the shortest counts, for the others waited for something.
    """

    forward: Callable[[nn.Module, Any], Any]
    watch: Sequence[str] | None = None
    repeats: int = 3
    rule: ClassVar[str] = "COST001"

    @torch.no_grad()
    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Times on the clock of the host; on a GPU the host waits after each module."""
        best, shares = math.inf, dict[str, float]()
        for _ in range(self.repeats):
            with _stopwatch(select_modules(model, self.watch)) as times:
                start = _now()
                self.forward(model, batch)
                total = _now() - start
            if total < best:
                best, shares = total, {name: spent / total for name, spent in times.items()}
        first = max(shares, key=lambda name: shares[name], default="")
        listed = ", ".join(
            f"{name or 'model'} {share:.0%}"
            for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
        )
        return [
            failure(
                self.rule,
                first,
                f"a forward pass takes {best * 1e3:.3g} ms: {listed or 'no watched module was called'}",
                shares.get(first, math.nan),
                None,
                causes.MODULE_COST,
            )
        ]


@contextmanager
def _stopwatch(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Seconds inside each module, over all its calls."""
    spent: dict[str, float] = {}
    begun: dict[str, float] = {}
    handles = []
    for name, module in modules.items():

        def start(module: nn.Module, args: Any, name: str = name) -> None:
            begun[name] = _now()

        def stop(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            spent[name] = spent.get(name, 0.0) + _now() - begun[name]

        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _plain(ids: Sequence[Hashable] | Tensor) -> list[Any]:
    """Ids that compare by value: those of a tensor would compare by identity in a set."""
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)
