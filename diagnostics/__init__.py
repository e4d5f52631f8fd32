"""Instruments for any torch model that does not learn.

`Monitor` watches a training loop, the assertions judge a model in a test; the rest measures
representations, drift and frozen weights on demand. `diagnostics.api` has the names. They are loaded
at the first use, so that the pytest plugin of this package does not import torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnostics.api import *  # noqa: F403
    from diagnostics.api import __all__ as __all__
else:

    def __getattr__(name):
        private = name.startswith("_") and name != "__all__"
        # `from diagnostics import records` calls this first, perhaps in the middle of loading
        here = Path(__file__).with_name(name)
        if private or here.is_dir() or here.with_suffix(".py").exists():
            raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
        api = import_module("diagnostics.api")  # `from` would call this function for it
        if name != "__all__" and name not in api.__all__:
            raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
        value = globals()[name] = getattr(api, name)
        return value

    def __dir__():
        return sorted({*globals(), *import_module("diagnostics.api").__all__})
