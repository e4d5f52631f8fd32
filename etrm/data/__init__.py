"""Tasks, tokens, augmentation, regions, episodes and splits: everything before the model."""

from etrm.data.augment import Augmentation, augmented_name, parse_name
from etrm.data.check import RegionSummary, TaskSetSummary, describe
from etrm.data.collate import collate
from etrm.data.episodes import Episodes, evaluation_samples
from etrm.data.region import region
from etrm.data.sample import DemoPair, Sample
from etrm.data.sources import TaskSet, chosen_tasks, load_tasks
from etrm.data.splits import Leakage, check_leakage, leakage
from etrm.data.task import Grid, Pair, Task, grid_hash
from etrm.data.tokens import grid_from_canvas, labels_from_canvas, to_canvas

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
    "augmented_name",
    "check_leakage",
    "chosen_tasks",
    "collate",
    "describe",
    "evaluation_samples",
    "grid_from_canvas",
    "grid_hash",
    "labels_from_canvas",
    "leakage",
    "load_tasks",
    "parse_name",
    "region",
    "to_canvas",
]
