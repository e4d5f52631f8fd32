"""How much an investigation spends: seeds and steps by tier."""

from __future__ import annotations

from dataclasses import dataclass

from etrm.errors import ConfigError
from etrm.evaluation.statistics import FULL_SEEDS

LADDER = 2
"""How many times as many seeds the ladder of H7 has: what a stronger encoder gains is less than what the ceiling does,
and varies more, and it is climbed only where there is a gap."""


@dataclass(frozen=True)
class Tier:
    """A budget.

    Attributes:
        name: the name of the tier, as ``--tier`` takes it.
        seeds: the number of seeds of every arm except the short ones.
        pretrain_steps: the training steps of the TRM decoder, if the config under test names no decoder.
        frozen_steps: the largest number of steps of the frozen-decoder arms; the config's own steps if they are fewer.
        short_steps: the steps of the runs on few tasks that decide H4 and H7, whatever the config's own steps are.
        short_seeds: the number of seeds of those runs. They are cheap, and with three seeds an interval is 1.8 times
            as wide as with five (paired t).
        reference_steps: the largest number of steps of the run whose steps are compared with the reference.
        rule_steps: the steps of H7's runs on the rule family, evaluated on held-out rules; 0 leaves them out.
    """

    name: str
    seeds: int
    pretrain_steps: int
    frozen_steps: int
    short_steps: int
    short_seeds: int = FULL_SEEDS
    reference_steps: int = 400
    rule_steps: int = 0

    @property
    def most_seeds(self) -> int:
        """Of any arm: two investigations whose first seeds lie so far apart share none."""
        return max(self.seeds, LADDER * self.short_seeds)


TIERS = {
    tier.name: tier
    for tier in (
        Tier("screening", seeds=3, pretrain_steps=800, frozen_steps=200, short_steps=100),
        Tier(
            "standard",
            seeds=FULL_SEEDS,
            pretrain_steps=800,
            frozen_steps=200,
            short_steps=100,
            rule_steps=600,
        ),
        Tier(
            "full",
            seeds=FULL_SEEDS,
            pretrain_steps=4000,
            frozen_steps=2000,
            short_steps=400,
            rule_steps=2000,
            reference_steps=4000,
        ),
    )
}
"""Screening decides H4 and H7 and names candidates of H3; the others can validate all that is statistical; only the
last has long runs."""
SCREENING = TIERS["screening"]


def find(name: str) -> Tier:
    """The tier of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TIERS:
        raise ConfigError(
            "investigate.unknown-tier",
            f"unknown --tier {name!r}",
            allowed=", ".join(TIERS),
            next_step="etrm investigate --help says what each costs",
        )
    return TIERS[name]
