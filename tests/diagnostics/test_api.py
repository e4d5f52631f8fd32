"""The public surface of the toolkit is this set; a change of it is a decision."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest

import diagnostics

PUBLIC = {
    "Halting",
    "HaltingSummary",
    "Halts",
    "summarise_halts",
    "ContextUse",
    "Cost",
    "EvaluatorOracle",
    "Probe",
    "Provenance",
    "SampleIndependence",
    "probe_finding",
    "RULES",
    "Absent",
    "Audit",
    "CallRecord",
    "DriftProbe",
    "Evidence",
    "Finding",
    "Fingerprint",
    "ModuleRecord",
    "MovedBuffer",
    "Stranger",
    "TermReach",
    "HiddenModule",
    "TermRecord",
    "TermResponse",
    "Response",
    "judge_responses",
    "probe_response",
    "term_table",
    "Monitor",
    "Number",
    "OptimizerPlace",
    "OutputStats",
    "ParameterRecord",
    "Reach",
    "Representation",
    "RowsFunction",
    "Rule",
    "Observation",
    "Option",
    "SampleOrigin",
    "lasting",
    "Severity",
    "StepLog",
    "StepRecord",
    "iter_steps",
    "read_steps",
    "StepScalars",
    "audit",
    "compare",
    "cross_sample_share",
    "effective_rank",
    "explain",
    "fingerprint",
    "representation",
    "task_retrieval",
    "to_json",
    "to_json_lines",
    "to_text",
    "to_markdown",
    "Cause",
    "InvalidType",
    "InvalidValue",
    "NothingRecorded",
    "ToolkitError",
    "UnknownName",
    "TensorBoardLog",
    "WandbLog",
    "WrongOrder",
    "CheckFailed",
    "assert_all_params_receive_grad",
    "assert_frozen",
    "assert_gradient_coverage",
    "assert_initial_loss",
    "assert_loss_decreases",
    "assert_overfits_batch",
    "assert_responds",
    "assert_output_diversity",
    "assert_sample_independence",
    "assert_trains",
    "module_table",
    "to_table",
    "read_baseline",
    "write_baseline",
    "DriftRecord",
    "to_html",
    "to_sarif",
    "FirstNonFinite",
    "Origin",
    "first_nonfinite",
}


def test_public_names() -> None:
    assert set(diagnostics.__all__) == PUBLIC
    assert all(hasattr(diagnostics, name) for name in PUBLIC)


def test_imports_nothing_of_the_project() -> None:
    code = "import diagnostics, sys; print([name for name in sys.modules if name.split('.')[0] == 'etrm'])"
    root = Path(diagnostics.__file__).parent.parent
    found = run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert found.stdout.strip() == "[]"


def test_torch_is_loaded_at_the_first_use_and_not_before() -> None:
    """Where it is missing, only a use is an error."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import diagnostics\n"
        "print('imported')\n"
        "try:\n    diagnostics.Monitor\nexcept ImportError:\n    print('refused')\n"
    )
    root = Path(diagnostics.__file__).parent.parent
    found = run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert found.stdout.split() == ["imported", "refused"]


def test_no_public_name_is_hidden_by_a_module_of_the_package() -> None:
    modules = {path.stem for path in Path(diagnostics.__file__).parent.glob("*.py")}
    assert not modules & PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Monitr'"):
        _ = diagnostics.Monitr
    assert set(dir(diagnostics)) >= PUBLIC
