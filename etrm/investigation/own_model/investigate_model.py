"""A whole investigation of a model that is not of this project: hypotheses in order, root cause, ``result.json``."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from etrm.atomic_files import write_atomically
from etrm.checkpoints.folder_lock import lock_folder
from etrm.checkpoints.run_folder import describe_environment
from etrm.errors import ArgumentError, ConfigError, EtrmError, ExtensionError, RunFolderError
from etrm.extensions import outside_digests, source_digest
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.own_model.adapter_errors import is_refusal
from etrm.investigation.own_model.batch_rows import hash_rows, list_tensor_keys
from etrm.investigation.own_model.check_adapter import check_adapter
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    OwnHypothesis,
    OwnModelReason,
    OwnModelSession,
)
from etrm.investigation.own_model.hypotheses.own_capacity import OwnCapacity
from etrm.investigation.own_model.hypotheses.own_context import OwnContext
from etrm.investigation.own_model.hypotheses.own_data import OwnData, names_pairs
from etrm.investigation.own_model.hypotheses.own_dynamics import OwnDynamics
from etrm.investigation.own_model.hypotheses.own_evaluator import OwnEvaluator
from etrm.investigation.own_model.hypotheses.own_gradients import OwnGradients
from etrm.investigation.own_model.hypotheses.own_loading import OwnLoading
from etrm.investigation.own_model.model_factory import ModelFactory, load_factory
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from etrm.investigation.records import Code, Verdict
from etrm.investigation.result import HypothesisResult, Reproduce, Result
from etrm.investigation.root_cause import (
    correct_over_all,
    find_root_cause,
    mark_downstream,
    select_causes_too,
)

OWN_HYPOTHESES: dict[str, OwnHypothesis] = {
    one.statement.id: one
    for one in (
        OwnData(),
        OwnEvaluator(),
        OwnLoading(),
        OwnGradients(),
        OwnContext(),
        OwnDynamics(),
        OwnCapacity(),
    )
}
"""The hypotheses in the order in which they are decided: a fault of an earlier one can show in later ones."""
INSPECTED_SEEDS = 2
"""Seeds of the inspections, which repeat what does not depend on a seed."""
SHORT_SEEDS = 5
"""Seeds of the short runs: as many as a statistical verdict needs."""
NO_CAUSE = (
    "No tested hypothesis explains a failure to learn. Give the adapter the inputs of what was NOT RUN, or more "
    "training steps (steps=...)."
)
"""Next step where nothing was found."""
PAIRS_NOT_CHECKED = (
    "H5 did not compare labels and demonstrations with samples, and wrong pairs look like H7: give ids and sample "
    "first."
)
"""Addition to the next step where the adapter names no row's own pairs and H7, or nothing, was found."""


def investigate_model(
    model: str | Callable[..., ModelUnderTest],
    out: Path | str,
    *,
    hypotheses: Sequence[str] = (),
    seeds: int | None = None,
    until_root_cause: bool = False,
    command: str = "",
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    on_verdict: Callable[[HypothesisResult], None] = lambda hypothesis: None,
    on_refusal: Callable[[ExtensionError], None] = lambda error: None,
) -> Result:
    """Decide hypotheses about a model and write ``out/result.json``, which :func:`reports.read_and_render` renders.

    Args:
        model: the factory of the model under test, a function ``make_model(seed)`` or its name
            ``my_model.py:make_model``.
        out: folder of the investigation.
        hypotheses: ids of the hypotheses to decide; all by default.
        seeds: number of seeds of every arm, at least 1; by default 2 for inspections and 5 for short runs.
        until_root_cause: whether to stop at the first proven cause.
        command: the command line, for the report.
        progress: called with a phase, the parts done and the parts in all.
        on_verdict: called with each hypothesis as it is decided, unless later ones may change its verdict.
        on_refusal: called where a function of the adapter that worked at first raises or returns something else
            later. That hypothesis ends in an ERROR, and the others are decided.

    Raises:
        ArgumentError: the number of seeds is below 1.
        ExtensionError: the code cannot be loaded, or the adapter is wrong.
        ConfigError: a hypothesis is not known.
        FolderInUseError: another process investigates in the folder.
        RunFolderError: the folder belongs to another investigation, or cannot be written.
    """
    if seeds is not None and seeds < 1:
        raise ArgumentError("investigate.too-few-seeds", f"the number of seeds {seeds} is below 1")
    began, where, root = time.perf_counter(), describe_environment(), Path(out)
    chosen = choose_own(hypotheses)
    factory = load_factory(model) if isinstance(model, str) else ModelFactory(model, _name_of(model))
    subject = check_adapter(factory)
    with _claim(root, factory):
        session = OwnModelSession(
            factory,
            subject,
            root,
            tuple(range(seeds or INSPECTED_SEEDS)),
            tuple(range(seeds or SHORT_SEEDS)),
            progress,
            on_refusal,
        )
        data_hash = _hash_first_batch(subject)

        def reached(found: HypothesisResult) -> HypothesisResult:
            if found.verdict is Verdict.NOT_RUN:
                return found
            found = found.replace(decided_after_s=round(time.perf_counter() - began, 1))
            if found.p_value is None:
                on_verdict(found)
            return found

        decided: dict[str, HypothesisResult] = {}
        for id, hypothesis in OWN_HYPOTHESES.items():
            decided[id] = reached(_decide(hypothesis, session, chosen, decided, until_root_cause))
        decided = mark_downstream(correct_over_all(decided))
        cause = find_root_cause(decided)
        result = Result(
            subject=factory.name,
            cause_code=cause.code,
            root_cause=cause.id,
            root_cause_confidence=cause.confidence,
            sentence=cause.sentence,
            next_step=_name_next_step(cause.id, decided, subject),
            order=tuple(decided),
            hypotheses=decided,
            additional_findings=tuple(session.findings),
            reproduce=_reproduce(session, command, where, data_hash, time.perf_counter() - began),
        )
        result.write(root)
        return result


def choose_own(names: Sequence[str]) -> tuple[str, ...]:
    """The ids of the hypotheses in texts, each of them ids with commas between them, or ``all``; all by default.

    Raises:
        ConfigError: one of them is not known.
    """
    ids = dict.fromkeys(name.strip() for text in names for name in text.split(",") if name.strip())
    unknown = [name for name in ids if name not in OWN_HYPOTHESES and name != "all"]
    if unknown:
        raise ConfigError(
            "investigate.unknown-own-hypothesis",
            f"unknown hypothesis {unknown[0]!r}",
            allowed=f"all, or some of {', '.join(OWN_HYPOTHESES)}",
            next_step="etrm explain H1 says what a hypothesis tests",
        )
    return tuple(OWN_HYPOTHESES) if not ids or "all" in ids else tuple(ids)


def _decide(
    hypothesis: OwnHypothesis,
    session: OwnModelSession,
    chosen: Sequence[str],
    decided: dict[str, HypothesisResult],
    until_root_cause: bool,
) -> HypothesisResult:
    """The result of a hypothesis, or the reason why it was not run.

    Code that is broken may raise anything. That ends the hypothesis in an ERROR, and the traceback is kept.
    """
    id, cause = hypothesis.statement.id, find_root_cause(decided)
    if until_root_cause and cause.confidence == "proven":
        words = f"The investigation stopped at the root cause {cause.id}."
        return hypothesis.not_run(CommonReason.STOPPED_AT_ROOT_CAUSE, words)
    if id not in chosen:
        return hypothesis.not_run(
            CommonReason.NOT_SELECTED, f"Not selected: --hypotheses {','.join(chosen)}."
        )
    try:
        if missing := hypothesis.find_missing(session.subject):
            return hypothesis.not_run(OwnModelReason.INPUT_MISSING, f"{missing[:1].upper()}{missing[1:]}.")
        found = hypothesis.decide(session)
        other = found.explained_by
        if other and OWN_HYPOTHESES[other].find_missing(session.subject):
            return found.replace(explained_by=None)  # the other one cannot be known
        return found
    except EtrmError as error:
        code: Code = CommonReason.SUBJECT_NOT_BUILT
        if is_refusal(error):
            code = OwnModelReason.ADAPTER_REFUSED
            session.on_refusal(error)
        judgement = Judgement(Verdict.ERROR, (code,), f"{error.brief}.")
    except Exception as error:  # noqa: BLE001  (code under test may raise anything)
        file = session.root / f"{id}.traceback.txt"
        write_atomically(file, "".join(traceback.format_exception(error)))
        first = (str(error).splitlines() or [""])[0]
        words = f"{type(error).__name__}: {first} The traceback is in {file}."
        judgement = Judgement(Verdict.ERROR, (CommonReason.CRASHED,), words)
    return hypothesis.statement.decided(judgement)


def _name_next_step(cause: str | None, decided: dict[str, HypothesisResult], subject: ModelUnderTest) -> str:
    if cause is None and (step := select_causes_too(decided)):
        return step
    if cause is None and any(hypothesis.verdict is Verdict.ERROR for hypothesis in decided.values()):
        return "Fix what the ERROR names, then run the same command again."
    step = NO_CAUSE if cause is None else OWN_HYPOTHESES[cause].next_step
    checked = names_pairs(subject, subject.batch(0))
    return step if checked or cause not in (None, "H7") else f"{PAIRS_NOT_CHECKED} {step}"


@contextmanager
def _claim(root: Path, factory: ModelFactory) -> Iterator[None]:
    """Lock a folder and note whose investigation it holds, or refuse it if it holds another one.

    Raises:
        FolderInUseError: another process investigates in the folder.
        RunFolderError: the folder belongs to another investigation, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(root)
    except OSError as error:
        raise _unusable(root, error) from error
    with lock:
        _note_subject(root, {"own_model": factory.name})
        yield


def _note_subject(root: Path, wanted: dict[str, str]) -> None:
    file = root / "subject.json"
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else wanted
        if found == wanted:
            write_atomically(file, json.dumps(wanted, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise _unusable(root, error) from error
    if found != wanted:
        raise RunFolderError(
            "investigate.other-own-model",
            f"{root} contains an investigation of something else",
            got=str(found.get("own_model") or found.get("name")),
            allowed=wanted["own_model"],
            next_step="give another --out",
        )


def _unusable(root: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        "investigate.own-model-folder",
        f"{root} cannot be used for an investigation",
        got=str(error),
        next_step="give another --out",
    )


def _hash_first_batch(subject: ModelUnderTest) -> str:
    batch = subject.batch(0)
    return hashlib.sha256("".join(hash_rows(batch, list_tensor_keys(batch))).encode()).hexdigest()


def _reproduce(
    session: OwnModelSession, command: str, where: dict[str, Any], data_hash: str, seconds: float
) -> Reproduce:
    subject, factory = session.subject, session.factory
    return Reproduce(
        command=command or f"investigate_model({factory.name!r}, ...)",
        commit=where["commit"],
        dirty=where["dirty"],
        seeds=session.short_seeds,
        data_hash=data_hash,
        versions=where["versions"],
        hardware=where["hardware"],
        threads=torch.get_num_threads(),
        wall_s=round(seconds, 1),
        config={"own_model": _describe(subject) | {"factory": factory.name}},
        code={"own model": source_digest(factory.make)} if outside_digests([factory.make]) else {},
    )


def _describe(subject: ModelUnderTest) -> dict[str, Any]:
    """The fields of the adapter that are values, and the names of the others that are given."""
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(subject).items()
        if isinstance(value, (str, int, float, tuple)) and value != ()
    }
    given = [
        name for name, value in vars(subject).items() if callable(value) or (name == "pretrained" and value)
    ]
    weights = sum(p.numel() for p in subject.model.parameters())
    return plain | {"given": sorted(given), "parameters": weights, "model": type(subject.model).__name__}


def _name_of(make: Callable[..., ModelUnderTest]) -> str:
    return f"{getattr(make, '__module__', '')}:{getattr(make, '__qualname__', type(make).__name__)}"
