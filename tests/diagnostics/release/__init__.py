"""The release test of the toolkit: planted faults that must be named, healthy runs that must stay quiet.

`python -m tests.diagnostics.release --write` runs all of it and renews docs/results/release-test.md and the table of
the README; `tests/diagnostics/test_release.py` runs a part in seconds and the whole as a slow test.
"""
