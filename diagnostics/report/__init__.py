"""Findings for people and machines: tables, SARIF, HTML, filters and baselines."""
