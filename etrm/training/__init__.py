"""Loss, optimisers, checkpoints, run folders, and the training loop."""

from etrm.installation import check_origin

check_origin(
    "diagnostics"
)  # which training watches itself with; a foreign one fails here and not at its first use
