"""Everything that `import diagnostics` offers; the package loads it, and torch, at the first use."""

from diagnostics.auditing.audit import Audit, audit
from diagnostics.auditing.probes.context_use import ContextUse
from diagnostics.auditing.probes.evaluator_oracle import EvaluatorOracle
from diagnostics.auditing.probes.halting_probe import Halting
from diagnostics.auditing.probes.module_cost import Cost
from diagnostics.auditing.probes.probe import Probe, probe_finding
from diagnostics.auditing.probes.response_probe import Response, judge_responses
from diagnostics.auditing.probes.sample_independence import SampleIndependence
from diagnostics.auditing.probes.sample_origin import SampleOrigin
from diagnostics.auditing.response_assertion import assert_responds
from diagnostics.auditing.responses import TermResponse, probe_response
from diagnostics.causes import Cause
from diagnostics.errors import (
    InvalidType,
    InvalidValue,
    NothingRecorded,
    ToolkitError,
    UnknownName,
    WrongOrder,
)
from diagnostics.findings import Evidence, Finding, Severity, to_json, to_json_lines, to_markdown
from diagnostics.measures.drift import DriftProbe, DriftRecord
from diagnostics.measures.finiteness import FirstNonFinite, Origin, first_nonfinite
from diagnostics.measures.frozen import Fingerprint, compare, fingerprint
from diagnostics.measures.halting import HaltingSummary, Halts, summarise_halts
from diagnostics.measures.representations import (
    Representation,
    cross_sample_share,
    effective_rank,
    representation,
    task_retrieval,
)
from diagnostics.monitor import Monitor
from diagnostics.recording.calls.capture import RowsFunction
from diagnostics.records import (
    Absent,
    CallRecord,
    HiddenModule,
    ModuleRecord,
    MovedBuffer,
    Number,
    OptimizerPlace,
    OutputStats,
    ParameterRecord,
    Reach,
    StepRecord,
    StepScalars,
    Stranger,
    TermReach,
    TermRecord,
)
from diagnostics.report.baselines import read_baseline, write_baseline
from diagnostics.report.sarif_and_html import to_html, to_sarif
from diagnostics.report.tables import module_table, term_table, to_table
from diagnostics.report.text import to_text
from diagnostics.rules.options import Option
from diagnostics.rules.registry import built_in_rules, explain
from diagnostics.rules.rule import Observation, Rule, lasting
from diagnostics.step_log import StepLog
from diagnostics.step_reader import iter_steps, read_steps
from diagnostics.step_sinks import TensorBoardLog, WandbLog
from diagnostics.testing.assertions import (
    assert_all_params_receive_grad,
    assert_frozen,
    assert_gradient_coverage,
    assert_trains,
)
from diagnostics.testing.failure import CheckFailed
from diagnostics.testing.fit_assertions import assert_initial_loss, assert_overfits_batch
from diagnostics.testing.loss_assertion import assert_loss_decreases
from diagnostics.testing.output_assertions import assert_output_diversity, assert_sample_independence

RULES = built_in_rules()
"""Every rule of the toolkit, in the order of lists."""
Provenance = SampleOrigin
"""Earlier name of `SampleOrigin`."""

__all__ = [
    "RULES",
    "Absent",
    "Audit",
    "CallRecord",
    "Cause",
    "CheckFailed",
    "ContextUse",
    "Cost",
    "DriftProbe",
    "DriftRecord",
    "EvaluatorOracle",
    "Evidence",
    "Finding",
    "Fingerprint",
    "FirstNonFinite",
    "Halting",
    "HaltingSummary",
    "Halts",
    "HiddenModule",
    "InvalidType",
    "InvalidValue",
    "ModuleRecord",
    "Monitor",
    "MovedBuffer",
    "NothingRecorded",
    "Number",
    "Observation",
    "OptimizerPlace",
    "Option",
    "Origin",
    "OutputStats",
    "ParameterRecord",
    "Probe",
    "Provenance",
    "Reach",
    "Representation",
    "Response",
    "RowsFunction",
    "Rule",
    "SampleIndependence",
    "SampleOrigin",
    "Severity",
    "StepLog",
    "StepRecord",
    "StepScalars",
    "Stranger",
    "TensorBoardLog",
    "TermReach",
    "TermRecord",
    "TermResponse",
    "ToolkitError",
    "UnknownName",
    "WandbLog",
    "WrongOrder",
    "assert_all_params_receive_grad",
    "assert_frozen",
    "assert_gradient_coverage",
    "assert_initial_loss",
    "assert_loss_decreases",
    "assert_output_diversity",
    "assert_overfits_batch",
    "assert_responds",
    "assert_sample_independence",
    "assert_trains",
    "audit",
    "compare",
    "cross_sample_share",
    "effective_rank",
    "explain",
    "fingerprint",
    "first_nonfinite",
    "iter_steps",
    "judge_responses",
    "lasting",
    "module_table",
    "probe_finding",
    "probe_response",
    "read_baseline",
    "read_steps",
    "representation",
    "summarise_halts",
    "task_retrieval",
    "term_table",
    "to_html",
    "to_json",
    "to_json_lines",
    "to_markdown",
    "to_sarif",
    "to_table",
    "to_text",
    "write_baseline",
]
