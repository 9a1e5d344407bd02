"""What a reply states as its answer outside the format that was asked for; for lenient extraction and for display.

All functions read the end of a text only, and look for what people would take for the answer.
"""

from __future__ import annotations

import re
import unicodedata

TAIL = 20_000
"""The number of characters at the end that are read."""

NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+"
_NUMBER = re.compile(NUMBER)
_ANSWER_IS = re.compile(r"\b(?:answer|result)\b\**(?:\s+is\b|\s*[:=]|\s*\n|(?<=\*\*))\s*[:=]?", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?![\w(])|(?<![\w)])\*\*")
"""Markdown's bold marks, not a power: `**73** apples`, but 2**10."""
_HEDGE = re.compile(r"\b(?:or|either|between)\b", re.IGNORECASE)
_TWO = re.compile(rf"(?:{NUMBER})\s+or\s+(?:{NUMBER})(?!\s*(?:more|less|fewer|so|greater)\b)")
_FORMULA = re.compile(
    r"(?<!\\)\$\$([^$]{1,500})(?<!\\)\$\$"
    r"|(?<!\\)\$(?=\S)((?:[^$\\]|\\.){1,500})(?<=\S)\$(?!\d)|(?<!\\)\$\s((?:[^$\\]|\\.){1,500})\s\$(?!\d)"
    r"|\\\(([^$]{1,500}?)\\\)|\\\[([^$]{1,500}?)\\\]"
)
"""A formula between its marks. `$5 and $6` is money: the second dollar would close after a space."""
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(*]|\s*\Z)")
_REMARK = re.compile(r"\s+\([^()]*[^\W\d_]{2}[^()]*\)|,?\s+(?:because|since|which|that is|i\.e\.|as)\s", re.IGNORECASE)
"""What follows an answer: `1.5 hours (90 minutes)`, `5, because ...`."""
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\{[^{}]*\}")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_FUNCTION = re.compile(r"(?:arc|a)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|sqrt|pi|lim", re.IGNORECASE)


def final_answer(text: str) -> str | None:
    """Return what people would read as the answer of a text without a box.

    That is the number after `####`; otherwise what the text states as its answer, or what its last line ends with: a
    formula, or a number. Of "5 or 6", neither is the answer, so both are returned.
    """
    tail = text[-TAIL:]
    _, marked, rest = tail.rpartition("####")
    if marked:
        return _bare_formula(rest.split("\n", 1)[0]) or final_number(tail)
    said = stated_answer(tail)
    if said is not None:
        return said if _HEDGE.search(said) else _answer_in(said)
    last_line = next((line for line in reversed(tail.split("\n")) if line.strip()), "")
    line = _without_ornaments(last_line)
    two = _TWO.search(line)
    return two[0] if two else last_formula(last_line) or _bare_formula(line) or final_number(tail)


def stated_answer(text: str) -> str | None:
    """Return what follows the last "answer is", "answer:" or "result is" on its line, without bold marks."""
    tail = text[-TAIL:]
    statements = list(_ANSWER_IS.finditer(tail))
    if not statements:
        return None
    line = next((x for x in tail[statements[-1].end() :].split("\n") if x.strip(" *:$")), "")
    return _without_ornaments(line) or None


def last_formula(text: str) -> str | None:
    """Return the content of the last `$...$`, `$$...$$`, `\\(...\\)` or `\\[...\\]` in the text."""
    found = _FORMULA.findall(text[-TAIL:])
    return next((x for x in found[-1] if x), "").strip() if found else None


def final_number(text: str) -> str | None:
    """Return the number after the last `####` or "answer is"; otherwise the last number of the text."""
    tail = text[-TAIL:]
    _, marked, rest = tail.rpartition("####")
    if marked:
        number = _NUMBER.search(rest.split("\n", 1)[0])
        if number:
            return number[0].replace("−", "-")
    numbers = _NUMBER.findall(stated_answer(tail) or "") or _NUMBER.findall(tail)
    return numbers[-1].replace("−", "-") if numbers else None


def _answer_in(said: str) -> str:
    """Return the answer in what a text states as such: its first sentence, without remarks."""
    end = _SENTENCE_END.search(said)
    sentence = said[: end.start()] if end else said
    remark = _REMARK.search(sentence)
    kept = sentence[: remark.start()].strip() if remark else sentence
    kept = _BOLD.sub("", kept).strip(" *,") or said
    formula = last_formula(kept) or _bare_formula(kept)
    if formula or len(kept.split()) <= 3:
        return formula or kept
    return final_number(kept) or kept


def _bare_formula(line: str) -> str | None:
    r"""Return the formula that a line consists of or ends with, without marks around it; None if there is none.

    Of `x = \frac{63}{400}` this is the right side.
    """
    line = line.strip().rstrip(".!")
    side = line.rpartition("=")[2].strip()
    for part in (side, _last_words(side)):
        is_formula = "\\" in part or "^" in part or re.search(r"\d[a-zA-Z]|[a-zA-Z]\s*[-+*/]|[-+*/]\s*[a-zA-Z]", part)
        if part and is_formula and not _words_in(part):
            return part.strip("*$ ")
    return None


def _last_words(text: str) -> str:
    """Return the end of a text from the first word after its prose."""
    words = text.split()
    n = len(words)
    while n and not _words_in(words[n - 1]) and words[n - 1].lower() not in ("a", "i", "is"):
        n -= 1
    return " ".join(words[n:])


def _words_in(text: str) -> list[str]:
    """Return the words of a formula that are prose: not a command, not a function, not inside \\text."""
    bare = _COMMAND.sub(" ", _TEXT.sub(" ", text))
    return [word for word in _LETTERS.findall(bare) if not _FUNCTION.fullmatch(word)]


def _without_ornaments(line: str) -> str:
    """Return a line without bold marks, and without emoji and white space at its end."""
    line = _BOLD.sub("", line).strip().strip("*").strip()
    while line and _is_ornament(line[-1]):
        line = line[:-1].rstrip()
    return line


def _is_ornament(character: str) -> bool:
    """Return whether a character is an emoji, a tick, the end of a proof, or a part of one."""
    return character in "∎\u200d\ufe0f" or (character >= "\u2300" and unicodedata.category(character) in ("So", "Sk"))
