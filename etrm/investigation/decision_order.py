"""The order in which an investigation decides: what proves a cause soonest comes first.

The start of the run is compared with the reference, and a departure is a verdict at once. If nothing departs, the
hypotheses that need no long run are decided, while the whole run trains and its steps are compared. Other long runs
follow. No verdict is announced that a later comparison may change.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from etrm.atomic_files import write_atomically
from etrm.config import Config
from etrm.errors import ConfigError, EtrmError
from etrm.extensions import outside_digests
from etrm.investigation.announced_verdicts import AnnouncedVerdicts
from etrm.investigation.course_watch import CourseWatch
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.planned_runs import is_whole
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_verdicts import add_recorded, add_to_others, select_facts
from etrm.investigation.records import Verdict
from etrm.investigation.reference_verdict import (
    STUDY,
    compare_course,
    compare_loading,
    compare_start,
    course_job,
    decide_from_reference,
    with_reference,
)
from etrm.investigation.result import HypothesisResult, ReferenceResult
from etrm.investigation.root_cause import correct_over_all, find_root_cause, mark_downstream
from etrm.investigation.runs.background_job import BackgroundJob
from etrm.investigation.runs.pretrained_decoder import UnkeptDecoderError
from etrm.investigation.session import Investigation

OnDeparture = Callable[[ReferenceResult], None]


@dataclass
class DecisionOrder:
    """Decides the hypotheses of an investigation.

    Attributes:
        investigation: the investigation.
        chosen: the ids of the hypotheses to decide.
        until_root_cause: whether to stop at the first proven cause.
        facts: the facts of a recorded run.
        announced: the verdicts that were announced.
        on_departure: called where the run departs from the reference and that decides no hypothesis.
    """

    investigation: Investigation
    chosen: Sequence[str]
    until_root_cause: bool
    facts: Sequence[RecordedFact]
    announced: AnnouncedVerdicts
    on_departure: OnDeparture
    _early: dict[str, HypothesisResult] = field(default_factory=dict, init=False)
    _departed: bool = field(default=False, init=False)

    def compare(self, given: Config, recorded: ReferenceResult | None = None) -> ReferenceResult:
        """Compare the run under test with the reference: its start, and where that does not depart the whole run.

        The decision of some hypotheses, which is meant to be short, leaves the whole run out, and so does a search for
        a root cause that is proven before. Where several jobs may run at a time, the whole run trains from the
        beginning, and is stopped where it is not needed.

        Args:
            given: the config under test with its own store and workers, which no other run of the investigation has.
            recorded: the departure of a recorded run, which is the answer already.
        """
        if recorded is not None:
            self._announce(recorded)
            return recorded
        if not (self.until_root_cause or is_whole(self.investigation, self.chosen)):
            found = compare_start(self.investigation, given)
        else:
            with self._train_course() as course:
                found = compare_start(self.investigation, given)
                if found.stage is None:
                    found = compare_loading(self.investigation, found)
                watch = CourseWatch(self.investigation, found, self._announce)
                ended = found.stage is not None or self._decide_meanwhile(watch, course)
            found = found if ended else self._compare_whole(found, watch)
        if found.stage is not None:
            self._announce(found)
        return found

    @contextmanager
    def _train_course(self) -> Iterator[BackgroundJob | None]:
        """Train the whole run meanwhile, where other jobs may run at the same time: they are one fewer."""
        one = self.investigation
        if one.launcher.jobs == 1:
            yield None
            return
        launcher = one.launcher
        job = course_job(one, until_departure=self.until_root_cause)
        with BackgroundJob(one.root, job, launcher) as course:
            one.launcher = replace(launcher, jobs=launcher.jobs - 1)
            try:
                yield course
            finally:
                one.launcher = launcher

    def _decide_meanwhile(self, watch: CourseWatch, course: BackgroundJob | None) -> bool:
        """Decide what is short while the whole run trains, and train the decoder of the other long runs.

        Returns:
            Whether a search for a root cause ends here.
        """
        one = self.investigation
        with watch.follow():
            self._decide_short()
            if self.until_root_cause and find_root_cause(self._early).confidence == "proven":
                return True
            if course is not None:
                if not self.until_root_cause and one.takes_decoder:
                    with suppress(EtrmError):  # the hypothesis that needs the decoder says why there is none
                        _ = one.decoder
                course.wait(lambda done, total: one.progress(STUDY, done, total))
        return False

    def _compare_whole(self, start: ReferenceResult, watch: CourseWatch) -> ReferenceResult:
        """Compare the whole run, and train what is missing of it."""
        with watch.follow():
            return compare_course(
                self.investigation, start, until_departure=self.until_root_cause, known=watch.steps
            )

    def decide(self, reference: ReferenceResult) -> dict[str, HypothesisResult]:
        """Hypotheses in order: decided, or with the reason why they were not run.

        One that does not apply is left out unless it was chosen.

        Args:
            reference: the comparison with the reference.
        """
        decided: dict[str, HypothesisResult] = {}
        variant = self.investigation.subject.model.variant
        for id, hypothesis in all_hypotheses().items():
            if not hypothesis.applies_to(self.investigation.subject):
                if id in self.chosen:
                    words = f"It does not apply to model.variant {variant!r}."
                    decided[id] = hypothesis.not_run(CommonReason.NOT_APPLICABLE, words)
            elif words := self._reason_to_stop(hypothesis, decided, reference):
                decided[id] = hypothesis.not_run(CommonReason.STOPPED_AT_ROOT_CAUSE, words)
            elif self.until_root_cause and id == reference.hypothesis:
                decided[id] = self.announced.reach(decide_from_reference(hypothesis, reference))
            elif id in self.chosen:
                decided[id] = self.announced.reach(with_reference(self._decide(hypothesis), reference))
            else:
                words = f"Not selected: --hypotheses {','.join(self.chosen)}."
                decided[id] = hypothesis.not_run(CommonReason.NOT_SELECTED, words)
        return add_to_others(mark_downstream(correct_over_all(decided)), self.facts)

    def _reason_to_stop(
        self, hypothesis: Hypothesis, decided: dict[str, HypothesisResult], reference: ReferenceResult
    ) -> str:
        """Why a search for a root cause does not decide a hypothesis, or nothing.

        Where the reference names a cause, one before it may be the root of that, but only long runs or statistics do
        not show a broken part better than the reference does.
        """
        if not self.until_root_cause:
            return ""
        cause = find_root_cause(decided)
        if cause.confidence == "proven":
            return f"The investigation stopped at the root cause {cause.id}."
        if reference.hypothesis in (None, hypothesis.id) or self._is_short(hypothesis):
            return ""
        return f"The investigation stopped at {reference.hypothesis}, which the reference names."

    def _decide_short(self) -> None:
        """Decide the hypotheses that need no long run, and announce those that hold, which no later run can change.

        A search for a root cause stops there, or where an earlier hypothesis needs a long run.
        """
        for id, hypothesis in all_hypotheses().items():
            if id not in self.chosen or not hypothesis.applies_to(self.investigation.subject):
                continue
            if self._is_short(hypothesis):
                found = self._decide(hypothesis)
                if found.verdict is Verdict.VALIDATED:
                    self.announced.reach(found)
            if self.until_root_cause and (
                id not in self._early or find_root_cause(self._early).confidence == "proven"
            ):
                break

    def _is_short(self, hypothesis: Hypothesis) -> bool:
        try:
            return hypothesis.is_short(self.investigation)
        except Exception:  # noqa: BLE001  (code under test may raise anything; deciding it reports the error)
            return True

    def _decide(self, hypothesis: Hypothesis) -> HypothesisResult:
        """A hypothesis with what a recorded run shows, decided once."""
        if hypothesis.id not in self._early:
            found = decide_hypothesis(hypothesis, self.investigation)
            self._early[hypothesis.id] = add_recorded(found, select_facts(self.facts, hypothesis.id))
        return self._early[hypothesis.id]

    def _announce(self, reference: ReferenceResult) -> None:
        """Announce the first departure: as the verdict on the hypothesis to which it belongs, if that is decided."""
        if self._departed:
            return
        self._departed = True
        hypothesis = all_hypotheses().get(reference.hypothesis or "")
        if (
            hypothesis is not None
            and hypothesis.applies_to(self.investigation.subject)
            and (self.until_root_cause or hypothesis.id in self.chosen)
        ):
            self.announced.reach(decide_from_reference(hypothesis, reference))
        else:
            self.on_departure(reference)


def decide_hypothesis(hypothesis: Hypothesis, investigation: Investigation) -> HypothesisResult:
    """The result of a hypothesis, with the hash of its code if that is from outside the packages.

    Code that is broken may raise anything. That ends the hypothesis in an ERROR and not the investigation, and the
    traceback is kept in the folder.

    Raises:
        EtrmError: the folder or the settings cannot be used.
        ConfigError: it returns something other than a result with its own id.
    """
    try:
        found: object = hypothesis.decide(investigation)
    except Exception as error:
        if isinstance(error, EtrmError) and not isinstance(error, UnkeptDecoderError):
            raise
        file = investigation.root / f"{hypothesis.id}.traceback.txt"
        write_atomically(file, "".join(traceback.format_exception(error)))
        lines = str(error).splitlines() or [""]
        words = f"{type(error).__name__}: {lines[0]} The traceback is in {file}."
        return hypothesis.statement.decided(Judgement(Verdict.ERROR, (CommonReason.CRASHED,), words))
    if not isinstance(found, HypothesisResult) or found.id != hypothesis.id:
        raise ConfigError(
            "hypothesis.wrong-result",
            f"the hypothesis {hypothesis.id} returned no result of its own",
            got=f"the result of {found.id}" if isinstance(found, HypothesisResult) else type(found).__name__,
            allowed="what self.statement.decided(...) or self.not_run(...) returns",
        )
    return found.replace(outside_code=tuple(outside_digests([type(hypothesis)])))
