"""Records of one step: calls, modules and parameters, frozen, with scalars on the CPU.

A value that could not be measured is `Absent(reason)`, never 0. Each field says
what it holds and in which unit.
"""

from diagnostics.records.absent import (
    Absent,
    Number,
    root_sum_squares,
)
from diagnostics.records.model_state import (
    HiddenModule,
    LostTie,
    MergedAdapter,
    MovedBuffer,
    OddStatistics,
    Stranger,
    TargetRecord,
)
from diagnostics.records.module_record import (
    CallRecord,
    GradientState,
    ModuleRecord,
    OutputStats,
)
from diagnostics.records.parameter_record import (
    BackwardPasses,
    Carried,
    OptimizerPlace,
    ParameterRecord,
    Reach,
)
from diagnostics.records.step_record import (
    StepRecord,
    StepScalars,
)
from diagnostics.records.term_record import (
    TermReach,
    TermRecord,
)

__all__ = [
    "Absent",
    "BackwardPasses",
    "CallRecord",
    "Carried",
    "GradientState",
    "HiddenModule",
    "LostTie",
    "MergedAdapter",
    "ModuleRecord",
    "MovedBuffer",
    "Number",
    "OddStatistics",
    "OptimizerPlace",
    "OutputStats",
    "ParameterRecord",
    "Reach",
    "StepRecord",
    "StepScalars",
    "Stranger",
    "TargetRecord",
    "TermReach",
    "TermRecord",
    "root_sum_squares",
]
