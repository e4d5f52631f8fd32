"""What a rule is: a check of the record of one step, the finding it makes, and its documentation.

A family of rules is one file below `diagnostics.rules.families`: causes, checks, rules with their texts, and a
`FAMILY` that lists them. A rule of your own is the same `Rule`, given to `Monitor(rules=[...])`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.records import ModuleRecord, StepRecord
from diagnostics.rules.options import Option, Values
from diagnostics.rules.run_history import HistoryCheck

CRITICAL, WARNING, NOTE = Severity.CRITICAL, Severity.WARNING, Severity.NOTE


@dataclass(frozen=True)
class Observation:
    """What a check saw in one step.

    Attributes:
        module: The watched module, "" for the whole model.
        value: The rule's metric in this step.
        message: A sentence; `{value}` in it becomes the mean over the steps.
        cause: One of the rule's causes.
        key: Observations of one module with different keys become different findings.
        holds: False for a healthy step, which counts in the mean and in the share of steps alone.
        severity: Severity where it is not the rule's.
    """

    module: str
    value: float
    message: str
    cause: Cause
    key: Hashable = ""
    holds: bool = True
    severity: Severity | None = None


Check = Callable[[StepRecord, Values], Iterable[Observation]]
"""`check(record, options)`: the observations in the record of one step, given the values of the rule's options."""


@dataclass(frozen=True)
class Rule:
    """A rule with its stable id, its check, its options and its documentation.

    Attributes:
        id: Stable name, such as COV001.
        severity: Severity of its findings.
        title: A few words.
        metric: Stable name of what it measures: a key of `diagnostics.findings.METRICS`, or a name of your own.
        remedy: Instruction to the user; part of each finding whose cause has no remedy of its own.
        check: Function that judges the record of one step; None where `source` is not "step".
        options: Numbers that `Monitor(options={id: {name: value}})` can set.
        bound: The option that its metric is compared with, "" where there is none.
        needs_optimizer: Whether it runs only if the monitor was given the optimisers.
        of_updates: Whether it judges what an update did: a step in which no optimiser steps, as while gradients are
            accumulated, does not end what it observes.
        needs_every_step: Whether it runs only if the monitor records every step.
        source: Origin of its findings: each recorded step, the history of steps, outputs on a fixed probe batch,
            the monitor itself, an assertion in a test, or a probe of an audit.
        causes: Every cause that its findings can name.
        what: Documentation: what it looks for.
        why: Documentation: why that matters.
        example: Documentation: code or numbers that make it fire.
        false_alarms: Documentation: healthy cases in which it fires.
        arguments: Name in `diagnostics` whose arguments set its numbers, for a rule without options.
        explains: Ids of rules whose findings follow from this one's in the same module or inside it. A finding
            that is explained is listed under its explanation.
        spreads: Direction in which one fault makes the rule fire elsewhere: "backward" to the modules that feed the
            faulty one, "forward" to those it feeds, "together" in all at the same step.
        upstream: For a check of an audit: ids of rules whose findings follow from this one's in modules that feed
            its own.
        downstream: The same in modules that its own feed.
        irreversible: Whether a single step does damage that lasts, so that the earliest finding explains later ones.
        everywhere: Whether its finding about the whole model explains those of every module.
        rank: Place among the explanations: lower ranks are tried first. A rule without rank comes last, and
            explains none of its own findings.
        by_operations: Whether a monitor makes this check of an audit too, by the operations of a few steps.
        history_check: Function that judges all recorded steps, where `source` is "history" or "probe".
    """

    id: str
    severity: Severity
    title: str
    metric: str
    remedy: str
    check: Check | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    bound: str = ""
    needs_optimizer: bool = False
    of_updates: bool = False
    needs_every_step: bool = False
    source: Literal["step", "history", "probe", "monitor", "assertion", "audit"] = "step"
    causes: tuple[Cause, ...] = ()
    what: str = ""
    why: str = ""
    example: str = ""
    false_alarms: str = ""
    arguments: str = ""
    explains: frozenset[str] = frozenset()
    spreads: Literal["", "backward", "forward", "together"] = ""
    upstream: frozenset[str] = frozenset()
    downstream: frozenset[str] = frozenset()
    irreversible: bool = False
    everywhere: bool = False
    rank: int | None = None
    by_operations: bool = False
    history_check: HistoryCheck | None = None

    def found_once(self, module: str, cause: Cause, severity: Severity | None = None) -> Finding:
        """Make a finding that is no matter of numbers or steps, with its cause as the message.

        Args:
            module: Name of the watched module, "" for the whole model.
            cause: One of the rule's causes, with its facts.
            severity: Severity where it is not the rule's.
        """
        evidence = Evidence(self.metric, 1.0, None, 0, 0)
        return self.finding(module, f"{module or 'model'}: {cause}", evidence, cause, severity)

    def finding(
        self, module: str, message: str, evidence: Evidence, cause: Cause, severity: Severity | None = None
    ) -> Finding:
        """Make a finding of this rule.

        Args:
            module: Name of the watched module, "" for the whole model.
            message: One sentence.
            evidence: The measurement behind the finding.
            cause: One of the rule's causes, with its facts.
            severity: Severity where it is not the rule's.

        Raises:
            InvalidValue: The rule does not list the cause.
        """
        listed = next((known for known in self.causes if known.code == cause.code), None)
        if listed is None:
            raise InvalidValue(
                "rules.unlisted-cause",
                "{rule} does not list the cause {cause!r}; it lists {allowed}",
                rule=self.id,
                cause=cause.code,
                allowed=", ".join(known.code for known in self.causes) or "none",
            )
        return Finding(
            rule=self.id,
            severity=self.severity if severity is None else severity,
            module=module,
            message=message,
            evidence=evidence,
            cause=str(cause),
            remedy=cause.remedy or listed.remedy or self.remedy,
            code=cause.code,
        )

    @property
    def threshold(self) -> float | None:
        """Default of the option that its metric is compared with."""
        return self.options[self.bound].default if self.bound else None

    @property
    def min_steps(self) -> int:
        """Default number of recorded steps before it is reported."""
        option = self.options.get("min_steps")
        return int(option.default) if option else 0


@dataclass(frozen=True)
class Family:
    """The rules of one file.

    Attributes:
        place: Place of the family in lists of rules; lower comes first.
        title: Heading in lists of rules.
        rules: Its rules, in the order of lists.
    """

    place: int
    title: str
    rules: tuple[Rule, ...]


ODD_BATCH = "one odd batch is not enough"
"""The usual reason for `min_steps` = 5."""


def lasting(
    steps: int, share: float = 1.0, *, why: str = ODD_BATCH, why_share: str = ""
) -> dict[str, Option]:
    """The options of a rule that is reported once it held for a while: `min_steps` and `share`.

    Args:
        steps: Default of `min_steps`.
        share: Default of `share`.
        why: Reason for the number of steps.
        why_share: Reason for the share, "" where it is every step.
    """
    return {
        "min_steps": Option(steps, 1, 1e6, "steps needed", whole=True, why=why),
        "share": Option(share, 0.01, 1.0, "share of them needed", why=why_share),
    }


def learners(record: StepRecord) -> Iterator[tuple[str, ModuleRecord]]:
    """The watched modules that have trainable parameters, with their names."""
    return ((name, module) for name, module in record.modules.items() if module.params_trainable)


LITTLE_USED = frozenset({"COV001", "COV002", "WASTE001", "CALL001"})
"""Rules that fire for a module that is hardly trained; several rules list them as their consequences."""
UNTRAINED = LITTLE_USED | {"GRAD002", "REACH001", "REACH002", "MOVE002"}
"""The same for a module that is not trained at all."""
