"""The data pipeline: tasks, tokens, augmentation, regions, episodes and splits."""

from etrm.data.augment import Augmentation, name_augmented, parse_name
from etrm.data.check import RegionSummary, TaskSetSummary, describe
from etrm.data.collate import collate, lay_out
from etrm.data.demonstration_queries import pose_demonstrations
from etrm.data.episodes import Episodes, build_evaluation_samples
from etrm.data.region import find_region
from etrm.data.rule_stream import choose_training_tasks, open_episodes
from etrm.data.sample import DemoPair, Sample
from etrm.data.sources import TaskSet, choose_tasks, load_tasks
from etrm.data.splits import Leakage, check_leakage, find_leakage
from etrm.data.task import Grid, Pair, Task, hash_grid
from etrm.data.tokens import read_grid, read_labels, to_canvas

__all__ = [
    "Augmentation",
    "DemoPair",
    "Episodes",
    "Grid",
    "Leakage",
    "Pair",
    "RegionSummary",
    "Sample",
    "Task",
    "TaskSet",
    "TaskSetSummary",
    "build_evaluation_samples",
    "check_leakage",
    "choose_tasks",
    "choose_training_tasks",
    "collate",
    "describe",
    "find_leakage",
    "find_region",
    "hash_grid",
    "lay_out",
    "load_tasks",
    "name_augmented",
    "open_episodes",
    "parse_name",
    "pose_demonstrations",
    "read_grid",
    "read_labels",
    "to_canvas",
]
