"""Loss, optimisers, checkpoints, run folders, and the training loop."""

from etrm.installation import check_origin

# Training uses the toolkit: another package of that name fails here and not at its first use.
check_origin("diagnostics")
