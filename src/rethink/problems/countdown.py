"""Countdown: make a target from given numbers with + - *, written step by step.

    question  3 7 5 -> 26
    reply     7 - 3 = 4 ; 4 * 5 = 20 ? 3 * 7 = 21 ; 21 + 5 = 26

A reply is a search: attempts separated by `?`; the last one counts. Each step replaces two of the remaining numbers by
their result. A right attempt uses every number once and ends with the target.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from rethink.problems.answer_format import AnswerFormat
from rethink.problems.rows import Columns, Row
from rethink.seeds import rng, stable_hash
from rethink.settings import Replies
from rethink.thinking import after_thinking
from rethink.types import Demonstration, Problem, Verdict

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
LARGEST = 100
"""The largest result. Larger and negative ones are left out, so every number is one token of the tiny model."""


def problems(
    split: str, numbers: int = 3, largest: int = 12, replies: Replies | None = None, limit: int = 0
) -> list[Problem]:
    """Return all problems of a split: "train" (55%), "validation" (5%) or "test" (40%), with demonstrations by a teacher.
    With a `limit`, return the first so many of them.

    A hash of the sorted numbers and the target decides the split, so no two splits share a problem in any order of its
    numbers. Raise ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"countdown has the splits {', '.join(SPLITS)}, not {split!r}")
    teacher = replies or Replies()
    found = []
    for given in itertools.combinations_with_replacement(range(1, largest + 1), numbers):
        for target in sorted(solutions(given)):
            if stable_hash("countdown", *given, target) % 20 in SPLITS[split]:
                found.append(_problem(given, target, teacher))
                if len(found) == limit:
                    return found
    return found


SPLITS = {"train": range(11), "validation": range(11, 12), "test": range(12, 20)}


def numbers_and_target(problem: Problem) -> tuple[tuple[int, ...], int]:
    """Return the sorted numbers and the target: equal for problems that differ only in the order of the numbers."""
    given, target = _parse_question(problem.gold)
    return tuple(sorted(given)), target


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return question and gold answer. Raise UserError for a gold answer without numbers and a target."""
    return row.text(columns.question), FORMAT.gold_in(row, columns.answer)


def parse_gold(text: str) -> str:
    """Return the text. Raise ValueError unless it holds numbers and a target."""
    try:
        given, _ = _parse_question(text)
    except ValueError:
        given = []
    if len(given) < 2:
        raise ValueError(f'must be numbers and a target, such as "3 7 5 -> 26", not {text[:80]!r}')
    return text


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the last attempt makes the target from all the numbers, each used once, with right arithmetic."""
    given, target = _parse_question(gold)
    remaining = Counter(given)
    result = None
    for text in _last_attempt(reply):
        try:
            a, sign, b, result = _step(text)
        except ValueError as err:
            return Verdict(False, str(err))
        if OPERATIONS[sign](a, b) != result:
            return Verdict(False, f"wrong arithmetic: {' '.join(text.split())}")
        remaining.subtract((a, b))
        if min(remaining.values()) < 0:
            return Verdict(False, f"uses a number that is not available: {' '.join(text.split())}")
        remaining[result] += 1
    if remaining.total() != 1:
        return Verdict(False, "does not use every number")
    return Verdict(True) if result == target else Verdict(False, f"makes {result}, not {target}")


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the last attempt, the smaller number first in sums and products; None if it is not made of steps.

    Neither the arithmetic nor the result is checked; `equal_answers` compares results.
    """
    steps = []
    for text in _last_attempt(reply):
        try:
            a, sign, b, result = _step(text)
        except ValueError:
            return None
        if sign != "-":
            a, b = sorted((a, b))
        steps.append(f"{a} {sign} {b} = {result}")
    return " ; ".join(steps)


def equal_answers(a: str, b: str) -> bool:
    """Return whether two extracted attempts make the same number of the same numbers with right arithmetic.

    The verdicts on two such attempts are the same for every gold answer. Any other attempt equals only itself.
    """
    return a == b or (_result(a) or a) == (_result(b) or b)


def _result(attempt: str) -> tuple[list[int], int] | None:
    """Return the numbers that an attempt uses, sorted, and the one that it makes of them. None for wrong arithmetic, and
    if more than one number is left.
    """
    used: list[int] = []
    made: Counter[int] = Counter()
    result = 0
    for text in attempt.split(";"):
        a, sign, b, result = _step(text)
        if OPERATIONS[sign](a, b) != result:
            return None
        for number in (a, b):
            if made[number]:
                made[number] -= 1
            else:
                used.append(number)
        made[result] += 1
    return (sorted(used), result) if made.total() == 1 else None


def _last_attempt(reply: str) -> list[str]:
    return after_thinking(reply).split("?")[-1].split(";")


def _step(text: str) -> tuple[int, str, int, int]:
    """Return first number, sign, second number and result. Raise ValueError if the text is not a step."""
    words = text.split()
    if len(words) != 5 or words[1] not in OPERATIONS or words[3] != "=":
        raise ValueError(f"not a step: {text.strip()[:40]!r}")
    for word in words[::2]:
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise ValueError(f"not numbers: {text.strip()[:40]!r}")
    return int(words[0]), words[1], int(words[2]), int(words[4])


def gold_reply(gold: str) -> str:
    """Return a right attempt."""
    given, target = _parse_question(gold)
    return solutions(tuple(sorted(given)))[target][0]


FORMAT = AnswerFormat(
    "{question}",
    read_row,
    verify,
    verify,
    gold_reply,
    parse_gold,
    extract_answer=extract_answer,
    equal_answers=equal_answers,
)


@cache
def solutions(given: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
    """Return every attempt with all the numbers (sorted, at least two), by the target it makes, in a fixed order."""
    found: dict[int, dict[str, None]] = {}
    for text, target in _attempts(given):
        if target >= 1:
            found.setdefault(target, {})[text] = None
    return {target: tuple(texts) for target, texts in found.items()}


def _attempts(numbers: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [x for k, x in enumerate(numbers) if k not in (i, j)]
        for sign, operate in OPERATIONS.items():
            result = operate(numbers[i], numbers[j])
            if not 0 <= result <= LARGEST:
                continue
            step = f"{numbers[i]} {sign} {numbers[j]} = {result}"
            if not rest:
                yield step, result
            for more, target in _attempts((*rest, result)) if rest else ():
                yield f"{step} ; {more}", target


def _parse_question(text: str) -> tuple[list[int], int]:
    numbers, _, target = text.partition("->")
    return [int(n) for n in numbers.split()], int(target)


def _problem(given: tuple[int, ...], target: int, teacher: Replies) -> Problem:
    ident = f"countdown:{'-'.join(map(str, given))}={target}"
    shown = list(given)
    rng(ident, "order").shuffle(shown)
    question = f"{' '.join(map(str, shown))} -> {target}"

    def demonstrate(seed: int) -> tuple[Demonstration, ...]:
        return _demonstrations(given, target, teacher, rng(seed, ident))

    return replace(FORMAT.problem(ident, question, question, "countdown", "strict"), demonstrate=demonstrate)


def _demonstrations(
    given: tuple[int, ...], target: int, teacher: Replies, draw: random.Random
) -> tuple[Demonstration, ...]:
    """Return one reply for each of the teacher's phases."""
    right = solutions(given)[target]
    wrong: list[str] = []
    for other, texts in solutions(given).items():
        if other != target:
            wrong += texts

    def search() -> list[str]:
        return _search(right, wrong, teacher, draw)

    found = [Demonstration(" ? ".join(search()))]
    if "refine" in teacher.phases:
        draft = search()
        better = _improve([draft], right, wrong, teacher, draw)
        found.append(Demonstration(" ? ".join(better), "refine", (" ? ".join(draft),)))
    if "merge" in teacher.phases:
        drafts = [search() for _ in range(teacher.candidates)]
        better = _improve(drafts, right, wrong, teacher, draw)
        found.append(Demonstration(" ? ".join(better), "merge", tuple(map(" ? ".join, drafts))))
    if {"reflect", "retry"} & {*teacher.phases} and wrong:
        found += _reflection(right, wrong, teacher, draw)
    return tuple(shown for shown in found if shown.phase in teacher.phases)


def _improve(
    drafts: Sequence[Sequence[str]], right: Sequence[str], wrong: Sequence[str], teacher: Replies, draw: random.Random
) -> list[str]:
    """Return the attempts of an answer that follows drafts: a careful one, or one that ignores whether they are right."""
    if draw.random() < teacher.p_careful:
        tried: set[str] = set()
        for draft in drafts:
            if draft[-1] in right:
                return [draft[-1]]
            tried.update(draft)
        return _search(right, [text for text in wrong if text not in tried], teacher, draw)
    draft = drafts[0] if len(drafts) == 1 else draw.choice(drafts)
    return draw.choice([[draft[-1]], _search(right, wrong, teacher, draw)])


def _reflection(
    right: Sequence[str], wrong: Sequence[str], teacher: Replies, draw: random.Random
) -> Iterator[Demonstration]:
    """Yield a reflection on a failed try, and the retry."""
    attempts = []
    for _ in range(draw.randint(1, teacher.attempts)):
        attempts.append(draw.choice(wrong))
    failed = " ? ".join(attempts)
    hint = draw.choice(right if draw.random() < teacher.p_hint else wrong).split(" ; ")[0]
    yield Demonstration(hint, "reflect", (failed,))
    if draw.random() < teacher.p_careful:  # follow the hint
        right = [text for text in right if f"{text} ;".startswith(f"{hint} ;")]
        wrong = [text for text in wrong if f"{text} ;".startswith(f"{hint} ;")]
    retry = _search(right, wrong, teacher, draw) if right and wrong else [draw.choice(right or wrong)]
    yield Demonstration(" ? ".join(retry), "retry", (failed, hint))


def _search(right: Sequence[str], wrong: Sequence[str], teacher: Replies, draw: random.Random) -> list[str]:
    tried: list[str] = []
    while len(tried) < teacher.attempts:
        is_right = draw.random() < teacher.p_right or not wrong
        tried.append(draw.choice(right if is_right else wrong))
        if is_right:
            break
    return tried
