"""Test files are named for the module that they test, or for a property in the list below."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mirrors import ROOT, mirrored

NAMED_FOR_WHAT_THEY_TEST = {
    "tests/data/test_bad_files.py": "every way in which a file of tasks can be wrong",
    "tests/devices": "models on a device",
    "tests/diagnostics/rules/test_own_rules.py": "rules that a user adds",
    "tests/diagnostics/rules/test_collapse.py": "which module is named for a collapse",
    "tests/diagnostics/test_command_line.py": "python -m diagnostics",
    "tests/diagnostics/test_compile.py": "compiled models under the monitor",
    "tests/diagnostics/test_docs.py": "the pages of the rules",
    "tests/diagnostics/test_exactness.py": "training loops with more than one forward and backward under the monitor",
    "tests/diagnostics/test_programs.py": "random programs under the monitor",
    "tests/diagnostics/test_toys.py": "runs of the release test's toy",
    "tests/diagnostics/testing/test_sample_independence.py": "the rule LEAK001",
    "tests/examples/test_examples.py": "models of docs/examples that nobody here wrote",
    "tests/examples/test_own_models.py": "adapters of models that nobody here wrote, in examples/own-models",
    "tests/examples/test_watched_encoder.py": "the project in examples/watched-encoder",
    "tests/extending": "the examples of docs/extending.md, from outside the repository",
    "tests/investigation/hypotheses/test_unlisted.py": "faults that are not in the list of faults",
    "tests/model/test_parity.py": "arrays that the published implementations computed",
    "tests/model/test_region.py": "a sample's outputs depend on the sample alone",
    "tests/reports/test_render.py": "a whole report",
    "tests/symbolic/test_evaluators.py": "every evaluator of formulas agrees with the others",
    "tests/test_code_base.py": "the layout of the code",
    "tests/diagnostics/test_odd_models.py": "models that cannot be measured as a whole",
    "tests/test_docs.py": "the documents",
    "tests/test_language.py": "the words of all texts",
    "tests/test_packaging.py": "pyproject.toml, constraints.txt and cited documents",
    "tests/test_wheels.py": "both distributions, built and installed",
    "tests/investigation/hypotheses/test_symbolic_subject.py": "the symbolic solver as the run under test",
    "tests/training/test_encoder_kinds.py": "every encoder under the trainer",
    "tests/training/test_symbolic_runs.py": "the symbolic solver under the trainer",
    "tests/training/interruptions/test_full_disk.py": "full and unwritable disks",
    "tests/training/test_gradient_coverage.py": "our own models under the toolkit's assertions",
    "tests/training/interruptions/test_kill.py": "runs that are killed",
    "tests/training/interruptions/test_moved_run.py": "runs that move to another device",
    "tests/training/interruptions/test_odd_folders.py": "run folders in odd states",
    "tests/training/interruptions/test_signals.py": "runs that get a signal",
}
"""Test files and folders that mirror no module: they test a property of many, or a file that is not a module."""


def test_every_other_test_file_is_named_for_a_module() -> None:
    tests = [path.relative_to(ROOT) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    without = [test for test in tests if mirrored(test) is None]
    listed = {
        test: {test.as_posix(), test.parent.as_posix()} & NAMED_FOR_WHAT_THEY_TEST.keys() for test in without
    }
    assert [test for test, names in listed.items() if not names] == [], (
        "name it for a module, or list it above"
    )
    assert NAMED_FOR_WHAT_THEY_TEST.keys() == set().union(*listed.values()), (
        "no longer there, or named for a module"
    )


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("tests/model/test_core.py", "etrm/model/core.py"),
        ("tests/model/encoders/test_carried.py", "etrm/model/encoders/carried.py"),
        ("tests/model/test_encoders.py", "etrm/model/encoders/__init__.py"),
        ("tests/diagnostics/test_monitor.py", "diagnostics/monitor.py"),
        ("tests/test_cli.py", "cli.py"),
        ("tests/test_mirrors.py", "tests/mirrors.py"),
        ("tests/examples/test_coverage.py", "docs/examples/coverage.py"),
        ("tests/model/test_of_no_module", None),
    ],
)
def test_the_code_that_a_test_file_is_named_for(test: str, code: str | None) -> None:
    found = mirrored(Path(test))
    assert (None if found is None else found.as_posix()) == code
