"""docs/errors.md quotes messages that the code still has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import rethink

PACKAGE = Path(rethink.__file__).parent
PAGE = (PACKAGE.parent.parent / "docs" / "errors.md").read_text()
QUOTED = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)


def text_of(node: ast.AST) -> str | None:
    """Return the text of a string or of an f-string, whose values are "..."; None for other code."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return None


@cache
def texts() -> tuple[str, ...]:
    """Return all texts of the code; names of constants, which f-strings of messages use, are replaced by their values."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        found |= {text for text in map(text_of, ast.walk(ast.parse(file.read_text()))) if text}
    return tuple(found)


def occurs(message: str) -> bool:
    """Return whether the constant pieces of a message follow each other in one text of the code."""
    pieces = [re.escape(piece) for piece in message.split("...") if piece.strip()]
    pattern = re.compile(r"[^|]*?".join(pieces), re.DOTALL)
    return any(pattern.search(text) for text in texts())


def test_the_page_quotes_messages() -> None:
    """Guards the pattern, which would pass any page in which it found nothing."""
    assert len(QUOTED) > 30


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    """Guards against messages that users look for in vain, since they have changed."""
    assert occurs(message)


def test_other_messages_do_not_occur() -> None:
    """Guards the search itself."""
    assert not occurs("there is no recipe ...; have you seen ...?")
    assert not occurs("no such message")
