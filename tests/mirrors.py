"""Which code a test file is named for.

`tests/model/test_core.py` mirrors `etrm/model/core.py`; others mirror a module of another package, an example of the
documents, or a helper of the tests.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("etrm", "diagnostics", "reports", "benchmarks")
PARENTS = ("etrm", ".", "docs", "tests")
"""Folders that the tree of the tests mirrors, in the order of search."""


def mirrored(test: Path, root: Path = ROOT) -> Path | None:
    """The module, or the `__init__.py` of the package, that a test file is named for; None where there is none.

    Args:
        test: the path of a test file, relative to the checkout.
        root: the folder of the checkout.
    """
    place = test.relative_to("tests").with_name(test.stem.removeprefix("test_"))
    for parent in PARENTS:
        for path in ((parent / place).with_suffix(".py"), parent / place / "__init__.py"):
            if (root / path).is_file():
                return path
    return None
