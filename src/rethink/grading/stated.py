"""What a reply states as its answer outside the format that was asked for; for lenient extraction and for display.

All functions read the end of a text only, and look for what people would take for the answer.
"""

from __future__ import annotations

import re
import unicodedata

TAIL = 20_000
"""The number of characters at the end that are read."""

_WHOLE = r"(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?"
NUMBER = rf"[-+−]?(?:\d++\s++\d++/\d++|{_WHOLE}(?:/\d++)?)|[-+−]?\.\d++"
_NUMBER = re.compile(NUMBER)
_ANSWER_IS = re.compile(r"\b(?:answers?|result)\b\**(?:\s+(?:is|are)\b|\s*[:=]|\s*\n|(?<=\*\*))\s*[:=]?", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?![\w(])|(?<![\w)])\*\*")
"""Markdown's bold marks, not a power: `**73** apples`, but 2**10."""
_HEDGE = re.compile(r"\b(?:or|either|between)\b", re.IGNORECASE)
_TWO_NUMBERS = re.compile(
    rf"(?<!\d)(?P<first>{NUMBER})(?:\s+\w+)?,?\s+(?:or\s+(?:[a-z]+\s+){{0,2}}(?:[a-zA-Z]\s*=\s*)?|(?P<and>and\s+))\\?\$?"
    rf"(?P<second>{NUMBER})(?!\s*(?:more|less|fewer)\b)"
)
_TWO_FORMULAS = re.compile(r"(?:\$|\\\)|\\\])\s+or\s+(?:\$|\\\(|\\\[)")
_FORMULA = re.compile(
    r"(?<!\\)\$\$([^$]{1,500})(?<!\\)\$\$"
    r"|(?<!\\)\$(?=\S)((?:[^$\\]|\\.){1,500})(?<=\S)\$(?!\d)|(?<!\\)\$\s((?:[^$\\]|\\.){1,500})\s\$(?!\d)"
    r"|\\\(([^$]{1,500}?)\\\)|\\\[([^$]{1,500}?)\\\]"
)
"""A formula between its marks. `$5 and $6` is money: the second dollar would close after a space."""
_CLOSES = re.compile(r"(?:\$\$|\\\]|\\\))[\s.]*\Z")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(*]|\s*\Z)")
_REASON = re.compile(r",?\s+(?:because|since|which|that is|i\.e\.|as|but|not|rather than|instead of)\s", re.IGNORECASE)
_CORRECTED = re.compile(r"\s*not\s[^.]*?,?\sbut\s(?:rather\s)?", re.IGNORECASE)
"""What comes before the answer in "the answer is not 3, but 4"."""
_REMARK = re.compile(r"\s+\([^()]*[^\W\d_]{2}[^()]*\)")
"""What follows an answer: `5, because ...`, `1.5 hours (90 minutes)`."""
_POWER_OF_UNIT = re.compile(r"(?<=[a-zA-Z]{2})\^\{?-?\d\}?")
"""The 2 in 5 cm^2, which is no answer."""
_IS_FORMULA = re.compile(r"[\\^√∛π²³×÷]|\d:\d|\d[a-zA-Z]|[a-zA-Z]\s*[-+*/]|[-+*/]\s*[a-zA-Z]")
"""What tells a formula from a number: a sign of LaTeX or Unicode, a ratio or time, or a variable."""
_COUNTED = re.compile(rf"\$?(?:{NUMBER})\s+[^\W\d_]{{2,}}")
"""A number of something, which comes before any formula: `25 minutes, until 10:30`."""
_WORKING = re.compile(r"(?<=\d)\s+\([^()a-zA-Z]*(?:[×÷=]|\d:\d)[^()a-zA-Z]*\)")
"""How a number was found: `12 (3 × 4)`."""
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
        return _answer_in(said)
    last_line = next((line for line in reversed(tail.split("\n")) if line.strip(" -`*")), "")
    if _CLOSES.search(last_line) and not last_formula(last_line):
        return last_formula(tail) or final_number(tail)
    return _answer_of_line(last_line) or final_number(tail)


def _answer_of_line(line: str) -> str | None:
    """Return the answer that a line ends with; None if it has neither formula nor number."""
    if _TWO_FORMULAS.search(line):
        return ", ".join(_formulas(line)[-2:])
    plain = _without_ornaments(line)
    two = _TWO_NUMBERS.search(plain)
    if two and (not two["and"] or re.search(r"\bbetween\b", plain[: two.start()], re.IGNORECASE)):
        return f"{two['first']}, {two['second']}"
    kept = _POWER_OF_UNIT.sub("", _REMARK.sub("", _cut(plain, _REASON)))
    return last_formula(line) or _bare_formula(plain) or final_number(kept) or None


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
    found = _formulas(text[-TAIL:])
    return found[-1] if found else None


def _formulas(text: str) -> list[str]:
    return ["".join(parts).strip() for parts in _FORMULA.findall(text)]


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
    """Return the answer in what a text states as such: its first sentence, without remarks.

    Several values stay together: of "5 or 6", neither is the answer.
    """
    corrected = _CORRECTED.match(said)
    said = said[corrected.end() :] if corrected else said
    sentence = _cut(_cut(said, _SENTENCE_END), _REASON)
    if _HEDGE.search(sentence):
        return sentence
    kept = _without_ornaments(_REMARK.sub("", sentence)).strip(' *,`"') or said
    formula = last_formula(kept) or (None if _COUNTED.match(kept) else _bare_formula(kept))
    if formula or len(kept.split()) <= 3 or not _words_in(kept.replace(" and ", " ")):
        return formula or kept
    numbers = _NUMBER.findall(kept)
    if len(numbers) < 2 or "=" in kept:
        return final_number(kept) or kept
    if re.search(r"\band\b", kept):
        return kept
    return (numbers[0] if _NUMBER.match(kept.lstrip("$")) else numbers[-1]).replace("−", "-")


def _cut(text: str, end: re.Pattern[str]) -> str:
    """Return the text before what the pattern finds, unless nothing is left."""
    found = end.search(text)
    return text[: found.start()].strip() or text if found else text


def _bare_formula(line: str) -> str | None:
    r"""Return the formula that a line consists of or ends with, without marks around it; None if there is none.

    Of `x = \frac{63}{400}` this is the right side.
    """
    line = _WORKING.sub("", line.strip().rstrip(".!"))
    side = line.rpartition("=")[2].strip()
    for part in (side, _last_words(side), _last_run(side)):
        if part and _IS_FORMULA.search(part) and not _words_in(part):
            return part.strip("*$ ")
    return None


def _last_words(text: str) -> str:
    """Return the end of a text from the first word after its prose."""
    words = text.split()
    n = len(words)
    while n and not _words_in(words[n - 1]) and words[n - 1].lower() not in ("a", "i", "is"):
        n -= 1
    return " ".join(words[n:])


def _last_run(text: str) -> str:
    """Return the last words around a command that are no prose, as in "it is \\frac{1}{2} here"."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        if _words_in(word) or word.lower() in ("a", "i", "is"):
            runs.append([])
        else:
            runs[-1].append(word)
    found = [run for run in runs if "\\" in "".join(run)]
    return " ".join(found[-1]) if found else ""


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
