"""Rows of the suites with images, as their data sets have them, in one form: `question`, `answer` and `images`.

The question ends with its options in the order of the data set, because figures name their letters. What the
evaluation of a paper tells the model beyond that (units, decimal places, that the image has the question) is in our words.
"""

from __future__ import annotations

import ast
import re
import string
from dataclasses import replace
from decimal import Decimal
from typing import Any

from rethink.errors import UserError
from rethink.grading.formulas.judge import ROUNDED
from rethink.problems.letters import bare_letter
from rethink.problems.rows import Row, is_empty

IN_IMAGE = "Answer the question in the image."
NO_ANSWER = "?"
"""The answers of test sets that are not published."""

_MARK = re.compile(r"<image[ _]?(\d+)>")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_PLACES = {1: "one decimal place", 2: "two decimal places"}
_MOST_IMAGES = 7


def mathvista(row: Row) -> Row:
    """Return a row of MathVista. The answer to multiple choice is the text of an option; numbers have a precision."""
    question = row.text("question").strip()
    options = _options(row, "choices")
    if row.has("unit"):
        question += f" (Unit: {row.text('unit')})"
    if _is_choice(row, "multi_choice", "free_form"):
        answer = row.text("answer").strip()
        gold = _letters_of(answer, options)
        if not gold:
            raise UserError(f"{row.location}: the answer {answer[:80]!r} is not one of the choices {options}")
    else:
        kind, number = row.text("answer_type"), row.text("answer").strip()
        if kind not in ("integer", "float", "list"):
            raise UserError(f"{row.location}: answer_type is {kind!r}, not integer, float or list")
        gold = [f"{ROUNDED}{number}" if kind == "float" else number]
        question += f"\n\n{_form_of(row, kind)}"
    return _in_one_form(row, _with_options(row, question, options), gold, [_image(row, "decoded_image|image")])


def _letters_of(text: str, options: list[str]) -> list[str]:
    """Return the letters of the options with this text; in one row of testmini, two have that of the answer."""
    pairs = zip(string.ascii_uppercase, options, strict=False)
    return [letter for letter, option in pairs if option.strip() == text]


def _form_of(row: Row, kind: str) -> str:
    """Return what the prompts of MathVista's evaluation say about an answer that is no option."""
    if kind == "list":
        return "The answer is a list in square brackets, for example [1, 2, 3]."
    if kind == "integer":
        return "The answer is a whole number."
    given = row.text("precision") if row.has("precision") else "0"
    places = next((n for n in _PLACES if given.strip() in (str(n), f"{n}.0")), None)
    if places is None:
        raise UserError(f"{row.location}: the precision of a float is {given}, not 1 or 2")
    return f"Give the answer with {_PLACES[places]}."


def mathverse(row: Row) -> Row:
    """Return a row of MathVerse. Its questions show their options; those of the version Vision Only are in the image."""
    version = row.text("problem_version")
    answer = row.text("answer").replace("\u63b3", "\N{DEGREE SIGN}")  # a degree sign in the wrong encoding
    if _is_choice(row, "multi-choice", "free-form"):
        letters = [bare_letter(line) or line.strip() for line in answer.strip().splitlines()]
        answer = ", ".join(letters)
    question = row.text("question") if row.has("question") else IN_IMAGE
    images = [] if version == "Text Only" else [_image(row, "image")]
    return _in_one_form(row, question.strip(), [answer.strip()], images)


def mathvision(row: Row) -> Row:
    """Return a row of MathVision. One image has all figures that a question or its options mention."""
    options = _options(row, "options")
    answer = row.text("answer").replace("\f", "\\f").strip()  # one answer lost the backslash of \frac
    gold = _option_letter(row, answer, options) if options else answer
    question = _with_options(row, row.text("question").strip(), options)
    return _in_one_form(row, question, [gold], [_image(row, "decoded_image|image")])


def mmmu(row: Row) -> Row:
    """Return a row of MMMU. It has up to seven images, which the question and the options mention by number."""
    options = _options(row, "options")
    answer = row.text("answer").strip()
    if answer == NO_ANSWER:
        raise UserError(f"{row.location}: the answer is not published; use the split validation")
    if _is_choice(row, "multiple-choice", "open", "short-answer"):
        gold = [_option_letter(row, answer, options)]
    else:
        options, gold = [], list(map(_two_places, _texts(row, "answer")))
    question = _with_options(row, row.text("question").strip(), options)
    numbers = _mentioned(row, question)

    def renumbered(mark: re.Match[str]) -> str:
        n = int(mark[1])
        return f"<image {numbers.index(n) + 1}>" if n in numbers else f"image {n}"

    images = [_image(row, f"image_{n}") for n in numbers]
    return _in_one_form(row, _MARK.sub(renumbered, question), gold, images)


def _mentioned(row: Row, question: str) -> list[int]:
    """Return the numbers of the images that a question of MMMU mentions; without any, of those that are there."""
    there = [n for n in range(1, _MOST_IMAGES + 1) if row.has(f"image_{n}")]
    numbers = sorted(set(map(int, _MARK.findall(question)))) or there or [1]
    if numbers[-1] > _MOST_IMAGES:  # one question mentions 30 images: those without a column become words
        return [n for n in numbers if n in there]
    return numbers


def geometry3k(row: Row) -> Row:
    """Return a row of geometry3k without its choices: the answer is a value, as in the training of others."""
    return replace(row, values={name: value for name, value in row.values.items() if name != "choices"})


def _in_one_form(row: Row, question: str, gold: list[str], images: list[Any]) -> Row:
    """Return the row with its other columns, except for those that hold images and options. `gold` has the accepted
    answers."""
    kept: dict[str, Any] = {}
    for name, value in row.values.items():
        if name not in ("options", "choices", "image", "decoded_image") and not name.startswith("image_"):
            kept[name] = value
    return replace(row, values={**kept, "question": question, "answer": gold, "images": images})


def _is_choice(row: Row, choice: str, *others: str) -> bool:
    """Return whether the question is multiple choice. Raise UserError for a type that the data set does not have."""
    kind = row.text("question_type")
    if kind not in (choice, *others):
        raise UserError(f"{row.location}: question_type is {kind!r}, neither {choice!r} nor {others[0]!r}")
    return kind == choice


def _image(row: Row, names: str) -> Any:
    value = row.value(names)
    if is_empty(value):
        raise UserError(
            f"{row.location}: the column {names.partition('|')[0]!r} is empty, but the question needs its image"
        )
    return value


def _options(row: Row, name: str) -> list[str]:
    """Return the options of a row; [] if it has none."""
    options = _texts(row, name) if row.has(name) else []
    if len(options) == 1 or len(options) > len(string.ascii_uppercase):
        raise UserError(f"{row.location}: {len(options)} options; 2 to 26 can have letters")
    return options


def _texts(row: Row, name: str) -> list[str]:
    """Return the texts of a column: a list, or the text of a Python list, as MMMU has them, or a single text."""
    value = row.value(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError) as err:
            raise UserError(f"{row.location}: the column {name!r} is no list: {str(value)[:80]!r}") from err
    found = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if any(not text.strip() for text in found):
        raise UserError(f"{row.location}: the column {name!r} has an empty text")
    return found


def _option_letter(row: Row, answer: str, options: list[str]) -> str:
    if len(answer) != 1 or answer not in string.ascii_uppercase[: len(options)]:
        raise UserError(
            f"{row.location}: the answer {answer[:80]!r} is not the letter of one of {len(options)} options"
        )
    return answer


def _with_options(row: Row, question: str, options: list[str]) -> str:
    """Return a question with its options below, one per line, or a word on options that only the image shows."""
    if not options:
        return question
    letters = string.ascii_uppercase[: len(options)]
    if [bare_letter(option) for option in options] == list(letters):
        return f"{question}\n\nThe options are {', '.join(letters[:-1])} and {letters[-1]} in the image."
    lines: list[str] = []
    for letter, option in zip(letters, options, strict=True):
        lines.append(f"{letter}) {' '.join(option.split())}")
    return "\n".join([question, "", *lines])


def _two_places(text: str) -> str:
    """Return a decimal number as one that is rounded to two places at most, as the evaluation of MMMU compares numbers."""
    text = text.strip()
    if not _DECIMAL.fullmatch(text):
        return text
    places = min(2, len(text.partition(".")[2]))
    return f"{ROUNDED}{round(Decimal(text), places)}"
