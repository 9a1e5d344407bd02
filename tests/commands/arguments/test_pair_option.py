"""The option --pair takes two words each time."""

from __future__ import annotations

import pytest

from rethink.commands.arguments.pair_option import _one_word_each
from rethink.errors import UserError


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["b", "a", "--k", "1"], ["b", "a", "--k", "1"]),
        (["--pair", "c", "d", "b", "a"], ["--pair", "c", "--pair", "d", "b", "a"]),
        (["b", "--pair", "c", "d", "a"], ["b", "--pair", "c", "--pair", "d", "a"]),
        (["--pair", "c", "d", "--pair", "e", "f"], ["--pair", "c", "--pair", "d", "--pair", "e", "--pair", "f"]),
        (["--", "--pair", "c"], ["--", "--pair", "c"]),
    ],
)
def test_words_stay_in_their_order(given: list[str], read: list[str]) -> None:
    """Guards against the second word of a pair that is taken for BEFORE or AFTER, wherever the option stands."""
    assert _one_word_each(given) == read


@pytest.mark.parametrize(
    "given", [["--pair"], ["--pair", "b"], ["--pair", "b", "--k", "1"], ["--pair", "--", "a", "b"]]
)
def test_one_word_is_refused(given: list[str]) -> None:
    """Guards against an option that is taken for a run."""
    with pytest.raises(UserError, match="--pair takes two runs: --pair BEFORE AFTER"):
        _one_word_each(given)
