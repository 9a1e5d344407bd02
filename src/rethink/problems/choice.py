"""Multiple choice: options A, B, C, ... in an order drawn for each question; the answer is a letter in a box.

`columns.options` names either

- one column with a list of all options (dots reach into it: `choices.text`), or an object {"A": ..., "B": ...}. Then
  `answer` is the index of the right option from 0, or its letter, or its text; or
- several columns, separated by commas, such as GPQA's three wrong answers (arXiv 2311.12022). Then `answer` is the text
  of the right option. If it is the name of one of the columns ("C" of "A,B,C,D"), the columns hold all options.
"""

from __future__ import annotations

import json
import re
import string
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import MAX_BOXES, boxes, json_value, last_boxes, readable
from rethink.grading.refinement import read_boxes
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.letters import bare_letter, labeled_letters, stated_letters
from rethink.problems.rows import Columns, Row
from rethink.seeds import rng
from rethink.types import Verdict

SOLVE = (
    "{question}\n\nReason step by step about the options. Then give the letter of the right one, and nothing but this "
    "letter, in \\boxed{}, for example \\boxed{B}."
)

TAIL = 20_000
"""Lenient extraction reads this many characters at the end."""

Extracted = tuple[str, bool] | Verdict
"""A letter and whether lenient extraction was needed, or the verdict that there is no letter."""


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the question with its options, one per line, and the letter of the right one.

    `rethink prepare` writes questions that already end with lettered options; these are returned unchanged. Raise
    UserError if there are too few or too many options, if two are equal, or if the answer is not one of them.
    """
    question = row.text(columns.question).strip()
    listed = any(row.has(name.strip()) for name in columns.options.split(","))
    if not listed and row.has(columns.answer) and row.text(columns.answer) in _option_letters(question):
        return question, row.text(columns.answer)
    options, right = _options(row, columns)
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise UserError(f"{row.location}: {len(options)} options; 2 to 26 can have letters")
    for n, option in enumerate(options):
        if option in options[:n]:
            raise UserError(f"{row.location}: two options are the same, {option[:80]!r}")
    order = list(range(len(options)))
    if not (columns.in_order and _have_letters(columns)):
        rng(seed, question).shuffle(order)
    lines = [question, ""]
    for letter, n in zip(string.ascii_uppercase, order, strict=False):
        lines.append(f"{letter}) {options[n]}")
    return "\n".join(lines), string.ascii_uppercase[order.index(right)]


def refuse_hidden_options(row: Row, question: str) -> None:
    """Raise UserError if the row has a list of options that its question does not show: they would never be asked."""
    for name in ("options", "choices"):
        options = row.values.get(name)
        if not isinstance(options, list) or len(options) < 2:
            continue
        hidden = [option for option in options if isinstance(option, str) and option not in question]
        if len(hidden) == len(options):
            raise UserError(
                f"{row.location}: the column {name!r} holds options that the question does not show; set verifier=choice "
                f"and options={name} (problems.verifier and problems.options), or remove the column"
            )


def _have_letters(columns: Columns) -> bool:
    """Return whether the options have letters in the file: a list has, columns of wrong answers have not."""
    names = [name.strip() for name in columns.options.split(",") if name.strip()]
    return len(names) == 1 or names == list(string.ascii_uppercase[: len(names)])


def _option_letters(question: str) -> list[str]:
    """Return the letters of the options after a question's last empty line; [] unless they are A, B and so on."""
    letters = [line[:1] if line[1:3] == ") " else "" for line in question.rpartition("\n\n")[2].split("\n")]
    return letters if len(letters) > 1 and letters == list(string.ascii_uppercase[: len(letters)]) else []


def without_order(question: str) -> str:
    """Return a question with its options sorted and without letters: the same whatever order they were drawn in."""
    if not _option_letters(question):
        return question
    asked, _, options = question.rpartition("\n\n")
    return "\n".join([asked, *sorted(line[3:] for line in options.split("\n"))])


def _options(row: Row, columns: Columns) -> tuple[list[str], int]:
    """Return all options, each on one line, and the index of the right one."""
    names = [name.strip() for name in columns.options.split(",")]
    names = list(filter(None, names))
    if len(names) == 1:
        labeled = [_one_line(row, option) for option in _option_list(row, names[0])]
        options = _without_labels(labeled)
        answer = row.value(columns.answer)
        labels = _labels_beside(row, names[0])
        if len(labels) == len(options) and str(answer).strip() in labels:
            return options, labels.index(str(answer).strip())
        return options, _answer_index(row, answer, labeled, options)
    listed = []
    for name in names:
        listed.append(_one_line(row, row.value(name)))
    if names == list(string.ascii_uppercase[: len(names)]):
        return listed, _answer_index(row, row.value(columns.answer), listed, listed)
    answer = _one_line(row, row.value(columns.answer))
    if answer in names:
        return listed, names.index(answer)
    return [answer, *listed], 0


def _option_list(row: Row, name: str) -> list[Any]:
    value = row.value(name)
    try:
        value = json_value(value) if isinstance(value, str) else value
    except ValueError as err:
        raise UserError(f"{row.location}: the column {name!r} is not a list of options ({err})") from err
    if isinstance(value, dict) and value and "".join(value) == string.ascii_uppercase[: len(value)]:
        return list(value.values())  # {"A": ..., "B": ...}
    if not isinstance(value, list):
        hint = f"; is the list in {name}.text?" if isinstance(value, dict) and "text" in value else ""
        raise UserError(f"{row.location}: the column {name!r} is not a list of options{hint}")
    return value


def _labels_beside(row: Row, name: str) -> list[str]:
    """Return the labels of `choices.text` in `choices.label`, as ARC has them ("1" is its first option); else []."""
    beside = name.removesuffix("text") + "label"
    if not name.endswith(".text") or not row.has(beside):
        return []
    labels = row.value(beside)
    return [str(label).strip() for label in labels] if isinstance(labels, list) else []


def _one_line(row: Row, cell: Any) -> str:
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)
    if cell is None or not text.strip():
        raise UserError(f"{row.location}: an option or the answer is empty")
    return " ".join(line.strip() for line in text.strip().splitlines() if line.strip())


def _without_labels(options: list[str]) -> list[str]:
    """Return the options without the labels "A.", "(B)" and so on, if all have theirs in order: they get new letters."""
    bare: list[str] = []
    for letter, option in zip(string.ascii_uppercase, options, strict=False):
        found = re.match(rf"\(?{letter}[.):]\s*(?=\S)", option)
        if found is None:
            return options
        bare.append(option[found.end() :])
    return bare


def _answer_index(row: Row, answer: Any, labeled: list[str], options: list[str]) -> int:
    """Return the index of the right option. Raise UserError if the answer matches no option, or two (letter and text)."""
    number = _as_index(answer)
    found = {number} & set(range(len(options))) if number is not None else set()
    if number is None or isinstance(answer, str):
        text = _one_line(row, answer)
        letter = bare_letter(text)
        found |= {names.index(text) for names in (options, labeled) if text in names}
        if letter in string.ascii_uppercase[: len(options)] and letter and (not found or text == letter):
            found.add(string.ascii_uppercase.index(letter))
    if len(found) != 1:
        fault = "matches two options; give an index instead" if found else "is not one of the options"
        if number is not None and not found:
            fault += f"; an index counts from 0, so the last one is {len(options) - 1}"
        raise UserError(f"{row.location}: the answer {str(answer)[:80]!r} {fault}")
    return found.pop()


def _as_index(answer: Any) -> int | None:
    """Return an answer that is a whole number, also as text (in a CSV file) or as a float (beside empty cells)."""
    if isinstance(answer, str) and answer.strip().isascii() and answer.strip().isdigit() and len(answer) < 9:
        return int(answer)
    is_whole = isinstance(answer, int | float) and not isinstance(answer, bool) and answer == answer // 1
    return int(answer) if is_whole else None


def parse_gold(text: str) -> str:
    """Return the letter in a text. Raise ValueError for anything else: without its options, it fits no reply."""
    letter = bare_letter(text)
    if not letter:
        raise ValueError(f"must be the letter of the right option, such as B, not {text[:80]!r}")
    return letter


def verify(reply: str, gold: str) -> Verdict:
    """Return right if all boxes on the last line with boxes hold the letter."""
    return _grade(_extract_strict(readable(reply)), gold)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does; if no box holds a letter, take that of "C. carbon" in a box, or the letter that the reply
    states. A reply that names several letters there has no answer.
    """
    return _grade(_extract_lenient(readable(reply)), gold)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the letter that the verifiers grade, as a capital."""
    text = readable(reply)
    found = _extract_lenient(text) if lenient else _extract_strict(text)
    return None if isinstance(found, Verdict) else found[0]


def _grade(found: Extracted, gold: str) -> Verdict:
    if isinstance(found, Verdict):
        return found
    letter, lenient = found
    right = letter == gold
    return Verdict(right, "" if right else "wrong option", letter, lenient)


def _extract_lenient(text: str) -> Extracted:
    strict = _extract_strict(text)
    contents = dict.fromkeys(last_boxes(text))
    if not isinstance(strict, Verdict) or any(map(bare_letter, contents)):
        return strict
    labels = [labeled_letters(content) for content in contents]
    letters = set().union(*labels) if all(labels) else set()
    letters = letters if any(labels) else stated_letters(text[-TAIL:])
    return (letters.pop(), True) if len(letters) == 1 else strict


def _extract_strict(text: str) -> Extracted:
    contents = last_boxes(text)
    if not any(contents):
        return Verdict(False, "no box with an answer", None)
    letters = [bare_letter(content) for content in contents]
    if len(set(letters)) > 1:
        return Verdict(False, "several answers in the last boxes", ", ".join(contents))
    if len({content for _, content in boxes(text) if content}) > MAX_BOXES:
        return Verdict(False, f"more than {MAX_BOXES} different boxes", contents[-1])
    if not letters[0]:
        return Verdict(False, "the box does not hold one letter alone", contents[-1])
    return letters[0], False


def gold_reply(gold: str) -> str:
    """Return the letter in a box."""
    return f"\\boxed{{{gold}}}"


FORMAT = AnswerFormat(
    SOLVE,
    read_row,
    verify,
    verify_lenient,
    gold_reply,
    parse_gold,
    extract_answer=extract_answer,
    read_refinement=read_boxes,
)
