"""Gold answers in the rows of mathematics: one or several; what is damaged or no answer is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rethink.errors import UserError
from rethink.problems.conversation import last_reply, shown
from rethink.problems.rows import Row, cell_text, is_empty


class GoldError(UserError):
    """A gold answer that is there, but damaged, or no answer."""


MAX_WORDS = 15
"""A gold answer with more words is a sentence or a solution, which a reply hardly repeats."""


def gold_texts(row: Row, names: str) -> list[str]:
    """Return the accepted answers in a column: text or a number, a list of these, or the last turn of a conversation.

    Raise UserError if it is empty, or holds an object.
    """
    where = f"{row.location}: the column {names!r}"
    value = last_reply(row.value(names), where)
    accepted = value if isinstance(value, list) else several(value) if isinstance(value, str) else [value]
    if not accepted or any(map(is_empty, accepted)):
        raise UserError(f"{where} is empty")
    found: list[str] = []
    for item in accepted:
        if isinstance(item, dict | list) or (isinstance(item, str) and _is_object(item)):
            raise GoldError(
                f"{where} holds {shown(item)}, which is not an answer; "
                f"dots reach into an object, such as answer={names}.KEY"
            )
        found.append(cell_text(item, where))
    return found


def several(text: str) -> list[str]:
    """Return the accepted answers in a gold answer: the items of a JSON list of texts, or else the text itself."""
    if text.lstrip()[:2] in ('["', "[ ", "[\n") and '"' in text:
        try:
            items = json.loads(text)
        except ValueError:
            return [text]
        if items and isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return [text]


def join(answers: Sequence[str]) -> str:
    """Return accepted answers as one gold answer: the text of a single one, a JSON list of several."""
    distinct = list(dict.fromkeys(answers))
    return distinct[0] if len(distinct) == 1 else json.dumps(distinct, ensure_ascii=False)


def is_prose(gold: str) -> bool:
    """Return whether a gold answer is a sentence or a solution, by its number of words."""
    return len(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", gold)) > MAX_WORDS


def _is_object(text: str) -> bool:
    if not re.match(r'\s*\{\s*"', text):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
