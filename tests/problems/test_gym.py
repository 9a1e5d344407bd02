"""Tasks of reasoning-gym: generated, split and graded by the package's checks."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.grading.pool import Pool
from rethink.problems import gym, gym_answers
from rethink.problems.rewards import grade
from rethink.types import Problem, Prompt, Sample, Sampling, Verdict
from support.grading_workers import long_timeout_pool

needs_extra = pytest.mark.skipif(not importlib.util.find_spec("reasoning_gym"), reason='an extra: "rethink-rl[gym]"')


def uses_package(test: Any) -> Any:
    """Mark a test as slow: importing the package takes a second, a subprocess more."""
    return pytest.mark.slow(needs_extra(test))


@cache
def generated(name: str, size: int = 5) -> list[Problem]:
    """Return training problems, generated once: each call of `gym.problems` starts a process."""
    return gym.problems(name, "train", size, {})


def generated_here(name: str, split: str = "train", size: int = 3) -> list[Problem]:
    """Return problems generated in this process, for tasks that do not depend on how Python hashes text."""
    return [
        Problem("", question, gold, partial(gym._grade, key=gym.EntryKey(*key), lenient=False))
        for key, question, gold in gym._generate_entries(name, split, size, "{}")
    ]


workers = pytest.fixture(scope="module")(long_timeout_pool)


def arguments(problem: Problem, answer: str) -> list[Any]:
    key: gym.EntryKey = problem.verify.keywords["key"]  # type: ignore[attr-defined]
    return [key.task, key.settings, key.seed, key.index, key.fingerprint, answer]


def tagged(answer: str) -> str:
    return f"<think>Well.</think>It is\n<answer>\n{answer}\n</answer>"


@uses_package
def test_sums_computed_here_are_right(workers: Pool) -> None:
    """Guards the whole way from the question to the verdict, with sums computed here."""
    for problem in generated("chain_sum"):
        terms = re.search(r"((?:\d+ [+-] )+\d+)", problem.question)
        assert terms
        total = sum(-int(n) if sign == "-" else int(n) for sign, n in re.findall(r"([+-]?) ?(\d+)", terms[1]))
        assert problem.gold == str(total)
        right, wrong = problem.grade(tagged(str(total))), problem.grade(tagged(str(total + 1)))
        assert (right.right, right.extracted, right.lenient) == (True, str(total), False)
        assert (wrong.right, wrong.extracted) == (False, str(total + 1))
        assert problem.gold not in re.findall(r"\d+", wrong.reason)


@uses_package
def test_gold_answers_are_right(workers: Pool) -> None:
    """Guards answers of several lines, and a task (ransom_note) whose questions depend on how Python hashes text."""
    for problem in [*generated("ransom_note"), *generated_here("mini_sudoku")]:
        assert problem.grade(tagged(problem.gold)).right is True
        assert problem.grade(tagged("?")).right is False


@uses_package
def test_a_task_without_a_gold_answer(workers: Pool) -> None:
    """Guards against the placeholder NO_GOLD that counts as right, and right answers that do not."""
    problem = generated_here("graph_color")[0]
    assert problem.gold == gym.NO_GOLD
    assert problem.grade(tagged(problem.gold)).right is False
    edges = re.findall(r"\((\d+), (\d+)\)", problem.question)
    (vertices,) = re.findall(r"Vertices: \[(.+?)\]", problem.question)
    (colors,) = re.findall(r"colors: \[(.+?)\]", problem.question)
    for assigned in itertools.product(map(int, colors.split(",")), repeat=len(vertices.split(", "))):
        coloring = dict(zip(vertices.split(", "), assigned, strict=True))
        if all(coloring[a] != coloring[b] for a, b in edges):
            break
    assert problem.grade(tagged(json.dumps(coloring))).right is True
    assert problem.grade(tagged(json.dumps(dict.fromkeys(coloring, 1)))).right is False


@uses_package
def test_partial_scores_are_wrong() -> None:
    """Guards against an answer that is right because it is close: the package gives 0.05 for a wrong expression."""
    import reasoning_gym

    problem = generated_here("countdown")[0]
    key = problem.verify.keywords["key"]  # type: ignore[attr-defined]
    entry = reasoning_gym.create_dataset("countdown", seed=key.seed, size=gym.DATA_SET_SIZE)[key.index]
    close = " * ".join(map(str, entry["metadata"]["numbers"]))
    verdict = Verdict(*gym.score(*arguments(problem, close)))
    assert (verdict.right, verdict.score) == (False, 0.05)
    assert problem.gold not in verdict.reason
    assert gym.score(*arguments(problem, problem.gold))[0] is True


def test_partial_scores_are_rewards_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against partial rewards by default, and a partial score that makes an answer right."""
    close = Verdict(False, "the task's check gives 0.05 of 1", score=0.05)
    monkeypatch.setattr(gym, "grade_in_worker", lambda task, arguments: close)
    for asked, reward in ((False, 0.0), (True, 0.05)):
        verify = partial(gym._grade, key=gym.EntryKey("t", "{}", 1, 2), lenient=False, partial_scores=asked)
        prompt = Prompt(Problem("p", "?", "7", verify), "solve", (), 3)
        sample = Sample(prompt, 0, (1,), (2,), (True,), (-1.0,), "<answer>5</answer>", "stop", Sampling(), 0)
        ((graded,),) = grade([(sample,)])
        assert (graded.right, graded.reward) == (False, reward)


@uses_package
def test_answers_that_the_check_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against "not graded" for nonsense, and "wrong" where the check fails on its gold answer too."""
    problem = generated_here("prime_factorization")[0]
    assert Verdict(*gym.score(*arguments(problem, "two times two"))) == Verdict(
        False, "the task's check cannot read the answer (ValueError)"
    )

    def broken(key: gym.EntryKey, answer: str) -> float:
        if answer == "7":
            raise ValueError("broken")
        return 0.5

    monkeypatch.setattr(gym, "_score", broken)
    with pytest.raises(ValueError, match="broken"):
        gym.score(*arguments(problem, "7"))
    monkeypatch.undo()
    given = arguments(problem, problem.gold)
    given[-2] += 1  # a task that is not reproducible
    right, reason, *_ = gym.score(*given)
    assert right is None
    assert "a different question" in reason


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [("<answer>4</answer> no, <answer> 5 </answer>", "5", "5"), ("It is\n 5 \n\n", None, "5"), ("", None, None)],
)
def test_verdicts_of_lenient_extraction_are_marked(
    reply: str, strict: str | None, lenient: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a check that is passed another text than was extracted, and unmarked lenient verdicts."""
    monkeypatch.setattr(gym, "grade_in_worker", lambda task, given: Verdict(given[-1] == "5", "checked"))
    for is_lenient, answer in ((False, strict), (True, lenient)):
        verdict = gym._grade(reply, "5", gym.EntryKey("chain_sum", "{}", 1, 0), is_lenient)
        assert (verdict.extracted, verdict.right) == (answer, answer is not None)
        assert verdict.lenient is (answer is not None and strict is None)
    monkeypatch.setattr(gym, "grade_in_worker", None)  # megabytes are not checked
    verdict = gym._grade(tagged("1" * 10**6), "5", gym.EntryKey("chain_sum", "{}", 1, 0), False)
    assert (verdict.right, verdict.extracted) == (False, "1" * 100)


@uses_package
def test_problems_are_reproducible() -> None:
    """Guards against runs that cannot be repeated, also for a task that iterates over a set of words (ransom_note)."""
    for name in ("chain_sum", "ransom_note"):
        longer = generated(name, 13)
        assert [(p.id, p.question, p.gold) for p in longer[:5]] == [(p.id, p.question, p.gold) for p in generated(name)]
        assert len({p.id for p in longer}) == 13
        assert all(p.suite == f"gym:{name}" and p.solve == gym.SOLVE for p in longer)


@uses_package
def test_splits_share_no_question() -> None:
    """Guards against training on the test set."""
    questions = [{p.question for p in generated_here("coin_flip", split, 31)} for split in gym.SPLITS]
    assert [len(found) for found in questions] == [31] * 3
    assert len(set.union(*questions)) == 93


@pytest.mark.parametrize(
    ("split", "size", "settings", "text"),
    [
        ("dev", 5, {}, "splits train"),
        ("train", 0, {}, "at least 1"),
        ("train", 5, {"seed": 3}, "the settings seed are reserved"),
        ("train", 5, {"min_terms": {1, 2}}, "numbers, texts, lists or tables"),
        ("train", 5, None, r"rethink-rl\[gym\]"),
    ],
)
def test_problems_refuses(
    split: str, size: int, settings: dict[str, Any] | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against tracebacks where a recipe is wrong, or the package is missing (settings None)."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if settings is None else "found")
    with pytest.raises(UserError, match=text):
        gym.problems("chain_sum", split, size, settings or {})


@uses_package
def test_settings_and_names_reach_the_package() -> None:
    """Guards against settings that do not reach a task, and tracebacks for a misspelled one."""
    (puzzle,) = gym.problems("knights_knaves", "test", 1, {"n_people": 3})
    assert len(re.findall(r"\w+ is an? \w+", puzzle.gold)) == 3
    with pytest.raises(UserError, match=r"gym:chain_sun is not a task .* mean chain_sum"):
        gym.problems("chain_sun", "train", 5, {})


@uses_package
@pytest.mark.parametrize(
    ("name", "size", "settings", "text"),
    [
        ("chain_sum", 5, '{"terms": 3}', "refuses these settings: .*'terms'"),
        ("chain_sum", 5, '{"min_terms": 5, "max_terms": 2}', "refuses these settings: max_terms"),
        ("tower_of_hanoi", 500, "{}", "different questions for train, not 500$"),
    ],
)
def test_generate_entries_refuses(name: str, size: int, settings: str, text: str) -> None:
    """Guards against tracebacks and endless loops in the process that generates problems."""
    with pytest.raises(UserError, match=text):
        list(gym._generate_entries(name, "train", size, settings))


@uses_package
def test_entries_that_fail_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one failed entry that ends the generation, and an endless loop if all fail."""
    questions = {p.question for p in generated_here("chain_sum", size=7)}
    entry = gym._entry
    monkeypatch.setattr(gym, "_entry", lambda key: entry(key) if key.index % 2 else {}[key.index])
    assert {p.question for p in generated_here("chain_sum", size=2)} < questions
    monkeypatch.setattr(gym, "_entry", lambda key: {}[key.index])
    with pytest.raises(UserError, match=r"only about 0 different .* the last failure was KeyError: 499"):
        generated_here("chain_sum")


ATTACK = "__import__('pathlib').Path({mark!r}).write_text('x')"
EVALUATING = [t for t in gym_answers.EVALUATED if t not in gym.UNUSABLE]


@uses_package
@pytest.mark.parametrize("task", EVALUATING)
def test_replies_are_not_evaluated(task: str, tmp_path: Path) -> None:
    """Guards against a reply that runs code in the check, here without a sandbox, and gold answers that are refused."""
    for problem in generated_here(task, size=8):
        assert gym.score(*arguments(problem, problem.gold))[0] is True
    mark = tmp_path / "mark"
    code = ATTACK.format(mark=str(mark))
    for answer in (code, f"[{code}]", f"1 + {code}", f"sin({code})", f"(lambda: {code})()", f"x.diff({code})"):
        assert gym.score(*arguments(problem, answer))[0] is False
    assert not mark.exists()


@uses_package
def test_every_check_that_evaluates_is_known() -> None:
    """Guards against a task of a newer package whose check evaluates replies."""
    from reasoning_gym.factory import DATASETS

    harmless = {"bitwise_arithmetic", "number_sorting"}  # evaluate the question and the gold answer
    found = set()
    for name, (data_set, _) in DATASETS.items():
        check = inspect.getsource(data_set.score_answer)
        if re.search(r"\b(eval|exec|parse_expr|sympify|parse_latex|loads)\(", check.replace("json.loads(", "")):
            found.add(name)
    assert found - harmless - set(gym.UNUSABLE) == set(EVALUATING)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("x**2/2 + C", True), ("-3*sin(2*x) + exp(-x)", True), (" 1.5*X ", True), ("(3 + 4)*5", True), ("", False),
        ("x.diff(x)", False), ("x[0]", False), ("f(x)", False), ("eval(x)", False), ("'x'", False), ("sin(x=1)", False),
        ("lambda: 1", False), ("_x", False), ("x if x else 1", False), ("x; y", False), ("1 # x", False), ("9" * 50, False),
        ("(" * 5000, False), ("ｅval(x)", False), ("[x for x in y]", False), ("Integral(x, x)", False), ("x^2", False),
    ],
)  # fmt: skip
def test_formulas(text: str, formula: bool) -> None:
    """Guards the parser in front of sympy's, which evaluates what it reads."""
    assert gym_answers.is_formula(text) is formula
