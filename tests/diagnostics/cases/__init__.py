"""Programs with a fault after public reports, each with its fix, and healthy loops that look unusual.

`python -m tests.diagnostics.cases` audits all of them.
"""
