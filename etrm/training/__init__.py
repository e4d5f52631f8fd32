"""Loss, optimisers, checkpoints, run folders, and the training loop."""
