"""Which arm a run belongs to, as a value; its name is a folder."""

from __future__ import annotations

from dataclasses import dataclass

from etrm.investigation.records import Role


@dataclass(frozen=True)
class ArmId:
    """The identity of an arm. Names are built here and read back nowhere.

    Attributes:
        study: the study that its runs belong to, such as ``h2`` or ``few``.
        setting: the name of the change, or the study's word for no change; empty if study and control say everything.
        control: the control that it belongs to, a fault or ``healthy``; empty for an arm of the run under test.
        role: the role of its runs; ``subject`` is the run under test, unchanged except for its length and tasks.
    """

    study: str
    setting: str = ""
    control: str = ""
    role: Role = "treatment"

    @property
    def name(self) -> str:
        """As results and folders have it. It must not change: folders of earlier versions are found by it."""
        return "-".join(filter(None, (self.study, self.control, self.setting)))

    def folder(self, seed: int) -> str:
        """The folder of its run with a seed, relative to that of the investigation."""
        return f"runs/{self.name}/seed{seed}"
