"""Which code a test file mirrors: `tests/a/test_b.py` tests `etrm/a/b.py`, `a/b.py` or a helper `tests/a/b.py`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("etrm", "diagnostics", "reports", "benchmarks")


def mirrored(test: Path, root: Path = ROOT) -> Path | None:
    """The module (or the `__init__.py` of the package) that a test file is named for; None where there is none.

    Args:
        test: the path of a test file, relative to the checkout.
        root: the folder of the checkout.
    """
    place = test.relative_to("tests").with_name(test.stem.removeprefix("test_"))
    for stem in (Path("etrm") / place, place, Path("tests") / place):
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if (root / path).is_file():
                return path
    return None
