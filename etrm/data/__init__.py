"""Tasks, tokens, augmentation, regions, episodes and splits: everything before the model."""
