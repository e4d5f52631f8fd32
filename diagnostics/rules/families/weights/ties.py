"""One module under two names, and weights that should be one tensor and are two."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import CRITICAL, NOTE, WARNING, Family, Observation, Rule, lasting
from diagnostics.selection import has_role

ALIAS_OF_ROLE = Cause(
    "alias-of-role",
    "{others} is the same object, not a copy, so the module that should lag behind moves with every update",
)
ALIAS = Cause("alias", "{others} is the same object: both names train one set of weights")
TIE_MISSING = Cause("tie-missing", "they are declared as tied, but are different tensors")
EQUAL_APART = Cause(
    "equal-apart",
    "an embedding and an output layer begin with the same values in two tensors: a tie was lost, as by"
    " load_state_dict(assign=True), a deep copy, a cast, or a vocabulary that grew",
)


def find_aliases(record: StepRecord, options: Values) -> Iterator[Observation]:
    """SHARE003; a note unless the names say that the two are different."""
    for first, others in record.aliases.items():
        names = (first, *others)
        declared = {target.name for target in record.targets if target.declared} & set(names)
        roles = [name for name in names if has_role(name, others=names) or name in declared]
        cause, severity = ALIAS, _severity(names)
        module = first
        if roles and len(roles) < len(names):
            cause, severity, module = (
                ALIAS_OF_ROLE,
                CRITICAL,
                next(name for name in names if name not in roles),
            )
        rest = ", ".join(name for name in names if name != module)
        message = f"{module}: {rest} is another name of it"
        yield Observation(module, float(len(names)), message, cause.of(others=rest), severity=severity)


def _severity(names: tuple[str, ...]) -> Severity:
    """Two attributes side by side are meant to be two modules; a list repeats one, and a shortcut names one again.

    A source and its target may share one vocabulary.
    """
    parents = {name.rpartition(".")[0] for name in names}
    listed = any(name.rpartition(".")[2].isdigit() for name in names)
    translated = any(has_role(name) and not has_role(name, others=names) for name in names)
    return WARNING if len(parents) == 1 and not listed and not translated else NOTE


def find_lost_ties(record: StepRecord, options: Values) -> Iterator[Observation]:
    """SHARE002."""
    for tie in record.lost_ties:
        message = f"{tie.module}: {' and '.join(tie.names)} are separate tensors"
        cause, severity = (TIE_MISSING, CRITICAL) if tie.declared else (EQUAL_APART, WARNING)
        yield Observation(tie.module, float(len(tie.names)), message, cause, key=tie.names, severity=severity)


SHARE002 = Rule(
    "SHARE002",
    CRITICAL,
    "Weights that should be tied are not",
    "parameters",
    "Tie them again after loading, casting or copying: head.weight = embedding.weight.",
    find_lost_ties,
    lasting(1, why="tensors are one or two, and the declaration is yours"),
    causes=(TIE_MISSING, EQUAL_APART),
    what="A group of `expect_tied` is not one tensor. A warning: when the monitor was made an embedding and a linear"
    " layer had the same values in two tensors, in half of their rows at least.",
    why="Each gets half of the gradient, and they drift apart.",
    example="`model.load_state_dict(saved, assign=True)` of a language model whose head is tied to its embedding.",
    false_alarms="A head that was only initialised from the embedding.",
    rank=205,
)
SHARE003 = Rule(
    "SHARE003",
    WARNING,
    "One module under two names",
    "parameters",
    "Copy it: copy.deepcopy(module). If it is meant, declare it with expect_tied.",
    find_aliases,
    lasting(1, why="a module is one object or two"),
    causes=(ALIAS_OF_ROLE, ALIAS),
    what="Two attributes hold the same module. Critical where one of them is called target, teacher, ema and the like;"
    " a note in lists and for shortcuts into other modules.",
    why="A target network that is the policy network moves with it; a second layer that is the first has no weights"
    " of its own.",
    example="`self.target_net = self.policy_net`; `self.second = self.first`.",
    false_alarms="A layer that is used at two depths on purpose: name both in `expect_tied`.",
    explains=frozenset({"CALL001"}),
    rank=15,
)
FAMILY = Family(92, "Frozen, shared and target weights", (SHARE002, SHARE003))
