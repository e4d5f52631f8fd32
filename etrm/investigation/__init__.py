"""Investigations: which part of a run keeps its model from learning.

- `run`: a whole investigation; `decision_order`, `root_cause`: what is decided first, and which hypothesis is the cause
- `hypotheses`: a file per hypothesis, with its rule; `controls`: the runs that show whether a rule works
- `comparison`: runs against runs; `measurements`: what is read off a model or a run
- `reference_comparison`, `reference_verdict`: the run against a second implementation, :mod:`etrm.reference`
- `recorded_run`: what an earlier run left in its folder
- `runs`: how training runs are started, measured and kept
- `evidence`, `records`, `judgement`, `result`: the values of a result; `codes`: their stable names
- `experiments`: the frozen decoder and the other named experiments
- `own_model`: the same hypotheses about a model of another project
- `fault_benchmark`, `unlisted`: how often the root cause is found
"""
