"""Sequences of updates are cut into steps."""

from __future__ import annotations

import pytest

from diagnostics.auditing.scripts.optimizer_turns import MOST_TURNS, OptimizerTurns


def cut(first: str, later: str) -> list[str]:
    """The steps of the later updates, after a first round; the last may be incomplete."""
    turns, steps = OptimizerTurns(first), [""]
    for name in later:
        if turns.complete:
            turns.end()
            turns.begin()
            steps.append("")
        turns.note(name)
        steps[-1] += name
    return steps


@pytest.mark.parametrize(
    ("first", "later", "steps"),
    [
        ("a", "aaa", ["a", "a", "a"]),
        ("ab", "ababab", ["ab", "ab", "ab"]),
        ("aab", "aabaab", ["a", "ab", "a", "ab"]),
        ("aaaaab", "aaaaabaaaaab", ["a", "a", "a", "a", "ab", "a", "a", "a", "a", "ab"]),
        ("ab", "aaaabaaaaab", ["aaaab", "a", "a", "a", "aab"]),  # learns that b comes less often
        ("abc", "abcabc", ["abc", "abc"]),
        ("ab", "b" * MOST_TURNS + "bb", ["b" * MOST_TURNS, "b", "b"]),
        ("", "aa", ["a", "a"]),
    ],
)
def test_a_sequence_is_cut_into_steps(first: str, later: str, steps: list[str]) -> None:
    assert cut(first, later) == steps


def test_one_that_never_steps_again_is_not_waited_for() -> None:
    assert cut("ab", "a" * MOST_TURNS + "aaa") == ["a" * MOST_TURNS, "a", "a", "a"]
