"""Runs the cases, and writes what was named as a table next to what an earlier version named."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from diagnostics import Finding
from etrm.atomic_files import write_atomically
from tests.diagnostics.cases import faults, healthy, programs
from tests.diagnostics.cases.case import Answer, Case, Verdict, judge, judge_quiet, run_audit, run_monitor
from tests.diagnostics.cases.healthy.training_loops import run_use

RESULTS = Path(__file__).parents[3] / "docs" / "results"
UNLISTED = (*faults.losses.CASES, *faults.models.CASES, *faults.training.CASES)
GROUPS: Mapping[str, Sequence[Case]] = {
    "reported": faults.reported.CASES,
    "unlisted": UNLISTED,
    "further": faults.further.CASES,
    "latest": faults.latest.CASES,
    "questions": faults.questions.CASES,
    "scripts": faults.scripts.CASES,
    "loops": faults.loops.CASES,
    "domains": faults.domains.CASES,
    "held": faults.held.CASES,
    "forum": faults.forum.CASES,
    "kept": faults.kept.CASES,
    "planted": faults.planted.CASES,
    "variations": faults.variations.CASES,
    "programs": programs.CASES,
    "libraries": (*faults.libraries.CASES, *programs.LIBRARIES),
    "retried": (*faults.retried.CASES, *programs.RETRIED),
    "threads": (*faults.threads.CASES, *programs.THREADS),
    "reread": faults.reread.CASES,
}
PROGRAMS = {
    **healthy.audited.PROGRAMS,
    **healthy.structures.PROGRAMS,
    **healthy.objectives.PROGRAMS,
    **healthy.loops.PROGRAMS,
    **healthy.domains.PROGRAMS,
    **healthy.held.PROGRAMS,
    **healthy.forum.PROGRAMS,
    **healthy.kept.PROGRAMS,
    **healthy.planted.PROGRAMS,
    **healthy.variations.PROGRAMS,
    **healthy.libraries.PROGRAMS,
    **healthy.threads.PROGRAMS,
}
"""Healthy programs that are audited too."""
HEALTHY = {**healthy.training_loops.USES, **healthy.latest.USES, **healthy.variations.USES}
Row = dict[str, str]
"""Verdicts of one case: broken and fixed, each by the audit and by the monitor."""

_ORDER = ("named", "partly", "missed", "crashed")
_RUNS: Mapping[str, Callable[[dict[str, Any]], Sequence[Finding]]] = {
    "audit": lambda made: programs.audit_program(made, to_end=False) if "script" in made else run_audit(made),
    "monitor": lambda made: (
        programs.audit_program(made, to_end=True) if "script" in made else run_monitor(made)
    ),
}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_case(case: Case) -> Row:
    """The verdicts of a case. A finding that the fixed version gets too names nothing: it is worth half."""
    row: Row = {}
    for how, run in _RUNS.items():
        broken, fixed = _run(run, case, broken=True), _run(run, case, broken=False)
        row[f"fixed {how}"] = "crashed" if fixed is None else judge_quiet(fixed)
        verdict: Verdict = "crashed" if broken is None else judge(broken, case.answers)
        if verdict == "named" and row[f"fixed {how}"] == "accused":
            verdict = "partly"
        row[how] = verdict
    return row


def _run(
    run: Callable[[dict[str, Any]], Sequence[Finding]], case: Case, broken: bool
) -> Sequence[Finding] | None:
    try:
        return run(case.make(broken))
    except Exception as error:  # noqa: BLE001 - that an audit raises is a result
        _say(f"{case.name}: {type(error).__name__}: {error}"[:200])
        return None


def run_healthy(only: str = "") -> dict[str, str]:
    """Quiet, accused, changed or crashed, by name of the loop, of those whose name contains a text."""
    found = {}
    for name, make in HEALTHY.items():
        if only not in name:
            continue
        try:
            findings, same = run_use(make)
        except Exception as error:  # noqa: BLE001 - that a monitor raises is a result
            _say(f"{name}: {type(error).__name__}: {error}"[:200])
            found[name] = "crashed"
        else:
            found[name] = judge_quiet(findings) if same else "changed"
    return found | run_programs(only) | run_scripts(only)


def run_scripts(only: str = "") -> dict[str, str]:
    """Quiet, accused, changed or crashed, by name of the healthy script."""
    found = {}
    for name, path in programs.HEALTHY.items():
        if only in name:
            try:
                findings, same = programs.run_healthy_program(path)
            except Exception as error:  # noqa: BLE001 - that an audit raises is a result
                _say(f"{name}: {type(error).__name__}: {error}"[:200])
                found[name] = "crashed"
            else:
                found[name] = judge_quiet(findings) if same else "changed"
    return found


def run_programs(only: str = "") -> dict[str, str]:
    """Quiet, accused or crashed, by name of the healthy program; both the audit and the monitor must be quiet."""
    found = {}
    for name, program in PROGRAMS.items():
        if only not in name:
            continue
        every = [
            _run(run, Case(name, lambda _, make=program: make(), ""), broken=False) for run in _RUNS.values()
        ]
        quiet = all(findings is not None and judge_quiet(findings) == "quiet" for findings in every)
        found[name] = "crashed" if None in every else "quiet" if quiet else "accused"
    return found


def better(row: Row) -> str:
    """The better verdict of audit and monitor on the broken version."""
    return min((row["audit"], row["monitor"]), key=_ORDER.index)


def load_folder(folder: Path, answers: Path | None) -> list[Case]:
    """A case per file and pair of functions `broken`, `fixed`, also with `_declared` or `_probed` at the end.

    Args:
        answers: A JSON file: name of a case -> list of [rule, module, code], which are patterns.
    """
    wanted = json.loads(answers.read_text("utf-8")) if answers else {}
    cases = []
    for path in sorted(folder.glob("*.py")):
        module = _load(path) if "def broken" in path.read_text("utf-8") else None
        for end in ("", "_declared", "_probed"):
            if module is not None and hasattr(module, f"broken{end}"):
                right = [Answer(*each) for each in wanted.get(path.stem, [])]
                cases.append(
                    Case(f"{path.stem}{end}", _maker(module, end), module.__doc__ or "", tuple(right))
                )
    return cases


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _maker(module: ModuleType, end: str) -> Callable[[bool], dict[str, Any]]:
    return lambda broken: getattr(module, f"{'broken' if broken else 'fixed'}{end}")()


def run_uses(folder: Path) -> dict[str, str]:
    """The healthy loops in the `USES` of a folder's files, where they have our form."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if "USES = {" not in path.read_text("utf-8"):
            continue
        for name, make in _load(path).USES.items():
            try:
                findings, same = run_use(make)
            except Exception as error:  # noqa: BLE001 - the loop itself may raise on purpose
                found[name] = f"raised {type(error).__name__}"
            else:
                found[name] = judge_quiet(findings) if same else "changed"
    return found


def render(results: Mapping[str, Any]) -> str:
    """The page: a row per case with what was named before and now."""
    before, now = results["before"], results["now"]
    lines = [_HEAD.format(**{key: _sentence(results[key]) for key in ("before", "now")})]
    for group, title in _TITLES.items():
        lines.append(
            f"\n## {title}\n\n| case | fault | before | now: audit, monitor | fixed |\n|---|---|---|---|---|\n"
        )
        sentences = {case.name: case.fault for case in GROUPS[group]}
        for name, row in now.get(group, {}).items():
            old = before.get(group, {}).get(name)
            was = better(old) if old else "-"
            lines.append(
                f"| {name} | {sentences.get(name, '')} | {was} | {row['audit']}, {row['monitor']} | {_fixed(row)} |\n"
            )
    lines.append("\n## Healthy loops that look unusual\n\n| loop | before | now |\n|---|---|---|\n")
    for name, verdict in now["healthy"].items():
        lines.append(f"| {name} | {before['healthy'].get(name, '-')} | {verdict} |\n")
    return "".join(lines)


_TITLES = {
    "reported": "Kinds that users report",
    "unlisted": "Kinds for which no rule was written",
    "further": "Further kinds, after the rules of the others",
    "latest": "Ten more kinds",
    "questions": "Fourteen kinds that users ask about",
    "scripts": "Sixteen kinds in training scripts",
    "loops": "Twelve kinds in plain training loops",
    "domains": "Fourteen kinds in programs of other domains",
    "held": "Eight more, kept until the rules stood",
    "forum": "Sixteen kinds after questions in forums",
    "kept": "Eight more, after the rules of those",
    "planted": "Planted in whole training scripts",
    "variations": "Variations of the kinds that users report",
    "programs": "Planted in whole scripts, which are audited as they are: 20 steps, and to their end",
    "libraries": "After bug reports of public libraries",
    "retried": "Two variations of each kind of those that was missed",
    "threads": "After reports and questions in public threads",
    "reread": "Two variations of each kind for which rules were written then",
}
_COLUMNS = "| case | fault | before | now: audit, monitor | fixed |\n|---|---|---|---|---|\n"
_HEAD = """\
# Cases

Programs with a fault, each with its fix, and healthy loops that look unusual (`python -m tests.diagnostics.cases`). A
fault is `named` if all findings above a note name it with module and cause, `partly` if a finding does next to others
or as a note, or another one is in its module; else `missed`. "Before" is the first try of each group, before any
rule was changed for it. Later these answers were widened, because new rules name the fault in other words:
weights-zero, first-token-read, loss-rewrapped, clipped-to-nothing, target-is-online, similarities-unnormalised,
boxes-in-other-format, scaled-twice, output-clamped, edges-not-offset, target-not-stopped, scheduled-per-batch,
average-is-student, view-for-transpose and constant-feature.

All were run on 2026-11-28 at d57c38f5: 231 of 247 faults are named, every fix is quiet, and 170 of 173 healthy loops
are quiet and unchanged.

Not named are faults that only the intention tells from sound training: sums of micro-batches (accumulated-undivided),
labels that no input explains (labels-random looks like a hard task), and a divergence that is raised (kl-sign looks
like a bonus). residual-dropped has three findings, one of which is its cause, and blocks-are-one is a note, since a
list may repeat a block on purpose. Of "scripts", parameter-cast-away replaces a program that torch itself refused.
Of the healthy loops, calls without gradient inside a recursion have to be declared with `expect_partial`, and a dropout
that stays on in evaluation on purpose (MODE004) looks like one that was not told the mode.

At first try 3 of the 14 of "domains" were named and 3 of their 8 healthy programs accused; answers that are codes of
later rules were added afterwards, and that of edges-not-offset was narrowed. "held" was chosen with them and run once
the rules stood: 3 of 8 named, one fix accused (an inner gradient of a meta-learner). Missed are two that a collapse of
directions or the order of rewards would show, edges without their offset, a rate that is only too small for the steps
at hand, and a seed in each step. Since then a monitor records the operations of three early steps.

"forum" was written after questions in forums, without a look at the rules: none of its 16 was named at first try, one
partly, and 2 of its 10 healthy programs were accused. Answers that are codes of later rules were added afterwards. When
its rules stood, "kept" was written and run once: 1 of 8 named, all fixes and 6 of 6 healthy programs quiet. So a new
kind is still missed more often than named. noise-of-one-step, flipped-image-alone and time-drawn-twice look sound to
everyone who does not know what is meant; loss-weights-free is not looked for.

"planted" are faults in twelve whole training scripts, and in eight that were written later, in short form. Of the 24
faults in the first scripts 4 were named before rules were changed for them (a rate of 0, a model left in evaluation
mode, the parameters of another model, a softmax over nodes), and 4 partly. When the rules stood, the eight scripts were
audited once: 3 of their 16 faults were named (an average whose factors are exchanged, a tie that is a copy, the target
among the columns), 1 partly, and 6 of the 8 healthy scripts were quiet. Four more are named since, and all are quiet.
Some faults of these scripts show in nothing that can be measured, or in what a sound program does too: the order of two
scores, a determinant that is left out, halves of a flow that are never exchanged, box losses of all anchors, a box
matched to the wrong anchor, an own view as the target, and the value of the same state. A model that starts from its
first carry in each step of supervision looks like a recurrent network that is trained on one batch several times. An
average that is never updated is a note in 20 steps, and a warning with `--all`, once the program evaluates it; so is a
probe whose optimiser holds the encoder, which is trained in a later stage.

"variations" has 44 faults and 29 healthy programs of the kinds of "reported", in other architectures and habits. They
were written without a look at the rules; then seven that were at fault themselves were corrected. With the answers as
first written 37 of the 44 were named, 2 partly and 5 missed; scaled-by-integer, gain-normalised-away and
views-without-negatives have wider ones in the table. An audit raised where the square of a gradient is 0, audit and
monitor where a step pickles its model, and 3 more healthy programs were accused. Missed is sum-so-far, a sum of losses
that is propagated after each.

"programs" are eight whole scripts with two faults each, and twelve healthy ones that look unusual, written without a
look at the rules. In 20 steps 7 of the 16 faults were named at first, 1 was a note and 8 were missed (code-copied is
named when a script runs to its end); all healthy versions were quiet, and 5 of the 12 unusual scripts were accused.
codebook was one of them, and right to be: its codes had collapsed, which was corrected. The answer of not-causal was
widened to the rule that an audit of a function already had. Missed is losses-of-both, since several losses may be
meant to train both networks.

"libraries" was written after bug reports of public libraries, without a look at the rules: 10 of its 20 faults were
named at first try, all fixes were quiet, and 3 of its 11 healthy programs were accused. Answers that are codes of later
rules were added to all ten that were missed, in three of them instead of the first answer. When the rules stood,
"retried" was written and run once: two variations of each of nine missed kinds, of which 13 of 18 were named and all
fixes quiet; two more are named since. Missed are a twin that is the next sample, which a sequence may mean, an average
of one memory, the settings of an own optimiser, and a gradient that cancels where the loss is one sum without names.
best-by-reference and its variation show only when a script runs to its end; own functions (GRAD009) are judged by an
audit alone.

"threads" was written after public bug reports and questions, without a look at the rules: 10 of its 18 faults were
named at first try, 3 partly and 5 missed; one fix was accused (LBFGS whose closure clears the gradients), and one of
its 12 healthy programs. That is a retriever whose two towers are one encoder on purpose, under two names: the intention
alone tells it from heads that are one by mistake, so it has to be declared with `expect_tied`. The answer of
all-in-one-molecule is the code of a later rule. weights-stacked-apart has a finding for each member, and others that
follow from the same fault. When the rules stood, "reread" was written and run once: two variations of each of twelve
kinds, of which 21 of 24 were named and all fixes quiet; two more are named since. One of them replaces a program that
torch itself refused. Missed is clouds-multiplied-to-one, which adds rows up by a product of matrices. With these rules
the audits of all other groups and all healthy programs were run again, and no verdict changed but that of not-causal:
it had been missed since parts of a batch were taken for other sequences, and is named again.

With the rules of "libraries" all healthy programs were run again, and all other cases by an audit, on another
processor. Two other verdicts changed, norm-of-one and advantages-in-a-column: there, rounding makes some of their tiny
gradients exactly zero. What follows from that is now folded, and both are named again.

A program that is audited as a script alone (`etrm audit script.py`) gets the verdicts of a monitor of 20 steps. RATE001
needs one whole swing, which 20 steps show up to `T_max=9`; a monitor sees longer ones.

- Before: {before}
- Now: {now}
"""


def _fixed(row: Row) -> str:
    return " ".join(sorted({row["fixed audit"], row["fixed monitor"]}))


def _sentence(part: Mapping[str, Any]) -> str:
    texts = []
    for group in _TITLES:
        rows = part.get(group, {})
        if not rows:
            continue
        counts = Counter(better(row) for row in rows.values())
        fixed = sum(_fixed(row) == "quiet" for row in rows.values())
        total = len(rows)
        texts.append(
            f"{group}: {counts['named']} of {total} named, {counts['partly']} partly; {fixed} of {total} fixed quiet"
        )
    if loops := part.get("healthy"):
        texts.append(f"healthy: {Counter(loops.values())['quiet']} of {len(loops)} quiet and unchanged")
    return "; ".join(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.diagnostics.cases")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--group", choices=(*GROUPS, "healthy"), help="this group alone")
    parser.add_argument(
        "--folder", type=Path, help="a folder of other cases: files with broken() and fixed(), or USES"
    )
    parser.add_argument("--answers", type=Path, help="a JSON file with the answers of that folder")
    parser.add_argument(
        "--write", choices=("before", "now"), help="keep the results in docs/results under this name"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.folder is not None:
        rows = _run_all(load_folder(given.folder, given.answers), given.only)
        uses = {} if given.only else run_uses(given.folder)
        _say(
            f"broken: {dict(Counter(map(better, rows.values())))}; fixed: {dict(Counter(map(_fixed, rows.values())))}"
        )
        _say(
            f"healthy: {dict(Counter(uses.values()))}; {[name for name, each in uses.items() if each != 'quiet']}"
        )
        return
    wanted = [given.group] if given.group else [*GROUPS, "healthy"]
    part: dict[str, Any] = {
        group: _run_all(cases, given.only) for group, cases in GROUPS.items() if group in wanted
    }
    if "healthy" in wanted:
        part["healthy"] = run_healthy(given.only)
    _say(_sentence(part))
    if given.write:
        path = RESULTS / "cases.json"
        kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for group, rows in part.items():
            kept.setdefault(given.write, {}).setdefault(group, {}).update(rows)
        part = kept[given.write]
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
        write_atomically(RESULTS / "cases.md", render({"before": part, "now": part, **kept}))


def _run_all(cases: Iterable[Case], only: str) -> dict[str, Row]:
    rows = {}
    for case in cases:
        if only in case.name:
            rows[case.name] = run_case(case)
            _say(f"{case.name:28} {better(rows[case.name]):8} {rows[case.name]}")
    return rows
