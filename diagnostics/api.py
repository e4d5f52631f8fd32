"""Everything that `import diagnostics` offers; the package loads it, and torch, at the first use."""

from diagnostics.capture import RowsFunction
from diagnostics.drift import DriftProbe
from diagnostics.findings import Evidence, Finding, Severity, to_json, to_markdown
from diagnostics.frozen import Fingerprint, compare, fingerprint
from diagnostics.monitor import Monitor
from diagnostics.records import (
    Absent,
    CallRecord,
    ModuleRecord,
    Number,
    OptimizerPlace,
    OutputStats,
    ParameterRecord,
    Reach,
    StepRecord,
    StepScalars,
)
from diagnostics.representations import (
    Representation,
    cross_sample_share,
    effective_rank,
    representation,
    task_retrieval,
)
from diagnostics.rules import RULES, Rule, explain

__all__ = [
    "RULES",
    "Absent",
    "CallRecord",
    "DriftProbe",
    "Evidence",
    "Finding",
    "Fingerprint",
    "ModuleRecord",
    "Monitor",
    "Number",
    "OptimizerPlace",
    "OutputStats",
    "ParameterRecord",
    "Reach",
    "Representation",
    "RowsFunction",
    "Rule",
    "Severity",
    "StepRecord",
    "StepScalars",
    "compare",
    "cross_sample_share",
    "effective_rank",
    "explain",
    "fingerprint",
    "representation",
    "task_retrieval",
    "to_json",
    "to_markdown",
]
