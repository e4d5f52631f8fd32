"""Audits a training script as it is, without a function of its own: `etrm audit train.py -- --epochs 3`.

The script runs as `python train.py --epochs 3` would run it, in this process, while its updates are watched. It is
stopped after the last step that is wanted. What it writes until then is written; what it prints goes to stderr.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from traceback import walk_tb
from typing import Literal

from diagnostics.auditing.audit import Audit
from diagnostics.auditing.declarations import Declarations
from diagnostics.auditing.exceptions import find_broken_number, introduce
from diagnostics.auditing.probes.late_changes import MOVE007
from diagnostics.auditing.scripts.script_watch import ScriptStopped, ScriptWatch
from diagnostics.auditing.user_code import CaseError, UserError, users_lines
from diagnostics.errors import ToolkitError
from diagnostics.findings import Evidence, Finding, Severity, ordered
from diagnostics.monitor import Monitor
from diagnostics.report.finding_filter import choose
from diagnostics.report.text import PIPE_WIDTH, wrap_line
from diagnostics.rules.families.forward.calls import NOT_USED
from diagnostics.rules.families.gradients.backward_passes import NO_BACKWARD, STEP001
from diagnostics.rules.families.gradients.module_gradients import GRAD001, NO_GRAD
from diagnostics.rules.families.gradients.not_finite import REACH003
from diagnostics.rules.families.not_run import NO_STEP_FUNCTION, RULE001
from diagnostics.rules.families.weights.movement import MOVE003, NO_STEP_INSIDE
from diagnostics.rules.registry import built_in_rules, with_own
from diagnostics.rules.rule import Rule

STEPS = 20
"""Steps that are watched unless another number is wanted: as many as in an audit of a step."""

Ending = Literal["stopped", "ended", "exited", "raised"]
"""How a script came to its end: by us, at its last line, by sys.exit(), or by an exception."""


@dataclass(frozen=True)
class ScriptAudit(Audit):
    """What an audit of a script found.

    Attributes:
        script: Path of the script.
        ending: How it came to its end.
        offset: Number of its updates before the first recorded step.
        trace: The user's lines of the traceback, where it raised.
    """

    script: str = ""
    ending: Ending = "stopped"
    offset: int = 0
    trace: str = field(default="", repr=False)

    @property
    def summary(self) -> str:
        """What was watched, and how the script came to its end: one or two sentences."""
        steps = len(self.history)
        watched = f"{steps} step{'s' * (steps != 1)} watched"
        ends = {
            "stopped": f"{watched}, then stopped: the rest of the script did not run (--all runs it to its end).",
            "ended": f"{watched}; the script ran to its end.",
            "exited": f"{watched}; the script ended by sys.exit().",
            "raised": f"{watched}; then the script raised an exception.",
        }
        shifted = f" Step 0 follows update {self.offset}." if self.offset else ""
        return f"{self.script}: {ends[self.ending]}{shifted}"

    def as_text(self, width: int = PIPE_WIDTH, color: bool = False) -> str:
        """The summary, then tables and findings as of any audit."""
        return f"{wrap_line(self.summary, width)}\n\n{super().as_text(width, color)}"

    def render(
        self, form: str = "table", artifact: str = "", width: int = PIPE_WIDTH, color: bool = False
    ) -> str:
        """As `Audit.render`; markdown begins with the summary."""
        text = super().render(form, artifact, width, color)
        return f"{self.summary}\n\n{text}" if form == "markdown" else text


def audit_script(
    path: Path,
    arguments: Sequence[str] = (),
    *,
    steps: int | None = STEPS,
    watch: Sequence[str] | None = None,
    expect_frozen: Sequence[str] = (),
    expect_partial: Sequence[str] = (),
    rules: Sequence[Rule] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    baseline: Collection[str] = (),
) -> ScriptAudit:
    """Run a training script and judge its steps, each from one update to the next.

    Args:
        path: The script.
        arguments: Its arguments, `sys.argv[1:]`.
        steps: Number of steps after which it is stopped; None to let it run to its end.
        watch, expect_frozen, expect_partial, rules: Arguments of `Monitor`. Of several models each is called
            by the name of its variable.
        select, ignore, baseline: Arguments of `Monitor.findings`.

    Raises:
        CaseError: No step could be watched, or an argument does not fit the models.
        UserError: The script raised before the first step was complete.
    """
    if steps is not None and steps < 1:
        raise CaseError("script.too-few-steps", "steps must be at least 1, found {got}", got=steps)
    declared = Declarations(watch or (), expect_frozen, expect_partial)
    watching = ScriptWatch(steps, declared, rules=rules)
    ending, problem = _run(path, arguments, watching)
    try:
        if watching.failure is not None:
            raise watching.failure
        trace = users_lines(problem) if ending == "raised" and problem is not None else ""
        gave_up = ending == "raised" or (isinstance(problem, SystemExit) and problem.code not in (None, 0))
        if watching.monitor is None or not watching.monitor.history or (gave_up and not watching.updates):
            raise _nothing_watched(path, watching, ending, problem, trace)
        declared.check()
        broken = find_broken_number(problem) if trace and problem is not None else None
        chosen = _choose(path, watching, broken, rules, select, ignore, baseline)
    except (CaseError, UserError):
        raise
    except ToolkitError as error:
        facts = {**error.facts, "script": str(path), "reason": str(error)}
        raise CaseError(error.code, "{script}: {reason}", **facts) from error
    monitor = watching.monitor
    history = [each for part in (*watching.past, monitor) for each in part.history]
    return ScriptAudit(
        tuple(chosen),
        monitor.last,
        tuple(history),
        (),
        tuple(rules),
        script=str(path),
        ending=ending,
        offset=watching.offset,
        trace=trace,
    )


def _run(path: Path, arguments: Sequence[str], watching: ScriptWatch) -> tuple[Ending, BaseException | None]:
    """Run the script; the exception with which it ended, if one did."""
    try:
        with _as_main(path, arguments), watching:
            runpy.run_path(str(path.resolve()), run_name="__main__")
    except ScriptStopped:
        return "stopped", None
    except SystemExit as error:
        return "exited", error
    except Exception as error:  # noqa: BLE001 - of the user's code, and shown
        return "raised", error
    # a program that caught the exception which stops it has run no step since
    return "stopped" if watching.stopped else "ended", None


@contextmanager
def _as_main(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Arguments, import path and output of a script that runs by itself; all of them are put back."""
    folder, argv, paths = Path.cwd(), sys.argv, [*sys.path]
    full = path.resolve()
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(full.parent))
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        sys.argv, sys.path[:] = argv, paths
        os.chdir(folder)


def _choose(
    path: Path,
    watching: ScriptWatch,
    broken: Finding | None,
    rules: Sequence[Rule],
    select: Sequence[str],
    ignore: Sequence[str],
    baseline: Collection[str],
) -> list[Finding]:
    """The findings of all monitors, each once, and what the whole run shows."""
    assert watching.monitor is not None
    monitors = [*watching.past, watching.monitor]
    found: dict[tuple[str, str, str], Finding] = {}
    for monitor in monitors:
        for each in _with_calls_between(monitor, watching):
            if monitor is watching.monitor or each.severity > Severity.NOTE:
                found.setdefault((each.rule, each.module, each.code), each)
    findings = [*found.values(), *watching.find_afterwards()]
    if not watching.updates and all(each.rule not in (MOVE003.id, STEP001.id) for each in findings):
        findings.append(_never_trained(watching))
    if broken is not None and all(each.rule != REACH003.id for each in findings):
        findings.append(broken)
    findings.append(_not_run(path))
    names = {*(name for monitor in monitors for name in monitor.modules), *(each.module for each in findings)}
    ids = [rule.id for rule in with_own(rules)]
    return ordered(choose(findings, ids, sorted(names), select, ignore, baseline))


def _with_calls_between(monitor: Monitor, watching: ScriptWatch) -> Iterator[Finding]:
    """The findings of a monitor, less that a later stage of the training does without a module of an earlier one.

    A module that is called with gradients disabled is not one that is never called.
    """
    earlier = _called_before(monitor, watching)
    for each in monitor.findings():
        if each.code == NOT_USED.code and id(monitor.modules[each.module]) in earlier:
            continue
        if each.code == NOT_USED.code and watching.is_quiet(monitor.modules[each.module]):
            message = f"{each.module}: no gradient; all calls ran with gradients disabled"
            known = GRAD001.finding(each.module, message, each.evidence, NO_GRAD)
            each = replace(known, file=each.file, line=each.line, consequences=each.consequences)
        yield each


def _called_before(monitor: Monitor, watching: ScriptWatch) -> set[int]:
    """The ids of the modules that were called in stages before the one of a monitor."""
    past = takewhile(lambda each: each is not monitor, watching.past)
    return {
        id(each.modules[name])
        for each in past
        if each.history
        for name, record in each.last.modules.items()
        if record.state != "not called"
    }


def _never_trained(watching: ScriptWatch) -> Finding:
    """What is missing in a run without any update: backward passes, or the steps of an optimiser."""
    passes = watching.passes
    if not passes:
        message = "model: it is called with gradients enabled; no backward pass ran, and no optimiser stepped"
        evidence = Evidence(STEP001.metric, 0.0, None, 0, 0)
        return STEP001.finding("", message, evidence, NO_BACKWARD)
    message = f"model: {passes} backward passes ran, and no optimiser stepped"
    evidence = Evidence(MOVE003.metric, float(passes), None, 0, passes - 1)
    return MOVE003.finding("", message, evidence, NO_STEP_INSIDE)


def _not_run(script: Path) -> Finding:
    """The rules that repeat a step, which a script does not offer."""
    audited = [rule for rule in built_in_rules() if rule.source == "audit" and not rule.by_operations]
    ids = [rule.id for rule in audited if rule is not MOVE007]
    message = (
        f"{len(ids)} rules that repeat a step did not run ({', '.join(ids[:2])}, ...): for these write a function that"
        f" returns it, and audit {script}:FUNCTION (--help shows one)"
    )
    evidence = Evidence(RULE001.metric, float(len(ids)), None, 0, 0)
    return RULE001.finding("", message, evidence, NO_STEP_FUNCTION, Severity.NOTE)


_SET_BY_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def _asks_for_processes(problem: BaseException) -> bool:
    """Whether a script ended because nothing told it its place in a group of processes."""
    if isinstance(problem, KeyError) and problem.args and problem.args[0] in _SET_BY_TORCHRUN:
        return True
    frames = [each.f_code.co_filename for each, _ in walk_tb(problem.__traceback__)]
    return isinstance(problem, ValueError) and any(Path(each).name == "rendezvous.py" for each in frames)


def _nothing_watched(
    path: Path, watching: ScriptWatch, ending: Ending, problem: BaseException | None, trace: str
) -> ToolkitError:
    """Why there is nothing to judge."""
    if problem is not None and _asks_for_processes(problem):
        return CaseError(
            "script.needs-processes",
            "{script} expects the variables that torchrun sets: torchrun --nproc-per-node 1 -m diagnostics audit"
            " {script}",
            script=str(path),
        )
    if watching.started and not watching.updates:
        return CaseError(
            "script.other-processes",
            "{script} trains in {count} processes that it starts, and an audit watches the one that runs the script:"
            " call its worker in this process, as worker(0, 1), or audit {script}:FUNCTION, see --help",
            script=str(path),
            count=watching.started,
        )
    if trace:
        assert problem is not None
        return UserError("script.raised", "{trace}", trace=f"{introduce(problem)}{trace}")
    if isinstance(problem, SystemExit) and problem.code not in (None, 0):
        return CaseError(
            "script.exited",
            "{script} ended by sys.exit({status!r}) before the first update; its arguments follow after --:"
            " audit {script} -- ARGUMENTS",
            script=str(path),
            status=problem.code,
        )
    if watching.others:
        reason = f"{watching.others} updates were of parameters that are in no nn.Module that was called"
    else:
        reason = "no nn.Module was called whose parameters an optimiser holds"
    return CaseError(
        "script.no-update",
        "{script} ended without an update to watch: {reason}. A script is audited that calls an nn.Module and steps a"
        " torch.optim optimiser in this process; otherwise name a function: audit {script}:FUNCTION, see --help",
        script=str(path),
        reason=reason,
        ending=ending,
    )
