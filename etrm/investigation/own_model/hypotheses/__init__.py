"""The hypotheses H1 to H7 about a model that is not of this project, and what only they use."""
