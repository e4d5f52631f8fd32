"""One thread, so that numbers and run times depend on no neighbour; no deadline on shared cores."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")
