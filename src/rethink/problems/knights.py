"""Knights and knaves (R. Smullyan, "What Is the Name of This Book?", 1978): who always tells the truth, who always lies?

    question  ... You meet Ann and Bob.
              Ann says: "I am a knave or Bob is a knight."
              Bob claims: "The following is not true: Ann is not a knave if and only if I am a knight."
    gold      Ann is a knight, Bob is a knave
    reply     <answer>Ann is a knight, Bob is a knave</answer>

Each person makes one statement: the role of somebody else, or the roles of two people (the speaker may be one) joined by
and, or, if-then or if-and-only-if, and perhaps denied as a whole. All 2^n assignments are tried, and only puzzles with
exactly one solution are kept, as those of arXiv 2410.23123.

The split is a hash of what is said, not of how: puzzles that differ only in names, in the order of people, or in words
of the same meaning ("not a knave"; "and" the other way round) are always in the same split. Of two people there are only
some 40 puzzles that differ in more than that, of three already thousands.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.grading.extract import after_thinking, answer_tag
from rethink.problems import roles
from rethink.problems.form import Columns, Form, Row, read_question_and_answer
from rethink.problems.roles import MAX_ANSWER
from rethink.seeds import rng, stable_hash
from rethink.types import Problem, Verdict

SOLVE = (
    "{question}\n\nReason step by step. Then state the role of each person once, and nothing else, between answer tags, "
    "for example <answer>Ann is a knight, Bob is a knave</answer>."
)

QUESTION = (
    "On an island, each person is either a knight, who always tells the truth, or a knave, who always lies. You meet "
    '{people}.\n{statements}\n("Or" allows both, and "if ..., then ..." is false only where the first part is true and '
    "the second is false.) Who is a knight, and who is a knave?"
)

SPLITS = {"train": range(12), "validation": range(12, 15), "test": range(15, 20)}
PEOPLE = range(2, 9)
NAMES = re.findall(
    r"\w+", "Ann Bob Carl Dora Emil Fay Gus Hana Ivo June Karl Lena Max Nora Otto Pia Quin Rosa Tess Uri Vera Walt"
)
VERBS = ("says", "claims", "states")
JOINED = {"and": "{} and {}", "or": "{} or {}", "if": "if {}, then {}", "iff": "{} if and only if {}"}
MAX_DRAWS = 1000
"""Draws per wanted problem, after which there are taken to be no more."""

_MET = re.compile(r"\bYou meet (?:\d+ inhabitants: )?([^.:\n]+)\.")


@dataclass(frozen=True)
class Role:
    """The role that somebody is said to have or, if `denied`, not to have; people are numbers."""

    person: int
    role: str
    denied: bool = False


@dataclass(frozen=True)
class Statement:
    """One role, or two that are joined by a key of JOINED; `denied` puts "not true" in front of it all."""

    roles: tuple[Role, ...]
    joined: str = ""
    denied: bool = False


def problems(split: str, people: int, size: int, seed: int = 0) -> list[Problem]:
    """The first `size` problems of a split ("train", "validation" or "test"), always the same for the same seed.

    Raises ValueError for an unknown split, for fewer than 2 or more than 8 people, and where there are not that many.
    """
    if split not in SPLITS:
        raise ValueError(f"knights has the splits {', '.join(SPLITS)}, not {split!r}")
    if people not in PEOPLE:
        raise ValueError(f"knights needs {PEOPLE[0]} to {PEOPLE[-1]} people, not {people}")
    if size < 1:
        raise ValueError(f"knights needs a size of at least 1, not {size}")
    found: dict[str, Problem] = {}
    for n in range(MAX_DRAWS * size):
        problem = _draw(split, people, rng("knights", seed, people, n))
        if problem is not None:
            found.setdefault(problem.id, problem)
        if len(found) == size:
            return list(found.values())
    raise ValueError(f"only {len(found)} of {size} different problems found for {people} people in {split!r}")


def solutions(statements: Sequence[Statement]) -> list[tuple[bool, ...]]:
    """Every assignment (is person i a knight?) in which the knights' statements are true and the knaves' false.

    All assignments at once: bit a of a whole number tells what holds in assignment a, in which person i is a knight if
    bit i of a is set.
    """
    n = len(statements)
    knight = {i: sum(1 << a for a in range(2**n) if a >> i & 1) for i in range(n)}
    everything = (1 << 2**n) - 1
    possible = everything
    for speaker, statement in enumerate(statements):
        possible &= everything ^ knight[speaker] ^ _truth(statement, knight, everything)
    return [tuple(bool(a >> i & 1) for i in range(n)) for a in range(2**n) if possible >> a & 1]


def fingerprint(statements: Sequence[Statement]) -> int:
    """A hash of what is said, the same for puzzles that differ in the order of people or in equivalent words alone.

    Each person gets a colour, refined three times by the colours of those that the statement is about (Weisfeiler and
    Leman), and by its truth table. Different puzzles may share a hash, which costs nothing but variety of the splits.
    """
    colours = [0] * len(statements)
    for _ in range(3):
        colours = [
            stable_hash(c, *_said(i, s, colours)) for i, (c, s) in enumerate(zip(colours, statements, strict=True))
        ]
    return stable_hash("knights", *sorted(colours))


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Question and gold answer of two columns. Raises UserError where the answer is not a list of roles."""
    question, answer = read_question_and_answer(row, columns, seed)
    try:
        return question, roles.listed(roles.read(answer).values())
    except ValueError as err:
        raise UserError(f"{row.where}: the answer must read like 'Ann is a knight, Bob is a knave': {err}") from err


def verify(reply: str, gold: str) -> Verdict:
    """Right if the last answer tag behind the thinking states everybody's role, once each, and all as in the gold.

    The roles are separated by commas, semicolons, full stops, line breaks or "and"; case does not matter.
    """
    tag = answer_tag(after_thinking(reply))
    if tag is None:
        return Verdict(False, "no answer tag", None)
    try:
        return _compare(roles.read(tag), gold, tag)
    except ValueError as err:
        return Verdict(False, str(err), tag[:MAX_ANSWER])


def lenient(reply: str, gold: str) -> Verdict:
    """As `verify`; where that can read no roles, also freer wording ("Ann: knight", "Ann and Bob are knights") in the
    tag or, if there is none, in the last lines. Lines with "if", "or", "not" and the like are reasoning, not an answer;
    lines that give somebody both roles are none either."""
    text = after_thinking(reply)
    stated = _freely(text, answer_tag(text), {name: shown for name, (shown, _) in roles.read(gold).items()})
    if stated is None:
        return verify(reply, gold)
    return replace(_compare(stated, gold, roles.listed(stated.values())), lenient=True)


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The roles that `verify` or `lenient` compares, by name, in small letters. Freer wording is read of the people whom
    the question introduces with "You meet Ann and Bob." alone; the usual wording may name anybody."""
    text = after_thinking(reply)
    tag = answer_tag(text)
    stated = _freely(text, tag, _people(question)) if lenient else None
    if stated is None:
        stated = _stated(tag)
    return roles.listed((name, role) for name, (_, role) in sorted(stated.items())) or None


def _freely(text: str, tag: str | None, people: Mapping[str, str]) -> roles.Roles | None:
    """The roles of all people in freer wording, where they are not in the usual one."""
    if not people or _stated(tag).keys() == people.keys():
        return None
    found = roles.concluded((text if tag is None else tag)[-5 * MAX_ANSWER :], people)
    stated = {name: (people[name], role) for name, role in found}
    return stated if len(set(found)) == len(stated) == len(people) else None


def _stated(tag: str | None) -> roles.Roles:
    """The roles in the usual wording; empty where they cannot be read."""
    try:
        return {} if tag is None else roles.read(tag)
    except ValueError:
        return {}


def _people(question: str) -> dict[str, str]:
    """The people in a question, name in small letters -> name; empty where they are not introduced as usual."""
    found = _MET.search(question)
    names = re.split(r",\s*and\s+|,\s*|\s+and\s+", found[1]) if found else []
    return {name.casefold(): name for name in names}


def state(gold: str) -> str:
    """The gold answer as a reply."""
    return f"<answer>{gold}</answer>"


FORM = Form(solve=SOLVE, read=read, verify=verify, lenient=lenient, state=state, answer=answer)


def _draw(split: str, people: int, draw: random.Random) -> Problem | None:
    statements = [_statement(i, people, draw) for i in range(people)]
    if fingerprint(statements) % 20 not in SPLITS[split]:
        return None
    solved = solutions(statements)
    if len(solved) != 1:
        return None
    names = draw.sample(NAMES, people)
    lines = [f'{names[i]} {draw.choice(VERBS)}: "{_sentence(i, s, names)}"' for i, s in enumerate(statements)]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    question = QUESTION.format(people=listed, statements="\n".join(lines))
    gold = ", ".join(f"{name} is a {'knight' if k else 'knave'}" for name, k in zip(names, solved[0], strict=True))
    ident = f"knights:{stable_hash(question):016x}"
    read_answer, same = FORM.votes(question, lenient=False)
    return Problem(ident, question, gold, verify, solve=SOLVE, suite="knights", answer=read_answer, same=same)


def _statement(speaker: int, people: int, draw: random.Random) -> Statement:
    def role(person: int) -> Role:
        return Role(person, draw.choice(("knight", "knave")), draw.random() < 0.25)

    if draw.random() < 0.2:
        return Statement((role(draw.choice([i for i in range(people) if i != speaker])),))
    a, b = draw.sample(range(people), 2)
    return Statement((role(a), role(b)), draw.choice(list(JOINED)), draw.random() < 0.2)


def _truth(statement: Statement, knight: Mapping[int, int], everything: int) -> int:
    """The assignments in which a statement holds, given those in which each person is a knight, as bits."""
    a, *others = (
        knight[r.person] if (r.role == "knight") != r.denied else everything ^ knight[r.person] for r in statement.roles
    )
    b = others[0] if others else a
    joined = {"": a, "and": a & b, "or": a | b, "if": everything ^ a | b, "iff": everything ^ a ^ b}[statement.joined]
    return everything ^ joined if statement.denied else joined


def _said(speaker: int, statement: Statement, colours: Sequence[int]) -> tuple[int, ...]:
    """Whom a statement is about, and its truth table over them; two people in the order that gives the smaller tuple."""
    about = [r.person for r in statement.roles]
    columns = (0b1100, 0b1010)
    orders = []
    for order in (about, about[::-1]):
        table = _truth(statement, dict(zip(order, columns, strict=False)), 0b1111)
        orders.append((*(part for i in order for part in (colours[i], int(i == speaker))), table))
    return min(orders)


def _sentence(speaker: int, statement: Statement, names: Sequence[str]) -> str:
    roles = [
        f"{'I am' if r.person == speaker else f'{names[r.person]} is'} {'not ' if r.denied else ''}a {r.role}"
        for r in statement.roles
    ]
    text = JOINED[statement.joined].format(*roles) if statement.joined else roles[0]
    text = f"The following is not true: {text}" if statement.denied else text
    return text[0].upper() + text[1:] + "."


def _compare(stated: roles.Roles, gold: str, extracted: str) -> Verdict:
    truth = roles.read(gold)
    if stated.keys() != truth.keys():
        return Verdict(False, "does not name exactly the people of the puzzle", extracted)
    right = all(stated[name][1] == role for name, (_, role) in truth.items())
    return Verdict(right, "every role is right" if right else "at least one role is wrong", extracted)
