"""A second, plain implementation of training and evaluation, with which the investigation compares the real one.

It shares no code with ``etrm.model``, ``etrm.training``, ``etrm.data``'s loader or ``etrm.evaluation``: a fault there
would otherwise be on both sides of the comparison.

- `data`: the loader, and which tasks there are
- `model`: the networks and the context, as functions of their weights
- `training`: a step, stage by stage; what training begins with and leaves behind
- `evaluation`: answers, votes and scores, and what is fitted to a task at test time
- `recorded`: a real step as plain tensors; `departure`: where it departs
"""
