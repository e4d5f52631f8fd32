"""The user's cache folder, which keeps data between commands."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$ETRM_CACHE``, or ``etrm`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("ETRM_CACHE") or Path(home) / "etrm")
