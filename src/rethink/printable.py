"""Text that is safe to show: replies, ids and error messages of servers must not control a terminal or reorder a line."""

from __future__ import annotations

from collections.abc import Sequence

ALLOWED = "\n\t"
CONTROLS = (*range(32), *range(127, 160))
REORDERING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks that change the direction of the text around them: they can make a line look like another one."""
SEPARATORS = (0x2028, 0x2029)
INVISIBLE = (0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080))
"""Byte order marks, annotations and tags. Joiners are not among them: some scripts and emoji need them."""
SURROGATES = range(0xD800, 0xE000)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


ESCAPES = {code: _escape(code) for code in (*CONTROLS, *REORDERING, *SEPARATORS, *INVISIBLE, *SURROGATES)}
for _letter in ALLOWED:
    del ESCAPES[ord(_letter)]


def printable(text: str) -> str:
    r"""Return the text with escapes in place of control characters, except line breaks and tabs.

    >>> printable("red: \x1b[31m, back: \u202e")
    'red: \\x1b[31m, back: \\u202e'
    """
    return text.replace("\r\n", "\n").translate(ESCAPES)


def printable_line(text: str) -> str:
    r"""Return the text as `printable` does, on one line: line breaks and tabs are escaped too.

    >>> printable_line("a\nb")
    'a\\nb'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as a table: the first column left-aligned, the others right-aligned."""
    shown: list[list[str]] = []
    for line in lines:
        shown.append(list(map(printable_line, line)))
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    rows: list[str] = []
    for first, *others in shown:
        cells = [first.ljust(widths[0])]
        for cell, width in zip(others, widths[1:], strict=True):
            cells.append(cell.rjust(width))
        rows.append("  ".join(cells))
    return "\n".join(rows)
