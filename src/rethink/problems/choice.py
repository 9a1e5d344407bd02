"""Multiple choice: options in an order drawn for each question, lettered A, B, C, ...; the answer is a letter in a box.

`columns.options` names one column with a list of all options (dots reach into it: `choices.text`); `answer` is then the
index of the right one as a number, from 0, or its letter, or its text. Or it names several columns, separated by commas,
such as GPQA's three wrong answers (arXiv 2311.12022), and `answer` is the text of the right option. Where the answer is
the name of one of several columns ("C" of "A,B,C,D"), they hold all options.
"""

from __future__ import annotations

import json
import re
import string
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import MAX_BOXES, after_thinking, boxes, json_value, last_boxes
from rethink.problems.answer_format import AnswerFormat, Columns, Row
from rethink.seeds import rng
from rethink.types import Verdict

SOLVE = (
    "{question}\n\nReason step by step about the options. Then give the letter of the right one, and nothing but this "
    "letter, in \\boxed{}, for example \\boxed{B}."
)

TAIL = 20_000
"""Lenient extraction looks at so many of the last characters."""

_DRESS = re.compile(r"\\(?:text|math)(?:rm|bf|it|sf|tt)?(?![a-z])|\\[()\[\],;:! ]|[\s{}()\[\]*_$.:]")
_STATED = re.compile(r"\banswer[\s*_]{0,9}(?:is\b|[:=])", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+|[,;/&+|]")
_LABEL = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])\)")
_ANY_LABEL = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])[.):]")
_NAMES = {"option", "choice", "letter", "answer"}
_REFUSALS = {"not", "none", "neither", "either"}
_JOINTS = {",", ";", "/", "&", "+", "|", "and", "to", "through"}

Found = tuple[str, bool] | Verdict
"""A letter and whether it took lenient extraction, or why there is none."""


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """The question with its options, one per line, and the letter of the right one. A row without options whose question
    ends with them, lettered, and whose answer is such a letter, as `rethink prepare` writes it, is asked as it is. Raises
    UserError for options that are too few, too many or equal, and for an answer that is none of them."""
    question = row.text(columns.question).strip()
    listed = any(row.has(name.strip()) for name in columns.options.split(","))
    if not listed and row.has(columns.answer) and row.text(columns.answer) in _lettered(question):
        return question, row.text(columns.answer)
    options, right = _options(row, columns)
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise UserError(f"{row.where}: {len(options)} options; 2 to 26 can have letters")
    for n, option in enumerate(options):
        if option in options[:n]:
            raise UserError(f"{row.where}: two options are the same, {option[:80]!r}")
    order = list(range(len(options)))
    rng(seed, question).shuffle(order)
    lines = [question, ""]
    for letter, n in zip(string.ascii_uppercase, order, strict=False):
        lines.append(f"{letter}) {options[n]}")
    return "\n".join(lines), string.ascii_uppercase[order.index(right)]


def _lettered(question: str) -> list[str]:
    """The letters of the options that a question ends with, behind an empty line; [] unless they are A, B and so on."""
    letters = [line[:1] if line[1:3] == ") " else "" for line in question.rpartition("\n\n")[2].split("\n")]
    return letters if len(letters) > 1 and letters == list(string.ascii_uppercase[: len(letters)]) else []


def _options(row: Row, columns: Columns) -> tuple[list[str], int]:
    """All options, each on one line, and the index of the right one."""
    names = [name.strip() for name in columns.options.split(",")]
    names = list(filter(None, names))
    if len(names) == 1:
        options = [_line(row, option) for option in _listed(row, names[0])]
        return options, _index(row, row.value(columns.answer), options)
    others = []
    for name in names:
        others.append(_line(row, row.value(name)))
    answer = _line(row, row.value(columns.answer))
    if answer in names:
        return others, names.index(answer)
    return [answer, *others], 0


def _listed(row: Row, name: str) -> list[Any]:
    value = row.value(name)
    try:
        value = json_value(value) if isinstance(value, str) else value
    except ValueError as err:
        raise UserError(f"{row.where}: the column {name!r} is no list of options ({err})") from err
    if not isinstance(value, list):
        raise UserError(f"{row.where}: the column {name!r} is no list of options")
    return value


def _line(row: Row, cell: Any) -> str:
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)
    if cell is None or not text.strip():
        raise UserError(f"{row.where}: an option or the answer is empty")
    return " ".join(line.strip() for line in text.strip().splitlines() if line.strip())


def _index(row: Row, answer: Any, options: list[str]) -> int:
    """Which option an answer means. Raises UserError where it means none, or one as a letter and another as a text."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        found = {answer} & set(range(len(options)))
    else:
        text = _line(row, answer)
        letters = string.ascii_uppercase[: len(options)]
        found = {options.index(text)} if text in options else set()
        found |= {letters.index(text)} if len(text) == 1 and text in letters else set()
    if len(found) != 1:
        meant = "two of the options; give its index" if found else "none of the options"
        raise UserError(f"{row.where}: the answer {str(answer)[:80]!r} is {meant}")
    return found.pop()


def verify(reply: str, gold: str) -> Verdict:
    """Right if the last line with boxes holds the letter, in as many boxes as it likes, and no other answer."""
    return _grade(_boxed(after_thinking(reply)), gold)


def lenient(reply: str, gold: str) -> Verdict:
    """As `verify`; without a box, the letter that is the last line, else that of the last "answer is" or "answer:".

    Where several letters are listed, there is no answer."""
    return _grade(_found(after_thinking(reply)), gold)


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The letter that `verify` or `lenient` grades, as a capital."""
    text = after_thinking(reply)
    found = _found(text) if lenient else _boxed(text)
    return None if isinstance(found, Verdict) else found[0]


def _grade(found: Found, gold: str) -> Verdict:
    if isinstance(found, Verdict):
        return found
    letter, lenient = found
    right = letter == gold
    return Verdict(right, "" if right else "another option is right", letter, lenient)


def _found(text: str) -> Found:
    strict = _boxed(text)
    if not isinstance(strict, Verdict) or strict.extracted is not None:
        return strict
    letters = _last_lines(text[-TAIL:]) or _stated(text[-TAIL:])
    return (letters.pop(), True) if len(letters) == 1 else strict


def _boxed(text: str) -> Found:
    contents = last_boxes(text)
    if not any(contents):
        return Verdict(False, "no box with an answer", None)
    letters = [bare_letter(content) for content in contents]
    if len(set(letters)) > 1:
        return Verdict(False, "several answers in the last boxes", ", ".join(contents))
    if len({content for _, content in boxes(text)}) > MAX_BOXES:
        return Verdict(False, f"more than {MAX_BOXES} different boxes", contents[-1])
    if not letters[0]:
        return Verdict(False, "the box does not hold one letter alone", contents[-1])
    return letters[0], False


def bare_letter(text: str) -> str:
    """The one letter that is left of a text like "(C)", "C.", "**C**" or "\\text{C}", as a capital; "" otherwise."""
    bare = _DRESS.sub("", text) if len(text) <= 40 else ""
    return bare.upper() if len(bare) == 1 and bare in string.ascii_letters else ""


def _last_lines(text: str) -> set[str]:
    """The letters that stand alone on the last line and on those right before it."""
    found: set[str] = set()
    for line in reversed(text.split("\n")):
        if line.strip():
            letter = bare_letter(line.strip())
            if not letter or letter not in line:  # a small one is a word or a unit
                break
            found.add(letter)
    return found


def _stated(text: str) -> set[str]:
    """The letters behind the last "answer is" or "answer:" that is followed by one."""
    for stated in reversed(list(_STATED.finditer(text))):
        lines = [x for x in text[stated.end() : stated.end() + 500].split("\n") if x.strip(" *:_$")]
        words = _WORD.findall(_DRESS.sub(" ", lines[0])) if lines else []
        words = words[1:] if words and words[0].lower() in _NAMES else words
        if words and words[0].lower() in _REFUSALS:
            return set()
        if words and _is_letter(words[0]) and not (words[0] == "I" and words[1:] and words[1].islower()):
            return {words[0]} | _listed_with(words[1:], lines)
    return set()


def _listed_with(words: list[str], lines: list[str]) -> set[str]:
    """Other options that a statement offers: "or B", ", B", "A B C D", "A) this B) that", or a list over several lines."""
    line, below = lines[0].strip(), "".join(lines[1:2]).strip(" (*")
    found = set(_LABEL.findall(line))
    if len(labels := set(_ANY_LABEL.findall(line))) > 2:  # two may be "C) E. coli"
        found |= labels
    if _ANY_LABEL.match(below) or bare_letter(below):
        found.add(below[0])
    if words and (words[0].lower() == "or" or all(map(_is_letter, words))):
        found |= {"or", *words}
    elif len(words) > 1 and words[0].lower() in _JOINTS and _is_letter(words[1]):
        found.add(words[1])
    return found


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word in string.ascii_uppercase


def gold_reply(gold: str) -> str:
    """The letter in a box."""
    return f"\\boxed{{{gold}}}"


FORMAT = AnswerFormat(SOLVE, read, verify, lenient, gold_reply, extract_answer=answer)
