"""What the cases of a benchmark of random changes share: unchanged packages, places, profiles and unchanged runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from etrm.config import Changes, Config, with_settings
from etrm.data import open_episodes
from etrm.errors import TrainingError
from etrm.investigation.runs.pretrained_decoder import trm_config
from etrm.investigation.unlisted.changed_code import PROFILE
from etrm.investigation.unlisted.changed_copy import copy_packages, profile_copy, read_profile
from etrm.investigation.unlisted.copy_process import RUN, CopyProcess
from etrm.investigation.unlisted.places import CodePlace, list_places
from etrm.investigation.unlisted.random_change import Profile, RandomChange, draw_change
from etrm.training.faults import build_recipe

VARIATIONS: tuple[Changes, ...] = (
    {},
    {"data": {"buckets": 2}, "train": {"accumulate": 2}},
    {"train": {"freeze_decoder_steps": 6, "lr_min_ratio": 0.1}},
    {"train": {"freeze_encoder_steps": 5, "optimizer": "adam_atan2"}},
)
"""Settings of the config under test, so that more of the code is reached."""
FROM_DECODER = frozenset({2})
"""Variations that start from a pretrained decoder."""
DECODER_STEPS = 100
"""Largest number of training steps of this decoder, which unchanged code trains."""


@dataclass
class Preparation:
    """What the cases share.

    Attributes:
        base: the config under test.
        root: the folder of the benchmark.
        process: the processes of copies.
    """

    base: Config
    root: Path
    process: CopyProcess
    _training: Lock = field(default_factory=Lock, init=False)

    @cached_property
    def packages(self) -> Path:
        """The unchanged copy."""
        path = self.root / "packages"
        if not path.exists():
            new = path.with_name("packages.new")
            shutil.rmtree(new, ignore_errors=True)
            copy_packages(new)
            new.rename(path)
        return path

    @cached_property
    def places(self) -> list[CodePlace]:
        """The places that can be changed."""
        return list_places(self.packages)

    @cached_property
    def configs(self) -> list[Config]:
        """The config with each of the variations; every checkpoint is kept, to see how far training moves weights."""
        train = {"threads": 1, "keep_checkpoints": self.base.train.steps + 1}
        found = []
        for number, variation in enumerate(VARIATIONS):
            config = with_settings(with_settings(self.base, **variation), train=train)
            if number in FROM_DECODER:
                config = with_settings(config, train={"decoder": self._decoder})
            found.append(config)
        return found

    @cached_property
    def profiles(self) -> list[Profile]:
        """The profile of each variation."""
        return [self._profile(number) for number in range(len(VARIATIONS))]

    def unchanged(self, variation: int) -> Path:
        """The run of a variation with unchanged code."""
        return self._train(self.configs[variation], self.root / "unchanged" / str(variation))

    def draw(self, seed: int) -> RandomChange:
        """The change of a seed."""
        return draw_change(seed, self.places, self.profiles, self.base.train.steps, self._buckets)

    @cached_property
    def _buckets(self) -> list[int]:
        found = []
        for config in self.configs:
            tasks = build_recipe(config).tasks(config)
            found.append(open_episodes(tasks, config.data, config.model.variant, config.train.seed).buckets)
        return found

    @cached_property
    def _decoder(self) -> Path:
        steps = min(DECODER_STEPS, self.process.tier.pretrain_steps)
        config = trm_config(with_settings(self.base, train={"threads": 1}), steps)
        return self._train(config, self.root / "decoder")

    def _train(self, config: Config, folder: Path) -> Path:
        """Train and evaluate a config with unchanged code, if that is not done yet, and return the run folder."""
        with self._training:  # several workers may want the same run
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                _check(self.process.train(self.packages, folder, config))
                (folder / "done").touch()
        return folder / RUN

    def _profile(self, variation: int) -> Profile:
        folder = self.root / "profile" / str(variation)
        file = folder / "profile.json"
        self.unchanged(variation)
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy = folder / "packages"
            copy_packages(copy, self.packages)
            profile_copy(copy)
            new = folder / "new.json"
            _check(self.process.train(copy, folder, self.configs[variation], {PROFILE: str(new)}))
            new.rename(file)
            shutil.rmtree(copy)
            shutil.rmtree(folder / RUN)
        return read_profile(file, self.places)


def _check(failure: str) -> None:
    if failure:
        raise TrainingError(
            "bench.cannot-train",
            "the unchanged code cannot train the config of the benchmark",
            got=failure,
            next_step="etrm train with the same settings shows the whole error",
        )
