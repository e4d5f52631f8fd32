"""Training on the whole rule family on one GPU: episodes that the device makes itself, a step that is one graph."""
