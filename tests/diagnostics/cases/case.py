"""One program with a fault, what names the fault, and how well findings name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import cycle, islice
from typing import Any, Literal

import torch

from diagnostics import Finding, Monitor, Severity, audit

Verdict = Literal["named", "partly", "missed", "quiet", "accused", "crashed"]
STEPS = 60
"""Steps of the monitored loop; an audit takes 20."""


@dataclass(frozen=True)
class Answer:
    """A finding that names the fault: patterns of the rule, the module ("" is the model) and the code of the cause."""

    rule: str
    module: str = "*"
    code: str = "*"

    def matches(self, finding: Finding) -> bool:
        """Whether a finding is this one."""
        return (
            fnmatchcase(finding.rule, self.rule)
            and fnmatchcase(finding.module, self.module)
            and fnmatchcase(finding.code, self.code)
        )


@dataclass(frozen=True)
class Case:
    """A program.

    Attributes:
        name: A few words with hyphens.
        make: Function (broken) -> the arguments of an audit.
        fault: What is wrong, a sentence.
        answers: Any of these names the fault with the right cause and place.
    """

    name: str
    make: Callable[[bool], dict[str, Any]]
    fault: str
    answers: tuple[Answer, ...] = ()


def judge(findings: Sequence[Finding], answers: Iterable[Answer]) -> Verdict:
    """How well findings name a fault.

    `named`: every finding above a note is an answer, and there is one. `partly`: an answer is there beside other
    accusations, as a note, or as a consequence; or something in the right module is reported above a note.
    """
    wanted = list(answers)
    above = [finding for finding in findings if finding.severity > Severity.NOTE]
    right = [finding for finding in above if any(answer.matches(finding) for answer in wanted)]
    if right and len(right) == len(above):
        return "named"
    every = [each for finding in findings for each in (finding, *finding.consequences)]
    said = any(answer.matches(each) for each in every for answer in wanted)
    places = [answer.module for answer in wanted if answer.module not in ("*", "")]
    near = any(fnmatchcase(finding.module, place) for finding in above for place in places)
    return "partly" if said or near else "missed"


def judge_quiet(findings: Iterable[Finding]) -> Verdict:
    """Whether nothing is above a note."""
    return "accused" if any(finding.severity > Severity.NOTE for finding in findings) else "quiet"


def run_audit(made: dict[str, Any]) -> Sequence[Finding]:
    """The findings of an audit of a program."""
    return audit(**made).findings


def _count(batch: Any) -> int:
    first = batch if torch.is_tensor(batch) else batch[0]
    return int(first.shape[0])


_DECLARED = ("expect_frozen", "expect_partial", "expect_tied", "targets", "regularisers")


def run_monitor(made: dict[str, Any], **given: Any) -> Sequence[Finding]:
    """The findings of a monitor in the loop of the documents, with further arguments of the monitor."""
    model, optimizer, step = made["model"], made["optimizer"], made["step"]
    optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    declared = {name: made[name] for name in _DECLARED if name in made}
    monitor = Monitor(model, optimizer, **declared, **given)
    for batch in islice(cycle(made["batches"]), STEPS):
        with monitor.step(samples=made.get("samples", _count)(batch)):
            loss = step(model, batch)
            if isinstance(loss, dict) and any(torch.is_tensor(each) for each in loss.values()):
                monitor.terms(loss)
                loss = sum(loss.values())
            if torch.is_tensor(loss) and loss.requires_grad:
                loss.backward()
                for each in optimizers:
                    each.step()
                for each in optimizers:
                    each.zero_grad()
    findings: Sequence[Finding] = monitor.findings()
    monitor.detach()
    return findings
