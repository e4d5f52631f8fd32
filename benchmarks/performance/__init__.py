"""`make bench`: how fast training, evaluation and monitoring are, compared with other code within one run.

    python -m benchmarks.performance [--only PART] [--repetitions N] [--threads N] [--device cpu] [--write]

A part (:mod:`benchmarks.performance.registry`) is a question with the module that answers it. The variants of a
comparison run in turns, so that other load on the machine slows all of them. ``--write`` keeps the answers in
``docs/results/benchmarks.json``; ``docs/results/benchmarks.md`` is rendered from that file alone.
"""
