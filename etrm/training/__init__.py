"""Loss, optimisers, checkpoints, run folders, and the training loop."""

from etrm.installation import check_origin

# Training watches itself with the toolkit: a foreign package of that name fails here and not at its first use.
check_origin("diagnostics")
