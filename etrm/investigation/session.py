"""What the hypotheses of one investigation share: the config under test, decoders, runs and what they logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch import Size, nn

from etrm.config import SIDE, Config, with_settings
from etrm.errors import EtrmError, FolderInUseError
from etrm.investigation.controls import control_preset
from etrm.investigation.measurements.context_path import ContextTrace, trace_context
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.budget import SCREENING, Tier
from etrm.investigation.runs.jobs import Job, OnProgress, RunKey, run_jobs
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.runs.pretrained_decoder import finished, folder_of, pretrained, trm_config
from etrm.model.construct import build_variant
from etrm.model.core import Core
from etrm.training.faults import apply_faults

Inspected = TypeVar("Inspected")
BRIEF_STEPS = 10
"""Steps of a TRM that is good enough to see whether loading works."""
DECODER_ARM = ArmId("trm-decoder")


@dataclass
class Investigation:
    """What the hypotheses share.

    Attributes:
        root: the folder of the investigation.
        subject: the config under test, faults included.
        seeds: the seeds of every arm except those of the short runs.
        launcher: the launcher of training runs.
        progress: called with a phase, the steps done and the steps in all.
        tier: the budget.
        frozen_decoder: whether that experiment follows, so that its arms can be trained at once where a hypothesis
            needs one of them.
        short_seeds: seeds of the short runs on few tasks; ``seeds`` by default.
    """

    root: Path
    subject: Config
    seeds: tuple[int, ...]
    launcher: Launcher
    progress: Callable[[str, int, int], None]
    tier: Tier = SCREENING
    frozen_decoder: bool = False
    short_seeds: tuple[int, ...] = ()
    _loaded: dict[RunKey, LoadedRun] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.short_seeds = self.short_seeds or self.seeds

    @cached_property
    def effective(self) -> Config:
        """The settings that the runs under test really use, as their records say."""
        return apply_faults(self.subject)

    @cached_property
    def takes_decoder(self) -> bool:
        """Whether the model can start from the weights of a TRM: it has an encoder, and its core has these weights.

        If code from outside makes no model, the answer is yes: the run that fails says why.
        """
        model = self.subject.model
        if not model.own_variant:
            return model.has_encoder and model.recursive
        try:
            core = build_variant(model, puzzles=1).core
        except EtrmError:
            return True
        return isinstance(core, Core) and _list_shapes(core) == _list_shapes(Core(model, SIDE))

    @cached_property
    def decoder(self) -> Path:
        """The run folder of the TRM that the config under test starts from, trained now where it names none."""
        phase, steps, elsewhere = "TRM decoder", self.tier.pretrain_steps, self.launcher.elsewhere
        if self.subject.train.decoder is None:
            config = trm_config(self.subject, steps)
            if not finished(config, elsewhere):
                job = Job(DECODER_ARM, 0, config, place=folder_of(config, elsewhere))
                with suppress(FolderInUseError):  # another investigation trains it, which is waited for below
                    self.run(phase, [job])
        # Found, or tried again, so that an error is raised here.
        return self._trm(phase, steps, elsewhere)

    @cached_property
    def brief_decoder(self) -> Path:
        """The same after a few steps: it loads, or fails to, like any other."""
        return self._trm("brief TRM decoder", min(BRIEF_STEPS, self.tier.pretrain_steps))

    @cached_property
    def first_context_trace(self) -> list[ContextTrace]:
        """The trace of the context with the first seed, if the config can be built."""
        return self.inspect_seeds("context", self.subject, trace_context, self.seeds[:1])[0]

    @cached_property
    def context_traces(self) -> tuple[list[ContextTrace], str]:
        """The trace of the context with each seed; and the error of a seed that has none, or nothing."""
        return self.inspect_seeds("context", self.subject, trace_context)

    def inspect_seeds(
        self,
        phase: str,
        subject: Config,
        inspect: Callable[[Config], Inspected],
        seeds: Sequence[int] | None = None,
    ) -> tuple[list[Inspected], str]:
        """Inspect a config with each seed.

        Args:
            phase: shown as progress.
            subject: the config.
            inspect: called with the config of each seed.
            seeds: those of the investigation by default.

        Returns:
            What was found, and the first error of a config that could not be built, or nothing.
        """
        seeds = self.seeds if seeds is None else seeds
        found: list[Inspected] = []
        problem = ""
        for done, seed in enumerate(seeds):
            self.progress(phase, done, len(seeds))
            try:
                found.append(inspect(with_seed(subject, seed)))
            except EtrmError as error:
                problem = problem or error.brief
        return found, problem

    def _trm(self, phase: str, steps: int, elsewhere: str = "") -> Path:
        if self.subject.train.decoder is not None:
            return self.subject.train.decoder
        config = trm_config(self.subject, steps)
        return pretrained(config, lambda done, total: self.progress(phase, done, total), elsewhere)

    @cached_property
    def control_decoder(self) -> Path:
        """The decoder of the control preset."""
        smoke = control_preset()
        config = trm_config(smoke, smoke.train.steps)
        return pretrained(config, lambda done, total: self.progress("control decoder", done, total))

    def starting_from(self, decoder: Path) -> Config:
        """The config under test with a decoder to start from, if it takes one."""
        return with_settings(self.subject, train={"decoder": decoder}) if self.takes_decoder else self.subject

    def run(self, phase: str, jobs: Sequence[Job]) -> list[LoadedRun]:
        """The runs of some jobs, made now or before. The files of each are read once."""
        report: OnProgress = lambda done, total: self.progress(phase, done, total)  # noqa: E731
        self._loaded |= run_jobs(self.root, jobs, self.launcher, report, self._loaded)
        return [self._loaded[job.key] for job in jobs]

    def try_run(self, phase: str, job: Job) -> LoadedRun | None:
        """The run of a job; None where it was stopped before it ended."""
        report: OnProgress = lambda done, total: self.progress(phase, done, total)  # noqa: E731
        self._loaded |= run_jobs(self.root, [job], self.launcher, report, self._loaded)
        return self._loaded.get(job.key)

    def control_config(self, faults: Sequence[str] = ()) -> Config:
        """The control preset with the control decoder and some faults."""
        return with_settings(control_preset(faults), train={"decoder": self.control_decoder})

    def finished(self, arm: ArmId) -> list[LoadedRun]:
        """The runs of an arm that have finished in this investigation."""
        return [run for (its, _), run in self._loaded.items() if its == arm and run.finished]

    def finished_under_test(self) -> list[list[LoadedRun]]:
        """The finished runs of each arm that is the run under test, those of the longest runs first."""
        arms = dict.fromkeys(arm for arm, _ in self._loaded if arm.role == "subject")
        by_arm = [found for arm in arms if (found := self.finished(arm))]
        return sorted(by_arm, key=lambda runs: -max(run.steps for run in runs))


def with_seed(config: Config, seed: int) -> Config:
    """The config with another seed, on one thread."""
    return with_settings(config, train={"seed": seed, "threads": 1})


def _list_shapes(core: nn.Module) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in core.state_dict().items()}
