"""Text in pieces: what comes out does not depend on where the pieces begin and end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from rethink.serving.text_stream import StopStrings, ThinkingSplit, cut_at_stop

TEXTS = some.text("ab<>/x \n", max_size=30)
STOPS = some.lists(some.text("ab<", min_size=1, max_size=3), max_size=3)


def first_stop(text: str, stops: list[str]) -> str | None:
    """Return the text before the stop string that ends first, letter by letter; of several, the longest one."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return None


@given(some.lists(TEXTS, max_size=6), STOPS, some.integers(0, 9))
def test_stop_strings_do_not_depend_on_the_pieces(pieces: list[str], stops: list[str], n_opened: int) -> None:
    """Guards against a stop string that is missed across pieces, text that is lost or told twice, and an order of stop
    strings that depends on the pieces; and against one that is found in what the template has opened."""
    told: list[str] = []
    strings = StopStrings(stops, told.append, n_opened)
    for piece in pieces:
        strings.add(piece)
    strings.end()
    text = "".join(pieces)
    expected = first_stop(text[n_opened:], stops)
    expected = None if expected is None else text[:n_opened] + expected
    assert "".join(told) == (text if expected is None else expected)
    assert cut_at_stop(text, stops, n_opened) == expected
    assert strings.found == (expected is not None)


def split(pieces: list[str]) -> dict[str, str]:
    found = {"reasoning": "", "content": ""}

    def emit(kind: str, text: str) -> None:
        found[kind] += text

    splitter = ThinkingSplit(emit)
    for piece in pieces:
        splitter.add(piece)
    splitter.end()
    return found


@given(TEXTS, TEXTS, some.lists(some.integers(0, 80), max_size=6))
def test_thinking_does_not_depend_on_the_pieces(thought: str, answer: str, cuts: list[int]) -> None:
    """Guards against marks that are shown because they came in two pieces, and text that is lost."""
    for text, expected in (
        (f"\n<think> {thought}</think>\n\n{answer}", {"reasoning": thought.lstrip(), "content": answer.lstrip()}),
        (f"<think>{thought}", {"reasoning": thought.lstrip(), "content": ""}),
        (f"x{answer}", {"reasoning": "", "content": f"x{answer}"}),
    ):
        ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
        pieces = [text[start:end] for start, end in pairwise(ends)]
        assert split(pieces) == expected, pieces
