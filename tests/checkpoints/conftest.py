"""The invented tasks and the preset of the trainer's tests."""

from tests.training.conftest import (  # noqa: F401  # fixtures
    _seeded,
    bomb,
    damage,
    moved,
    run_bytes,
    settings_of_smoke,
    smoke,
    tasks_folder,
    weights,
)
