"""Runs with the pretrained decoder frozen: the arm whose encoder trains, and its control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etrm.config import Config, with_settings
from etrm.investigation.comparison.screening import shorten_run, with_steps
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation, with_seed

SMALLEST_EFFECT = 0.05
"""Smallest difference of held-in loss that matters, in nats per token; fixed before the run."""
TRAINED = ArmId("frozen", "trained")
TRAINED_LONGER = ArmId("frozen", "trained-longer")
LONGER = 3
"""Least number of times the usual steps in the longer runs, as in H4's."""
BLIND = ArmId("frozen", "foreign-demos", role="control")


def train_with_frozen_decoder(investigation: Investigation, phase: str) -> list[LoadedRun]:
    """The runs with the encoder trained and the decoder frozen.

    Where the experiment follows, the runs of its other arm are made at the same time.
    """
    jobs = plan_jobs(investigation, TRAINED)
    others = plan_blind_jobs(investigation) if investigation.frozen_decoder else []
    return investigation.run(phase, [*jobs, *others])[: len(jobs)]


def train_longer(investigation: Investigation, phase: str) -> list[LoadedRun]:
    """The same runs in at least three times the steps, and in those of the tier if the config's own are fewer."""
    usual = plan_jobs(investigation, TRAINED_LONGER)
    jobs = [
        replace(
            job,
            config=with_steps(
                job.config, max(investigation.tier.frozen_steps, LONGER * job.config.train.steps)
            ),
        )
        for job in usual
    ]
    return investigation.run(phase, jobs)


def plan_blind_jobs(investigation: Investigation) -> list[Job]:
    """The other arm: only its losses are compared, so it has no held-out evaluation and the monitor measures seldom."""
    jobs = plan_jobs(investigation, BLIND, ("demos-from-other-task",))
    seldom = {"every": investigation.subject.monitor.probe_every}
    return [replace(job, config=with_settings(job.config, monitor=seldom), held_out=False) for job in jobs]


def plan_jobs(investigation: Investigation, arm: ArmId, faults: Sequence[str] = ()) -> list[Job]:
    """The jobs of an arm with the decoder frozen, one for each seed."""
    decoder = investigation.decoder
    configs = {
        seed: frozen_config(investigation, decoder, seed, faults, investigation.tier.frozen_steps)
        for seed in investigation.seeds
    }
    return [Job(arm, seed, config, measure=True) for seed, config in configs.items()]


def frozen_config(
    investigation: Investigation, decoder: Path, seed: int, faults: Sequence[str], steps: int
) -> Config:
    """The config under test with a pretrained decoder that stays fixed, for ``steps`` steps or its own if fewer."""
    subject = investigation.starting_from(decoder)
    subject = shorten_run(subject, steps)
    train = {
        "freeze_encoder_steps": 0,
        "freeze_decoder_steps": subject.train.steps,
        "checkpoint_every": subject.train.steps,
    }
    return with_seed(with_settings(subject, train=train, faults=(*subject.faults, *faults)), seed)
