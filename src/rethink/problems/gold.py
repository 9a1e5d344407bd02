"""Gold answers in the rows of mathematics: one or several; what is damaged or no answer is refused."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence

from rethink.errors import UserError
from rethink.problems.conversation import last_reply, shown
from rethink.problems.rows import Row, cell_text, is_empty


class GoldError(UserError):
    """A gold answer that is there, but no answer: the whole file was read in a wrong way."""


class DamageError(ValueError):
    """A gold answer that was damaged on its way into a file."""


NO_VALUE = re.compile(r"nan|<na>|nat|#N/A|#(?:REF|VALUE|DIV/0|NUM|NULL)!|#NAME\?", re.IGNORECASE)
"""What pandas and spreadsheets write as text where there is no value."""

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
        text = cell_text(item, where)
        if NO_VALUE.fullmatch(text.strip()) or (isinstance(item, float) and math.isinf(item)):
            raise UserError(
                f"{where} holds {text!r}: a missing value, or a number too large; correct or remove the row"
            )
        if re.match(r"\s*\[\s*'[^']*'\s+'", text):
            raise GoldError(
                f"{where} has {shown(text)}, the text of a numpy array; store it as a list, in a .jsonl file"
            )
        found.append(text)
    return found


def several(text: str) -> list[str]:
    """Return the accepted answers in a gold answer: the items of a list of texts, or else the text itself.

    The list is JSON, or what str() of a Python list writes into a CSV file.
    """
    if text.lstrip()[:2] in ('["', "[ ", "[\n") and '"' in text:
        try:
            items = json.loads(text)
        except ValueError:
            return [text]
        if items and isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return _python_list(text) or [text]


def _python_list(text: str) -> list[str]:
    """Return the texts in what Python writes for a list of texts; [] for anything else."""
    if not re.match(r"\s*\[\s*'", text):
        return []
    try:
        items = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    is_list = isinstance(items, list) and all(isinstance(item, str) for item in items)
    return items if is_list and not re.search(r"'\s+'", text) else []


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
