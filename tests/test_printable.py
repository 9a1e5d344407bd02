"""Text for the terminal and the page: nothing in it may steer a terminal or reorder a line."""

from __future__ import annotations

import pytest

from rethink.printable import printable, printable_line

CASES = [
    ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("\x9b2J", r"\x9b2J"),
    ("99%\r100%", r"99%\x0d100%"),
    ("bell\x07 null\x00 delete\x7f back\x08", r"bell\x07 null\x00 delete\x7f back\x08"),
    ("safe\u202egpj.exe\u202c", r"safe\u202egpj.exe\u202c"),
    ("\u2066a\u2069 \u200fb", r"\u2066a\u2069 \u200fb"),
    ("a\u2028b", r"a\u2028b"),
    ("\ufeffa \U000e0041", r"\ufeffa \U000e0041"),
    ("half \ud83d", r"half \ud83d"),
    ("a\tb\nc", "a\tb\nc"),
    ("a\r\nb", "a\nb"),
    ("ü 漢字 سلام می\u200cخواهم 👩\u200d🔬 [bold]", "ü 漢字 سلام می\u200cخواهم 👩\u200d🔬 [bold]"),
]


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_printable(text: str, shown: str) -> None:
    """Guards against replies that clear the screen, rename the window or turn a line around; ordinary text stays."""
    assert printable(text) == shown


def test_a_cell_is_one_line() -> None:
    """Guards against a name with a line break that adds a row to a table."""
    assert printable_line("a\nall\t9 right\u202e") == r"a\nall\t9 right\u202e"
