"""Signs: put + - * between the numbers of each line, so that it makes the line's result, calculated from left to right.

    question  3 7 5 -> 26 ; 9 2 8 -> 15
    reply     3 * 7 = 21 + 5 = 26 ; 9 - 2 = 7 + 8 = 15

All lines must be right. The signs of a line have to be searched for, but a wrong line shows, because it ends with another
result. A wrong reply often has one wrong line, so mending it is easier than writing a new one. A reply may hold several
attempts, separated by `?` or `again`; the last one counts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

from rethink.problems.answer_format import AnswerFormat
from rethink.problems.rows import Columns, Row
from rethink.seeds import rng, stable_hash
from rethink.settings import Replies
from rethink.thinking import after_thinking
from rethink.types import Demonstration, Problem, Verdict

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
LARGEST = 100
"""The largest result of a step. Larger and negative ones are left out, so every number is one token of the tiny models."""

MOST_NUMBERS = 8
"""The most numbers in a line: n numbers can be joined in 3^(n - 1) ways, which are all tried."""

SPLITS = {"train": (range(12), 4000), "validation": (range(12, 14), 400), "test": (range(14, 20), 1600)}
"""The twentieths of all lines that a split draws from, and its number of problems."""

Line = tuple[tuple[int, ...], int]
"""The numbers of a line and its result."""


def problems(
    split: str, lines: int = 3, numbers: int = 3, largest: int = 12, replies: Replies | None = None, limit: int = 0
) -> list[Problem]:
    """Return the problems of a split, "train" (4,000), "validation" (400) or "test" (1,600), and what a teacher replies.
    With a `limit`, return the first so many of them.

    A hash of the line, its numbers in order and its result, decides the split, so no line of one split is in another. The
    same numbers in another order, or with another result, may be. Raise ValueError for another split, and for settings with
    which there are too few different problems.
    """
    if split not in SPLITS:
        raise ValueError(f"signs has the splits {', '.join(SPLITS)}, not {split!r}")
    shares, n_problems = SPLITS[split]
    draw = rng("signs", split, lines, numbers, largest)
    found: dict[str, Problem] = {}
    asked: list[Line] = []
    for _ in range(100 * lines * n_problems):
        given = tuple(draw.randint(1, largest) for _ in range(numbers))
        result = draw.choice(sorted(ways(given)))
        if stable_hash("signs", *given, result) % 20 in shares:
            asked.append((given, result))
        if len(asked) == lines:
            problem = _problem(asked, replies or Replies())
            found[problem.id] = problem
            asked = []
        if len(found) in (n_problems, limit or n_problems):
            return list(found.values())
    raise ValueError(
        f"there are too few different problems of {lines} lines with {numbers} numbers up to {largest}; raise lines, "
        "numbers or largest"
    )


@cache
def ways(given: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
    """Return the lines that can be written with these numbers, by their result. No step leaves the range 0 to 100."""
    found: dict[int, tuple[str, ...]] = {}
    for signs in product(OPERATIONS, repeat=len(given) - 1):
        text, values = str(given[0]), [given[0]]
        for sign, number in zip(signs, given[1:], strict=True):
            values.append(OPERATIONS[sign](values[-1], number))
            text += f" {sign} {number} = {values[-1]}"
        if min(values) >= 0 and max(values) <= LARGEST:
            found[values[-1]] = (*found.get(values[-1], ()), text)
    return found


def verify(reply: str, gold: str) -> Verdict:
    """Return right if every line of the last attempt is right. The reason names the wrong lines: "wrong 2 3"."""
    asked, written = parse_question(gold), _last_attempt(reply)
    wrong: list[str] = []
    for n in range(max(len(asked), len(written))):
        if n >= min(len(asked), len(written)) or written[n] not in ways(asked[n][0]).get(asked[n][1], ()):
            wrong.append(str(n + 1))
    return Verdict(False, " ".join(["wrong", *wrong])) if wrong else Verdict(True, "right")


def parse_question(text: str) -> list[Line]:
    """Return the lines of a question. Raise ValueError for a text that is none."""
    found: list[Line] = []
    for line in text.split(";"):
        numbers, arrow, result = line.partition("->")
        given = tuple(int(n) for n in numbers.split())
        if not arrow or not 2 <= len(given) <= MOST_NUMBERS:
            raise ValueError(f"not numbers and a result: {line.strip()[:40]!r}")
        found.append((given, int(result)))
    return found


def parse_gold(text: str) -> str:
    """Return the text. Raise ValueError unless each of its lines can be made."""
    try:
        lines = parse_question(text)
    except ValueError:
        lines = []
    if not lines or any(result not in ways(given) for given, result in lines):
        raise ValueError(f'must be lines that can be made, such as "3 7 5 -> 26 ; 9 2 8 -> 15", not {text[:80]!r}')
    return text


def gold_reply(gold: str) -> str:
    """Return a right reply."""
    return " ; ".join(ways(given)[result][0] for given, result in parse_question(gold))


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return question and gold answer. Raise UserError for a gold answer without lines that can be made."""
    return row.text(columns.question), FORMAT.gold_in(row, columns.answer)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the last attempt; None if it is empty. `equal_answers` compares results."""
    return " ; ".join(_last_attempt(reply)) or None


def equal_answers(a: str, b: str) -> bool:
    """Return whether two extracted attempts have lines of the same numbers and results, with right arithmetic.

    The verdicts on two such attempts are the same for every gold answer. Any other attempt equals only itself."""
    return a == b or (_made(a) or a) == (_made(b) or b)


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


def _last_attempt(reply: str) -> list[str]:
    """Return the lines of the last attempt, with single spaces."""
    attempt = after_thinking(reply).replace("again", "?").split("?")[-1]
    return [" ".join(line.split()) for line in attempt.split(";")]


def _made(attempt: str) -> list[Line] | None:
    """Return the numbers and the result of each line; None for wrong arithmetic and for lines of another form."""
    found: list[Line] = []
    for text in _last_attempt(attempt):
        words = text.split()
        numbers = [words[0], *words[2::4]] if words else []
        if (
            not all(word.isascii() and word.isdigit() and len(word) < 4 for word in numbers)
            or len(numbers) > MOST_NUMBERS
        ):
            return None
        given = tuple(map(int, numbers))
        results = [result for result, lines in ways(given).items() if text in lines] if len(given) > 1 else []
        if not results:
            return None
        found.append((given, results[0]))
    return found


def _problem(asked: Sequence[Line], teacher: Replies) -> Problem:
    question = " ; ".join(f"{' '.join(map(str, given))} -> {result}" for given, result in asked)

    def demonstrate(seed: int) -> tuple[Demonstration, ...]:
        return tuple(_demonstrations(question, asked, teacher, rng(seed, question)))

    ident = "signs:" + question.replace(" -> ", "=").replace(" ; ", ";").replace(" ", "-")
    return replace(FORMAT.problem(ident, question, question, "signs", "strict"), demonstrate=demonstrate)


def _demonstrations(
    question: str, asked: Sequence[Line], teacher: Replies, draw: random.Random
) -> Iterator[Demonstration]:
    """Yield one reply for each of the teacher's phases. All drafts are attempts like those of its solve replies."""
    for phase in teacher.phases:
        drafts = [_attempt(asked, teacher, draw) for _ in range(teacher.candidates if phase == "merge" else 1)]
        shown = tuple(" ; ".join(draft) for draft in drafts)
        if phase == "solve":
            yield Demonstration(shown[0])
        elif phase == "reflect":
            yield Demonstration(_check(shown[0], question, asked, teacher, draw), phase, shown)
        elif phase == "retry":
            checked = _check(shown[0], question, asked, teacher, draw)
            yield Demonstration(_improve(drafts, asked, teacher, draw), phase, (*shown, checked))
        elif phase in ("refine", "merge"):
            yield Demonstration(_improve(drafts, asked, teacher, draw), phase, shown)


def _attempt(asked: Sequence[Line], teacher: Replies, draw: random.Random) -> list[str]:
    return [_write(line, teacher, draw) for line in asked]


def _write(line: Line, teacher: Replies, draw: random.Random) -> str:
    """Return a line that is right with the teacher's probability; otherwise it makes another result."""
    given, result = line
    wrong: list[str] = []
    for other, texts in ways(given).items():
        if other != result:
            wrong += texts
    return draw.choice(ways(given)[result] if draw.random() < teacher.p_right or not wrong else wrong)


def _improve(drafts: Sequence[Sequence[str]], asked: Sequence[Line], teacher: Replies, draw: random.Random) -> str:
    """Return a reply that follows drafts. A careful line keeps what is right or is written again, others repeat a draft."""
    lines = []
    for n, line in enumerate(asked):
        given, result = line
        tried = [draft[n] for draft in drafts]
        if draw.random() >= teacher.p_careful:
            lines.append(draw.choice(tried))
            continue
        right = [text for text in tried if text in ways(given)[result]]
        lines.append(right[0] if right else _write(line, teacher, draw))
    return " ; ".join(lines)


def _check(draft: str, question: str, asked: Sequence[Line], teacher: Replies, draw: random.Random) -> str:
    """Return what is wrong with a draft, as the verifier says it; with 1 - `p_hint`, what is wrong with another one."""
    if draw.random() >= teacher.p_hint:
        draft = " ; ".join(_attempt(asked, teacher, draw))
    return verify(draft, question).reason
