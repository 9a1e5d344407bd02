"""Tasks of reasoning-gym: made, split and graded; partial scores cut; every mistake in a recipe told."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.grading.pool import Pool
from rethink.problems import gym
from rethink.types import Problem, Verdict

reasoning_gym = pytest.importorskip("reasoning_gym", reason='an extra: pip install "rethink-rl[gym]"')

SPLITS = ("train", "validation", "test")


@cache
def made(name: str, size: int = 5) -> list[Problem]:
    """Training problems, made once: each call starts a process."""
    return gym.problems(name, "train", size, {})


def drawn(name: str, split: str = "train", size: int = 3, settings: str = "{}") -> list[Problem]:
    """Problems that are made here, for tasks that do not depend on how the process hashes text."""
    return [
        Problem("", question, gold, partial(gym._grade, key=gym.EntryKey(*draw), lenient=False))
        for draw, question, gold in gym._generate_entries(name, split, size, settings)
    ]


@pytest.fixture(scope="module")
def workers() -> Iterator[Pool]:
    """A worker with time enough for a busy machine, its imports done."""
    pool = Pool(size=1, timeout_s=60.0)
    assert pool.ask("gym", arguments(made("chain_sum")[0], "")).right is False
    yield pool
    pool.close()


@pytest.fixture
def apart(workers: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(gym, "grade_in_worker", workers.ask)
    return workers


def arguments(problem: Problem, answer: str) -> list[Any]:
    draw: gym.EntryKey = problem.verify.keywords["key"]  # type: ignore[attr-defined]
    return [draw.task, draw.settings, draw.seed, draw.index, draw.fingerprint, answer]


def tagged(answer: str) -> str:
    return f"<think>Well.</think>It is\n<answer>\n{answer}\n</answer>"


def test_sums_are_right_as_we_add_them(apart: Pool) -> None:
    """Guards the whole way, from the question to the verdict, by our own arithmetic."""
    for problem in made("chain_sum"):
        sum_ = re.search(r"((?:\d+ [+-] )+\d+)", problem.question)
        assert sum_
        signed = re.findall(r"([+-]?) ?(\d+)", sum_[1])
        total = sum(-int(n) if sign == "-" else int(n) for sign, n in signed)
        assert problem.gold == str(total)
        right, wrong = problem.grade(tagged(str(total))), problem.grade(tagged(str(total + 1)))
        assert (right.right, right.extracted, right.lenient) == (True, str(total), False)
        assert (wrong.right, wrong.extracted) == (False, str(total + 1))
        assert not set(re.findall(r"\d+", wrong.reason)) & {problem.gold}


def test_gold_answers_are_accepted(apart: Pool) -> None:
    """Guards answers of several lines, and a task (ransom_note) whose questions depend on how the process hashes text."""
    for problem in [*made("ransom_note"), *drawn("mini_sudoku"), *drawn("word_sorting")]:
        assert problem.grade(tagged(problem.gold)).right is True
        assert problem.grade(tagged("?")).right is False


def test_a_task_without_a_gold_answer_accepts_what_passes_its_check(apart: Pool) -> None:
    """Guards against a placeholder that is accepted as an answer."""
    (problem, *_) = drawn("graph_color")
    assert problem.gold == gym.NO_GOLD
    assert problem.grade(tagged(problem.gold)).right is False
    edges = re.findall(r"\((\d+), (\d+)\)", problem.question)
    listed, colors = (
        re.search(r"Vertices: \[(.+?)\]", problem.question),
        re.search(r"colors: \[(.+?)\]", problem.question),
    )
    assert listed
    assert colors
    vertices, palette = listed[1].split(", "), [int(c) for c in colors[1].split(",")]
    proper = next(
        c
        for c in (dict(zip(vertices, cs, strict=True)) for cs in itertools.product(palette, repeat=len(vertices)))
        if all(c[a] != c[b] for a, b in edges)
    )
    assert problem.grade(tagged(json.dumps(proper))).right is True
    assert problem.grade(tagged(json.dumps(dict.fromkeys(vertices, 1)))).right is False


def test_partial_scores_are_wrong() -> None:
    """Guards against rewards for being close: the package gives 0.05 to an expression that misses the target."""
    problem = drawn("countdown")[0]
    draw = problem.verify.keywords["key"]  # type: ignore[attr-defined]
    data_set = reasoning_gym.create_dataset("countdown", seed=draw.seed, size=gym.DATA_SET_SIZE)
    entry = data_set[draw.index]
    close = " * ".join(map(str, entry["metadata"]["numbers"]))
    assert 0 < data_set.score_answer(close, entry) < 1
    verdict = Verdict(*gym.score(*arguments(problem, close)))
    right, reason = verdict.right, verdict.reason
    assert right is False
    assert "0.0" in reason
    assert problem.gold not in reason
    assert gym.score(*arguments(problem, problem.gold))[0] is True


def test_an_answer_that_breaks_the_check_is_wrong() -> None:
    """Guards against "not graded" for nonsense, which would keep it out of every mean."""
    problem = drawn("prime_factorization")[0]
    assert Verdict(*gym.score(*arguments(problem, "two times two"))) == Verdict(
        False, "the task's check cannot read the answer (ValueError)"
    )
    assert gym.score(*arguments(problem, problem.gold))[0] is True


def test_a_check_that_breaks_on_its_own_gold_answer_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against "wrong" where the check has failed, not the answer."""

    def broken(draw: gym.EntryKey, answer: str) -> float:
        if answer == "7":
            raise ValueError("broken")
        return 0.5

    monkeypatch.setattr(gym, "_score", broken)
    with pytest.raises(ValueError, match="broken"):
        gym.score(*arguments(made("chain_sum")[0], "7"))


def test_a_check_of_another_question_gives_no_verdict() -> None:
    """Guards against grading by a problem that nobody was asked, where a task is not as repeatable as it should be."""
    given = arguments(made("chain_sum")[0], made("chain_sum")[0].gold)
    given[-2] += 1
    right, reason, *_ = gym.score(*given)
    assert right is None
    assert "another question" in reason


EXTRACTED = {
    "<answer>4</answer> no, <answer> 5 </answer>": ("5", "5"),
    "<think><answer>4</answer></think><answer>5</answer>": ("5", "5"),
    "<answer></answer>": ("", ""),
    "It is\n 5 \n\n": (None, "5"),
    "<think>5": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize(("reply", "expected"), EXTRACTED.items())
def test_the_tag_counts_and_leniently_the_last_line(
    reply: str, expected: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the extraction apart from any check, and the mark of lenient verdicts."""
    asked: list[Any] = []

    def grade(task: str, given: list[Any]) -> Verdict:
        asked.append(given[-1])
        return Verdict(True, "asked")

    monkeypatch.setattr(gym, "grade_in_worker", grade)
    for lenient, answer in enumerate(expected):
        verdict = gym._grade(reply, "5", gym.EntryKey("chain_sum", "{}", 1, 0), bool(lenient))
        assert verdict.extracted == answer
        assert verdict.right is (answer is not None)
        assert verdict.lenient is (answer is not None and expected[0] is None)
    assert asked == [answer for answer in expected if answer is not None]


def test_endless_answers_are_wrong_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the worker against megabytes."""
    monkeypatch.setattr(gym, "grade_in_worker", None)
    verdict = made("chain_sum")[0].grade(tagged("1" * 10**6))
    assert verdict.right is False
    assert len(verdict.extracted or "") == 100


def test_problems_are_the_same_every_time() -> None:
    """Guards against runs that cannot be repeated, also where a task goes through sets of words (ransom_note)."""
    for name in ("chain_sum", "ransom_note"):
        longer = made(name, 13)
        assert [(p.id, p.question, p.gold) for p in longer[:5]] == [(p.id, p.question, p.gold) for p in made(name)]
        assert len({p.id for p in longer}) == 13
        assert all(p.suite == f"gym:{name}" and p.solve == gym.SOLVE for p in longer)


def test_settings_reach_the_task() -> None:
    """Guards against settings that are dropped: sums of just seven terms."""
    for problem in gym.problems("chain_sum", "test", 5, {"min_terms": 7, "max_terms": 7}):
        assert len(re.findall(r" [+-] ", problem.question)) == 6


def test_splits_share_no_question() -> None:
    """Guards against training on the test set: two sets of this task from two seeds share most questions."""
    questions = {split: [p.question for p in drawn("coin_flip", split, 31)] for split in SPLITS}
    for found in questions.values():
        assert len(set(found)) == 31
    for a, b in itertools.combinations(SPLITS, 2):
        assert not set(questions[a]) & set(questions[b])


@pytest.mark.parametrize(
    ("name", "split", "size", "settings", "text"),
    [
        ("chain_sun", "train", 5, {}, "gym:chain_sun is not a task of reasoning-gym; did you mean chain_sum"),
        ("puzzle24", "train", 5, {}, "any four numbers"),
        ("composite", "train", 5, {}, "mixes other tasks"),
        ("chain_sum", "dev", 5, {}, "splits train"),
        ("chain_sum", "train", 0, {}, "at least 1"),
        ("chain_sum", "train", 5, {"seed": 3}, "the settings seed are reserved"),
        ("chain_sum", "train", 5, {"min_terms": {1, 2}}, "numbers, texts, lists or tables"),
    ],
)
def test_mistakes_are_told(name: str, split: str, size: int, settings: dict[str, Any], text: str) -> None:
    """Guards against tracebacks and endless searches where a recipe is wrong."""
    with pytest.raises(UserError, match=text):
        gym.problems(name, split, size, settings)


@pytest.mark.parametrize(
    ("name", "size", "settings", "text"),
    [
        ("xyzzy", 5, "{}", "not a task of reasoning-gym$"),
        ("chain_sum", 5, '{"terms": 3}', "refuses these settings: .*'terms'"),
        ("chain_sum", 5, '{"min_terms": 5, "max_terms": 2}', "refuses these settings: max_terms"),
        ("tower_of_hanoi", 500, "{}", "different questions for train, not 500$"),
    ],
)
def test_what_the_package_refuses_is_told(name: str, size: int, settings: str, text: str) -> None:
    """Guards the same on the side that makes the problems."""
    with pytest.raises(UserError, match=text):
        list(gym._generate_entries(name, "train", size, settings))


def test_draws_that_fail_are_left_out_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one failed draw that ends it all, and against settings with which all fail, for ever."""
    whole = [p.question for p in drawn("chain_sum", size=7)]
    entry = gym._entry
    monkeypatch.setattr(gym, "_entry", lambda draw: entry(draw) if draw.index % 2 else {}[draw.index])
    assert {p.question for p in drawn("chain_sum", size=2)} < set(whole)
    monkeypatch.setattr(gym, "_entry", lambda draw: {}[draw.index])
    with pytest.raises(UserError, match=r"only about 0 different .* the last failure was KeyError: 499"):
        drawn("chain_sum")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the message for those who have not installed the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'rethink-rl[gym]'")):
        gym.problems("chain_sum", "train", 5)


def test_knights_and_knaves_need_every_role() -> None:
    """Guards against a game in which some of the roles, or a spray of both, would do: the docs promise all or nothing,
    in any order."""
    (puzzle,) = gym.problems("knights_knaves", "test", 1, {"n_people": 3})
    roles = re.findall(r"(\w+) is an? (\w+)", puzzle.gold)
    names = re.search(r"is an? (\w+)/(\w+)", puzzle.question)
    assert len(roles) == 3
    assert names is not None
    other = {names[1]: names[2], names[2]: names[1]}
    told = [f"{person} is a {role}" for person, role in reversed(roles)]
    denied = [f"{person} is a {other[role]}" for person, role in reversed(roles)]
    replies = (told, [*told[:2], denied[2]], told[:2], [*told, *denied])
    assert [puzzle.grade(f"<answer>{', '.join(reply)}</answer>").right for reply in replies] == [
        True,
        False,
        False,
        False,
    ]
