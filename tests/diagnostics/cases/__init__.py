"""Programs with a fault after public reports, each with its fix, and healthy loops that look unusual.

`python -m tests.diagnostics.cases --write` audits all of them and renews docs/results/cases.md.
"""
