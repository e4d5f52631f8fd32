"""Families of rules, one per file, grouped by what they watch: causes, checks, texts, and a `FAMILY`."""
