"""`make bench`: how fast, why, and against what; every number a ratio measured within one run.

    python -m benchmarks.performance [--only PART] [--repetitions N] [--threads N] [--device cpu] [--write]

A part (:mod:`.parts`) is a question with the module that answers it. What takes part in a
comparison takes turns, again and again, so what slows the machine slows all of it. ``--write``
keeps the answers in ``docs/results/benchmarks.json``; ``docs/results/benchmarks.md`` is rendered from that file alone.
"""
