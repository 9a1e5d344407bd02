"""Knights and knaves: every puzzle is read back from its English and solved by brute force; hostile replies."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.problems import knights
from rethink.problems.form import Columns, Row
from rethink.problems.knights import FORM, JOINED, SPLITS, Role, Statement, fingerprint, problems, solutions
from rethink.types import Problem

GOLD = "Ann is a knight, Bob is a knave, Carl is a knave"

# A second implementation: the sentences are read back and evaluated with Python's own booleans, one assignment at a time.

World = dict[str, bool]
Meaning = Callable[[World], bool]


def read_role(text: str, speaker: str) -> Meaning:
    found = re.fullmatch(r"(I am|\w+ is) (not )?a (knight|knave)", text)
    assert found, text
    name = speaker if found[1] == "I am" else found[1].removesuffix(" is")
    return lambda world: (world[name] == (found[3] == "knight")) != bool(found[2])


def read_sentence(text: str, speaker: str) -> Meaning:
    denied = text.removeprefix("The following is not true: ")
    if denied != text:
        inner = read_sentence(denied, speaker)
        return lambda world: not inner(world)
    condition = re.fullmatch(r"[Ii]f (.+), then (.+)", text)
    if condition:
        a, b = (read_role(part, speaker) for part in condition.groups())
        return lambda world: b(world) if a(world) else True
    for word, operate in {
        " if and only if ": lambda x, y: x == y,
        " and ": lambda x, y: x and y,
        " or ": lambda x, y: x or y,
    }.items():
        if word in text:
            a, b = (read_role(part, speaker) for part in text.split(word))
            return lambda world, operate=operate, a=a, b=b: operate(a(world), b(world))  # type: ignore[misc]
    return read_role(text, speaker)


def read_question(question: str) -> tuple[list[str], list[tuple[str, Meaning]]]:
    listed = re.search(r"You meet (.+)\.\n", question)
    assert listed
    said = re.findall(r'^(\w+) (?:says|claims|states): "(.+)\."$', question, re.MULTILINE)
    return re.findall(r"[A-Z]\w+", listed[1]), [(name, read_sentence(text, name)) for name, text in said]


def brute_force(question: str) -> list[str]:
    """Every solution, written as gold answers are."""
    names, said = read_question(question)
    assert [name for name, _ in said] == names
    found = []
    for roles in itertools.product([True, False], repeat=len(names)):
        world = dict(zip(names, roles, strict=True))
        if all(meaning(world) == world[name] for name, meaning in said):
            found.append(", ".join(f"{n} is a {'knight' if k else 'knave'}" for n, k in world.items()))
    return found


@pytest.mark.parametrize("people", range(2, 9))
def test_each_puzzle_has_one_solution_as_read_from_its_english(people: int) -> None:
    """Guards the solver, the sentences and the gold answer against each other."""
    made = problems("train", people, 31) + problems("test", people, 13)
    for problem in made:
        assert brute_force(problem.question) == [problem.gold]
        assert problem.judge(FORM.state(problem.gold)).right is True
        assert problem.gold not in problem.question
    text = " ".join(p.question.split("\n(")[0] for p in made)
    for part in ("If ", ", then ", " if and only if ", " or ", " and ", "not true", "I am", " not a "):
        assert part in text


def random_statements(people: int, draw: random.Random) -> list[Statement]:
    def role(person: int) -> Role:
        return Role(person, draw.choice(["knight", "knave"]), draw.random() < 0.5)

    made = []
    for speaker in range(people):
        a, b = draw.sample(range(people), 2)
        single = Statement((role(a if a != speaker else b),))
        made.append(
            draw.choice([single, Statement((role(a), role(b)), draw.choice(list(JOINED)), draw.random() < 0.5)])
        )
    return made


def renamed(statements: list[Statement], order: list[int], draw: random.Random) -> list[Statement]:
    """Person i becomes order[i]; and the same is said in other words where that is easy."""
    made = [Statement(())] * len(statements)
    for speaker, said in enumerate(statements):
        roles = tuple(Role(order[r.person], r.role, r.denied) for r in said.roles)
        if draw.random() < 0.5:
            other = {"knight": "knave", "knave": "knight"}
            roles = tuple(Role(r.person, other[r.role], not r.denied) for r in roles)
        if said.joined in ("and", "or", "iff") and draw.random() < 0.5:
            roles = roles[::-1]
        made[order[speaker]] = replace(said, roles=roles)
    return made


@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_the_fingerprint_does_not_depend_on_names_order_or_words(people: int, draw: random.Random) -> None:
    """Guards against a puzzle that is trained on under one name and tested under another."""
    statements = random_statements(people, draw)
    order = draw.sample(range(people), people)
    assert fingerprint(renamed(statements, order, draw)) == fingerprint(statements)


def test_the_fingerprint_of_de_morgan_pairs_is_one() -> None:
    """Guards against hashing words where the meaning counts: not (p and q) is (not p) or (not q)."""
    p, q = Role(0, "knight"), Role(1, "knave")
    denied = Statement((p, q), "and", denied=True)
    spread = Statement((replace(p, denied=True), replace(q, denied=True)), "or")
    implied = Statement((q, replace(p, denied=True)), "if")
    others = [Statement((Role(0, "knave"),)), Statement((Role(0, "knight"), Role(1, "knight")), "iff")]
    hashes = [fingerprint([others[0], others[1], s]) for s in (denied, spread, implied)]
    assert len(set(hashes)) == 1


def test_the_fingerprint_tells_puzzles_apart() -> None:
    """Guards against a hash that is always the same: of 300 random puzzles of five people, nearly all differ."""
    draw = random.Random(5)
    assert len({fingerprint(random_statements(5, draw)) for _ in range(300)}) > 290


@settings(deadline=None)
@given(st.integers(2, 5), st.randoms(use_true_random=False))
def test_the_solver_agrees_with_the_sentences(people: int, draw: random.Random) -> None:
    """Guards puzzles with no or several solutions, which the generator throws away, against a solver that miscounts."""
    statements = random_statements(people, draw)
    names = draw.sample(knights.NAMES, people)
    said = [read_sentence(knights._sentence(i, s, names)[:-1], names[i]) for i, s in enumerate(statements)]
    expected = {
        roles
        for roles in itertools.product([True, False], repeat=people)
        if all(meaning(dict(zip(names, roles, strict=True))) == k for meaning, k in zip(said, roles, strict=True))
    }
    assert set(solutions(statements)) == expected


def test_the_same_arguments_give_the_same_problems() -> None:
    """Guards against a generator that a run cannot be repeated with; a longer list begins with the shorter one."""
    assert problems("train", 3, 11) == problems("train", 3, 29)[:11]
    assert problems("train", 3, 11) != problems("train", 3, 11, seed=1)
    assert problems("train", 3, 1)[0].id == "knights:3bb142635ab2829e"


def shape(problem: Problem) -> str:
    """The puzzle with names by order of appearance."""
    names, _ = read_question(problem.question)
    for n, name in enumerate(names):
        problem = replace(problem, question=re.sub(rf"\b{name}\b", f"P{n}", problem.question))
    return re.sub(r"says|claims|states", "says", problem.question)


@pytest.mark.parametrize("people", [2, 3])
def test_splits_share_no_puzzle_whatever_its_names(people: int) -> None:
    """Guards against training on the test set, also with another seed; two people allow so few puzzles that random
    splits would share many."""
    made = {split: {shape(p) for seed in (0, 1) for p in problems(split, people, 97, seed)} for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not made[a] & made[b]
    ids = [p.id for split in SPLITS for p in problems(split, people, 97)]
    assert len(set(ids)) == 3 * 97


@pytest.mark.parametrize(
    ("split", "people", "size", "text"),
    [
        ("dev", 3, 5, "splits train"),
        ("train", 1, 5, "2 to 8"),
        ("train", 9, 5, "2 to 8"),
        ("train", 3, 0, "at least 1"),
    ],
)
def test_what_cannot_be_made_is_refused(split: str, people: int, size: int, text: str) -> None:
    """Guards against empty lists and endless searches."""
    with pytest.raises(ValueError, match=text):
        problems(split, people, size)


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a generator that hangs where there are no more puzzles."""
    monkeypatch.setattr(knights, "MAX_DRAWS", 1)
    with pytest.raises(ValueError, match="of 50 different problems"):
        problems("validation", 3, 50)


STRICT = {
    "<answer>Ann is a knight, Bob is a knave, Carl is a knave</answer>": True,
    "<answer>carl IS A KNAVE; ann is a Knight and BOB is a knave.</answer>": True,
    "<answer>\nAnn is a knight\nBob is a knave\nCarl is a knave\n</answer>": True,
    "<answer>(1) Ann is a knight\n(2) Bob is a knave\n(3) Carl is a knave</answer>": True,
    "<answer>Ann is a knave</answer> No: <answer>Ann is a knight, Bob is a knave, and Carl is a knave</answer>": True,
    f"<answer>{GOLD}</answer> or <answer>Ann is a knave, Bob is a knave, Carl is a knave</answer>": False,
    "<answer>Ann is a knight, Bob is a knight, Carl is a knave</answer>": False,
    "<answer>Ann is a knight, Bob is a knave</answer>": False,
    f"<answer>{GOLD}, Dora is a knave</answer>": False,
    f"<answer>{GOLD}, Bob is a knave</answer>": False,
    f"<answer>{GOLD}, Bob is a knight</answer>": False,
    "<answer>Ann is a knight or a knave, Bob is a knave, Carl is a knave</answer>": False,
    "<answer>Ann is a knight knave, Bob is a knave, Carl is a knave</answer>": False,
    "<answer>Ann is not a knave, Bob is a knave, Carl is a knave</answer>": False,
    "<answer>It is false that Ann is a knight, Bob is a knave, Carl is a knave</answer>": False,
    f"<answer>{GOLD}, or the other way round</answer>": False,
    "<answer>Ann, Bob, Carl</answer>": False,
    "<answer></answer>": False,
    f"<think><answer>{GOLD}</answer>": False,
    f"<think><answer>{GOLD}</answer></think> That is it.": False,
    GOLD: False,
    "": False,
}


@pytest.mark.parametrize(("reply", "right"), STRICT.items())
def test_strict_verdicts(reply: str, right: bool) -> None:
    """Guards against replies that name both roles, somebody else, or nobody, and are paid for it."""
    verdict = FORM.verify(reply, GOLD)
    assert verdict.right is right
    assert not verdict.lenient
    assert GOLD not in verdict.reason
    assert (verdict.extracted is None) is ("<answer>" not in reply or "<think>" in reply)


def combinations(end: str) -> str:
    worlds = itertools.product(["knight", "knave"], repeat=3)
    return end.join(f"Ann is a {a}, Bob is a {b}, Carl is a {c}" for a, b, c in worlds)


@pytest.mark.parametrize("end", ["\n", ". ", ", ", " or ", "\n\n", "</answer><answer>"])
def test_all_combinations_are_no_answer(end: str) -> None:
    """Guards against a reply that lists everything, in a tag or outside; of several tags the last, a wrong one, counts."""
    spray = combinations(end)
    for reply in (f"<answer>{spray}</answer>", spray.replace("</answer><answer>", "\n")):
        assert FORM.verify(reply, GOLD).right is False
        assert FORM.lenient(reply, GOLD).right is False


LENIENT = {
    "So Ann is a knight, Bob is a knave, and Carl is a knave.": True,
    "If Ann is a knave, Bob lies.\nHence:\n- **Ann**: knight\n- **Bob**: knave\n- **Carl**: knave\n\nI am sure.": True,
    "Ann is a knight; Bob and Carl are both knaves.": True,
    "$\\boxed{\\text{Ann is a knight, Bob is a knave, Carl is a knave}}$": True,
    "| Ann | knight |\n| Bob | knave |\n| Carl | Knave |": True,
    "<answer>Ann: knight, Bob: knave, Carl: knave</answer>": True,
    "<answer>So Ann is a knight, Bob is a knave and Carl is a knave</answer>": True,
    "<answer>- Ann is a knight\n- Bob is a knave\n- Carl is a knave</answer>": True,
    "Ann and Bob are knights. Carl is a knave.": False,
    "Ann is a knave.\nSo Ann is a knight, Bob is a knave, Carl is a knave.": None,
    "Ann is a knight, Bob is a knave, Carl is a knight. Carl is a knave.": None,
    "Ann is a knight or Bob is a knave, Carl is a knave.": None,
    "If Ann is a knight, Bob is a knave, Carl is a knave.": None,
    "Is Ann a knight, Bob a knave, Carl a knave?": None,
    "It isn't so that Ann is a knight, Bob is a knave, Carl is a knave.": None,
    "Knights: Ann. Knaves: Bob, Carl.": None,
    "Ann is a knight, Bob is a knave.": None,
    "Ann trusts Bob, who is a knave, so Carl is a knave.": None,
    f"{GOLD}.\none\ntwo\nthree": None,
    f"<answer>{GOLD}, Dora is a knave</answer>": None,
    f"<answer>I do not know</answer>\n{GOLD}": None,
    f"<think>{GOLD}": None,
}


@pytest.mark.parametrize(("reply", "right"), LENIENT.items())
def test_lenient_extraction_reads_a_conclusion(reply: str, right: bool | None) -> None:
    """Guards against unmarked lenient verdicts, and against reasoning that is read as an answer; None: nothing found."""
    strict, verdict = FORM.verify(reply, GOLD), FORM.lenient(reply, GOLD)
    assert strict.right is False
    assert verdict.lenient is (right is not None)
    assert verdict.right is bool(right)
    if right is None:
        assert verdict == strict


@pytest.mark.parametrize(
    "flood", ["Ann is a knight, " * 60_000, "Ann " * 250_000, " " * 10**6, "Ann is a knight\n" * 60_000]
)
def test_a_megabyte_is_wrong_and_leaves_a_short_verdict(flood: str) -> None:
    """Guards against replies that stall the verifier or fill the log."""
    for reply in (flood, f"<answer>{flood}</answer>"):
        for judge in (FORM.verify, FORM.lenient):
            verdict = judge(reply, GOLD)
            assert verdict.right is False
            assert len(verdict.reason) < 200
            assert len(verdict.extracted or "") <= 1000
    if flood.strip():
        assert "longer than" in FORM.verify(f"<answer>{flood}</answer>", GOLD).reason


def test_rows_of_the_same_form_are_read() -> None:
    """Guards files of puzzles from elsewhere: the answer is rewritten in one form, or refused with its place."""
    values: dict[str, Any] = {"quiz": "Who?", "solution": "Zoey is a knave, and Oliver is a Knight."}
    columns = Columns(question="quiz", answer="solution")
    assert FORM.read(Row("row 1", values), columns, 0) == ("Who?", "Zoey is a knave, Oliver is a knight")
    for answer in ("knight, knave", "Zoey is a knave, Zoey is a knight", "Zoey is a spy"):
        with pytest.raises(UserError, match="row 1"):
            FORM.read(Row("row 1", {**values, "solution": answer}), columns, 0)
