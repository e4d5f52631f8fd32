"""Hypotheses with registered rules, arms, controls and verdicts."""
