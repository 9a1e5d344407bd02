"""Answers that are voted on: what each form reads in a reply without gold and verifier, and which answers are one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import datasets
import pytest
from pyarrow import parquet

from rethink.problems import bfcl, calls, choice, countdown, equation, gym, mathematics
from rethink.problems.answer_format import AnswerFormat, Extractor
from rethink.problems.expression import evaluate, is_expression, normalize
from rethink.problems.rows import Columns, Row
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, find_answer_format, load_problems
from rethink.settings import ProblemSource
from rethink.types import Problem, Verdict
from support.patient_pool import patient
from support.suite_rows import CASES, Hub

_patient = pytest.fixture(scope="module", autouse=True)(patient)

TIDE, FERRY = '{"name":"tide","arguments":{"port":"Oban","day":5}}', '{"name": "ferry", "arguments": {}}'
TIDE_NORMAL, FERRY_NORMAL = '{"arguments":{"day":5,"port":"Oban"},"name":"tide"}', '{"arguments":{},"name":"ferry"}'
SPRAY = "".join(f"\\boxed{{{n}}}\n" for n in range(9))

Extraction = Literal["strict", "lenient"]
EXTRACTIONS: tuple[Extraction, Extraction] = ("strict", "lenient")

Table = list[tuple[str, str | None, str | None]]
"""Reply, its answer by strict extraction, by lenient extraction."""

BOXED: Table = [
    ("So \\boxed{1/2}.", "1/2", "1/2"),
    (
        "\\boxed{3}\nno: \\boxed{5/2} = \\boxed{2.5}",
        "5/2",
        "5/2",
    ),  # the last line; a repeat is joined to what it repeats
    ("\\boxed{1} and \\boxed{-2}", "1, -2", "1, -2"),
    ("\\boxed{}", None, None),
    ("\\boxed{} so the answer is 7", None, "7"),
    ("The answer is 7", None, "7"),
    ("The answer is 7.", None, "7."),  # no normal form: `same` knows that this is 7
    ("#### 42", None, "42"),
    ("I do not know.", None, None),
    ("", None, None),
    ("<think>\\boxed{1}", None, None),
    ("<think>\\boxed{1}</think>\\boxed{2}", "2", "2"),
    (SPRAY, None, None),  # nine different boxes; eight are allowed
    (f"{SPRAY}The answer is 7.", None, None),
    (f"\\boxed{{{'7' * 501}}}", None, None),
    (f"\\boxed{{{'7' * 500}}}", "7" * 500, "7" * 500),
    (f"The answer is {'7' * 501}", None, None),
]
CHOICE: Table = [
    ("\\boxed{B}", "B", "B"),
    ("\\boxed{A}\n\\boxed{\\text{(c)}} or \\boxed{C}", "C", "C"),
    ("\\boxed{A} \\boxed{B}", None, None),
    ("\\boxed{AB}", None, None),
    ("\\boxed{}\nThe answer is D.", None, "D"),
    ("The answer is A or B", None, None),
    ("It is this one:\nE)", None, "E"),
    ("", None, None),
    (f"{SPRAY}\\boxed{{A}}", None, None),
]
CALLS: Table = [
    (f"[{TIDE}, {FERRY}]", f"[{TIDE_NORMAL},{FERRY_NORMAL}]", f"[{TIDE_NORMAL},{FERRY_NORMAL}]"),
    (f"[{FERRY}, {TIDE.replace('5', '5.0')}]", f"[{TIDE_NORMAL},{FERRY_NORMAL}]", f"[{TIDE_NORMAL},{FERRY_NORMAL}]"),
    (FERRY, f"[{FERRY_NORMAL}]", f"[{FERRY_NORMAL}]"),
    (f"[{FERRY}, {FERRY}]", f"[{FERRY_NORMAL},{FERRY_NORMAL}]", f"[{FERRY_NORMAL},{FERRY_NORMAL}]"),
    ("[]", "[]", "[]"),
    ("none fits", None, None),
    ("", None, None),
    (f"I call {FERRY} now.", None, f"[{FERRY_NORMAL}]"),
    ('[{"name":"f","arguments":{"x":1e999}}]', None, None),  # infinity, which no JSON holds
    ('[{"name":"f"}]', None, None),
]
EQUATION: Table = [
    ("<answer> (3 * 7) + 5 </answer>", "3*7+5", "3*7+5"),
    ("<answer>5 + 7*3</answer>", "3*7+5", "3*7+5"),
    ("<answer>3 - 7</answer>", "3-7", "3-7"),  # makes another target
    ("<answer>99</answer>", "99", "99"),
    ("<answer>3 / (7 - 7)</answer>", "3/(7-7)", "3/(7-7)"),
    ("<answer>3 \u00d7 7 + 5</answer>", None, "3*7+5"),
    ("<answer>5 + 3 * 7 = 26</answer>", None, "3*7+5"),
    ("<answer>5 + 3 * 7 = 27</answer>", None, None),  # 27 is not the target of the question
    ("So \\boxed{3 * 7 + 5}", None, "3*7+5"),
    ("<answer>3 ** 7</answer>", None, None),
    ("<answer>no idea</answer>", None, None),
    ("<answer></answer>", None, None),
    ("26", None, None),
]
GYM: Table = [
    ("<answer> 1 2\n3 </answer>", "1 2\n3", "1 2\n3"),
    ("<answer>1</answer><answer>2</answer>", "2", "2"),
    ("<answer></answer>", "", ""),
    ("It is\n 7 \n\n", None, "7"),
    ("", None, None),
    (f"<answer>{'7' * 20_001}</answer>", None, None),
]
COUNTDOWN: Table = [
    (reply, answer, answer)
    for reply, answer in [
        ("3 * 7 = 21 ; 21 + 5 = 26", "3 * 7 = 21 ; 5 + 21 = 26"),
        ("7 * 3 = 21 ; 5 + 21 = 26", "3 * 7 = 21 ; 5 + 21 = 26"),
        ("7 - 3 = 4 ; 4 * 5 = 20 ? 03 * 7 = 21 ; 21 + 5 = 26", "3 * 7 = 21 ; 5 + 21 = 26"),
        ("7 - 3 = 4", "7 - 3 = 4"),
        ("3 - 7 = 4", "3 - 7 = 4"),  # wrong, and another answer than the one above
        ("12 + 7 = 1", "7 + 12 = 1"),  # by number, not by text
        ("3 * 7 = 21 ?", None),
        ("3 * 7 = 21 ;", None),
        ("14 / 7 = 2", None),
        ("26", None),
        ("", None),
    ]
]

TABLES: dict[str, tuple[Extractor, Table]] = {
    "boxed": (mathematics.extract_answer, BOXED),
    "choice": (choice.extract_answer, CHOICE),
    "calls": (calls.extract_answer, CALLS),
    "equation": (equation.extract_answer, EQUATION),
    "gym": (gym.extract_answer, GYM),
    "countdown": (countdown.extract_answer, COUNTDOWN),
}
QUESTIONS = dict.fromkeys(TABLES, "") | {"equation": "Make 26 from the numbers 3, 7 and 5."}


@pytest.mark.parametrize(
    ("form", "reply", "strict", "lenient"),
    [(form, *row) for form, (_, table) in TABLES.items() for row in table],
    ids=lambda value: str(value)[:40],
)
def test_the_answer_in_a_reply(form: str, reply: str, strict: str | None, lenient: str | None) -> None:
    """Guards against votes for something else than what the verifier would grade, and against votes that check it."""
    answer, question = TABLES[form][0], QUESTIONS[form]
    assert (answer(reply, False, question), answer(reply, True, question)) == (strict, lenient)


def test_every_form_has_its_table() -> None:
    """Guards against a form without answers; BFCL's are those of function calls."""
    assert set(ANSWER_FORMATS) | {"gym"} == {*TABLES, "bfcl"}
    assert all(ANSWER_FORMATS[name].extract_answer is TABLES[name][0] for name in TABLES if name != "gym")
    assert bfcl.FORMAT.extract_answer is calls.extract_answer
    assert answer_format_of(ProblemSource("gym:chain_sum")).extract_answer is gym.extract_answer


def test_normal_forms_keep_the_value() -> None:
    """Guards against brackets that are dropped where they count. The values by hand: 2-(3-5) = 4, 8/(4/2) = 4,
    (2-3)*5 = -5, -(2+3)*5 = -25, 8/2/2 = 2, (-3)*2+7 = 1."""
    cases = {
        "2-(3-5)": ("2+5-3", 4), "8/(4/2)": ("2*8/4", 4), "(2-3)*5": ("(2-3)*5", -5), "-(2+3)*5": ("-(2+3)*5", -25),
        "(8/2)/2": ("8/2/2", 2), "((-3)) *2 + 7": ("(-3)*2+7", 1), "007": ("7", 7),
    }  # fmt: skip
    for text, (shown, value) in cases.items():
        assert normalize(text) == shown
        assert {evaluate(text)[0], evaluate(shown)[0]} == {value}, text


def test_random_expressions_keep_value_and_numbers() -> None:
    """Guards the same over 256 expressions of four shapes, made by enumeration."""
    signs = "+-*/"
    shapes = ["({}{}{}){}({}{}{})", "{}{}({}{}({}{}{}))", "(({}{}{}){}{}){}{}", "-({}{}({}{}{})){}{}"]
    texts = [s.format(2, a, 3, b, 5, c, 7) for s in shapes for a in signs for b in signs for c in signs]
    assert len(set(texts)) == 4 * 4**3
    for text in texts:
        shown = normalize(text)
        assert is_expression(shown)
        assert normalize(shown) == shown
        value, numbers = evaluate(text)
        assert (evaluate(shown)[0], sorted(evaluate(shown)[1])) == (value, sorted(numbers)), text


SAME = [
    ("1/2", "0.5"),
    ("\\frac12", "0.5"),
    ("x+1", "1+x"),
    ("7.", "7"),
    ("10/4=2.5", "2.5"),
    ("2, 1", "1, 2"),
    ("x = 5", "5"),
]
OTHER = [("1/2", "0.51"), ("x+1", "x+2"), ("(2, 1)", "(1, 2)"), ("0.33", "1/3"), ("2003^{2002^{2001}}", "7")]


@pytest.mark.parametrize(("a", "b", "equal"), [(*p, True) for p in SAME] + [(*p, False) for p in OTHER])
def test_equal_answers_to_mathematics(a: str, b: str, equal: bool) -> None:
    """Guards against votes that are split over spellings of one number, and against an order that matters."""
    assert (mathematics.equal_answers(a, b), mathematics.equal_answers(b, a)) == (equal, equal)
    assert mathematics.equal_answers(a, a)
    assert mathematics.equal_answers(b, b)


def test_what_one_direction_calls_right_is_the_same_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against groups that depend on which reply came first, as the grader compares an answer with a gold one."""
    monkeypatch.setattr(mathematics, "compare", lambda a, gold: Verdict(a < gold))
    assert mathematics.equal_answers("a", "b")
    assert mathematics.equal_answers("b", "a")
    assert not mathematics.equal_answers("a", "a")


def test_what_was_not_graded_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a failed comparison that counts as a vote."""
    monkeypatch.setattr(mathematics, "grade_in_worker", lambda task, arguments: Verdict(None, "failed"))
    assert not mathematics.equal_answers("x+1", "1+x")


HOSTILE = [
    "\\boxed{" * 5003,
    "\\boxed{" + "{" * 211 + "}" * 211 + "}",
    "\\boxed{9^{9^{9^{9}}}}",
    "<answer>" * 5003 + "</answer>" * 5003,
    "<answer>" + "(" * 97 + "1" + ")" * 97 + "</answer>",
    "<answer>" + "-" * 199 + "1</answer>",
    "<answer>9**9**9**9</answer>",
    "[" * 50_021,
    '[{"name":"f","arguments":{"x":' + "[" * 20_011 + "]" * 20_011 + "}}]",
    '[{"name":"f","arguments":{"x":' + "9" * 5003 + "}}]",
    '[{"name":"f","arguments":{"x":"\\ud800"}}]',
    "<tool_call>" * 5003,
    "The answer is " * 5003,
    "9" * 200_003,
    "9" * 5003 + " + 1 = 2",
    " ? ".join(["3 * 7 = 21"] * 10_007),
    "Ann is a knight, " * 5003,
    "knight knave " * 5003,
    "\ud800\x00\u0663",
]


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("reply", HOSTILE, ids=lambda reply: ascii(reply[:20]))
def test_hostile_replies(form: str, reply: str) -> None:
    """Guards against replies that crash a vote or keep it busy: none takes more than a moment, none raises."""
    answer = TABLES[form][0]
    for lenient in (False, True):
        found = answer(reply, lenient, QUESTIONS[form])
        assert found is None or len(found) <= gym.MAX_ANSWER + len(reply) * 2
        if found is not None and form == "boxed":
            assert mathematics.equal_answers(found, found)
            assert not mathematics.equal_answers(found, "7")


def stated(problem: Problem, form: AnswerFormat) -> str:
    """The answer in the gold answer as it is stated in a reply; it is the same as itself."""
    assert problem.extract_answer is not None
    assert problem.equal_answers is not None
    found = problem.extract_answer(form.gold_reply(problem.gold))
    assert found is not None, problem.id
    assert problem.equal_answers(found, found)
    return found


@pytest.mark.parametrize("extraction", EXTRACTIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_suite_has_answers(name: str, extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a suite whose votes are empty. The answers do not change with the gold answer, which is replaced by
    one that nothing could read."""
    monkeypatch.setattr(datasets, "load_dataset", Hub(CASES[name].hub).load_dataset)
    source = ProblemSource(name, extraction=extraction)
    form, problem = answer_format_of(source), load_problems(source, 5, "test")[-1]
    found = stated(problem, form)
    assert problem.extract_answer is not None
    assert problem.equal_answers is not None
    assert replace(problem, gold="?").extract_answer is problem.extract_answer
    wrong = problem.extract_answer(CASES[name].wrong)
    assert wrong is not None
    assert not problem.equal_answers(wrong, found)
    for reply in CASES[name].right if CASES[name].answer_format != "bfcl" else ():
        right = problem.extract_answer(reply)
        assert right is not None
        if CASES[name].answer_format != "equation":  # another expression of the same value
            assert problem.equal_answers(right, found)


def test_extraction_is_that_of_the_source(tmp_path: Path) -> None:
    """Guards against votes that read leniently where verdicts are strict, or the other way round."""
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "2+5?", "answer": "7"}) + "\n", encoding="utf-8")
    boxed, lenient = (answer_of(ProblemSource(str(file), extraction=extraction)) for extraction in EXTRACTIONS)
    assert (boxed("The answer is 7"), lenient("The answer is 7")) == (None, "7")


def answer_of(source: ProblemSource) -> Callable[[str], str | None]:
    (problem,) = load_problems(source)
    assert problem.extract_answer is not None
    return problem.extract_answer


def verify_nothing(reply: str, gold: str) -> Verdict:
    """A verifier of one's own."""
    return Verdict(None)


def test_verifiers_of_ones_own_have_no_answers(tmp_path: Path) -> None:
    """Guards against votes by a form of answer that nobody named."""
    name = f"{__name__}:verify_nothing"
    assert find_answer_format(name).extract_answer is None
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "2+5?", "answer": "7"}) + "\n", encoding="utf-8")
    (problem,) = load_problems(ProblemSource(str(file), verifier=name))
    assert (problem.extract_answer, problem.equal_answers) == (None, None)


def test_bfcl_reads_the_calls() -> None:
    """Guards against acceptable values, which only the gold answer has, in the answer."""
    row = Row("row 1", {
        "question": [[{"role": "user", "content": "Two cars"}]],
        "function": [{"name": "book", "parameters": {"type": "dict", "properties": {"cars": {"type": "integer"}}}}],
        "ground_truth": [{"book": {"cars": [2, 3]}}],
    })  # fmt: skip
    question, gold = bfcl.FORMAT.read_row(row, Columns("question", "ground_truth", "function"), 0)
    problem = bfcl.FORMAT.problem("p", question, "", "bfcl", "strict")
    answer, same = problem.extract_answer, problem.equal_answers
    assert answer is not None
    assert same is not None
    assert answer(bfcl.gold_reply(gold)) == '[{"arguments":{"cars":2},"name":"book"}]'
    assert not same('[{"arguments":{"cars":2},"name":"book"}]', '[{"arguments":{"cars":3},"name":"book"}]')


def flight(**arguments: Any) -> str:
    return json.dumps([{"name": "fly", "arguments": arguments}])


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (flight(to="New York"), flight(to="new york"), True),
        (flight(to="St. John's", via=["LA", {"on": "5/7"}]), flight(via=["la", {"on": "5-7"}], to="st john's"), True),
        (flight(to="It's"), flight(to='It"s'), True),
        (flight(seats=2), flight(seats=2.0), True),
        (flight(to="New York"), flight(to="Newark"), False),
        (flight(to="New York"), flight(To="New York"), False),  # names of parameters and functions are exact
        (flight(to="x"), flight(to="x").replace("fly", "Fly"), False),
        (flight(to="New York"), flight(to="New York", via=None), False),
        (flight(seats=1), flight(seats=True), False),
        (flight(seats=2), flight(seats="2"), False),
        (flight(to=["a", "b"]), flight(to=["b", "a"]), False),
        (f"[{FERRY}, {TIDE}]", f"[{TIDE.replace('Oban', 'OBAN')}, {FERRY}]", True),  # in any order
        (f"[{FERRY}, {FERRY}]", f"[{FERRY}, {TIDE}]", False),
        (f"[{FERRY}]", f"[{FERRY}, {FERRY}]", False),
        ("[]", "[]", True),
    ],
)
def test_bfcl_votes_compare_as_its_verdicts_do(a: str, b: str, equal: bool) -> None:
    """Votes were split over "New York" and "new york", which the grader takes as one."""
    answers = [calls.extract_answer(reply, False) for reply in (a, b)]
    assert None not in answers
    one, two = (answer or "" for answer in answers)
    assert (bfcl.FORMAT.equal_answers(one, two), bfcl.FORMAT.equal_answers(two, one)) == (equal, equal)


def test_generated_problems_have_answers() -> None:
    """Guards against puzzles whose right answers are not readable, or all the same."""
    found = load_problems(ProblemSource("countdown", limit=101))
    answers = [stated(problem, ANSWER_FORMATS["countdown"]) for problem in found]
    assert len(set(answers)) > 89
    assert all(p.equal_answers is not None and not p.equal_answers(a, "?") for p, a in zip(found, answers, strict=True))


def test_gym_tasks_have_answers() -> None:
    """Guards the same for a gym task, whose problems go to other processes as well."""
    pytest.importorskip("reasoning_gym", reason='an extra: pip install "rethink-rl[gym]"')
    found = load_problems(ProblemSource("gym:chain_sum", size=7))
    answers = [stated(problem, answer_format_of(ProblemSource("gym:chain_sum"))) for problem in found]
    assert len(set(answers)) > 5
    again: Problem = pickle.loads(pickle.dumps(found[0]))
    assert again.extract_answer is not None
    assert again.equal_answers is not None
    assert again.equal_answers(str(again.extract_answer(f"<answer> {answers[0]} </answer>")), answers[0])


def test_problems_of_rows_can_be_pickled(tmp_path: Path) -> None:
    """Guards against answers that keep problems out of other processes."""
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "2+5?", "answer": "7"}) + "\n", encoding="utf-8")
    again: Problem = pickle.loads(pickle.dumps(load_problems(ProblemSource(str(file)))[0]))
    assert again.extract_answer is not None
    assert again.extract_answer("\\boxed{7}") == "7"


@pytest.mark.parametrize("name", ["gsm8k", "math500", "aime", "amc", "minerva", "olympiad", "countdown-tasks"])
def test_golds_of_real_suites(name: str, real_data: Path) -> None:
    """Guards against real gold answers that are no answers, and against `same` that calls neighbours equal."""
    source = ProblemSource(name, data=str(real_data), split="test", limit=83)
    answers = [stated(problem, answer_format_of(source)) for problem in load_problems(source, 5, "test")]
    pairs = list(pairwise(answers))
    same = answer_format_of(source).equal_answers
    assert sum(same(a, b) for a, b in pairs[:29]) < 6
    assert len(set(answers)) > len(answers) // 2


def test_votes_on_real_replies(real_data: Path) -> None:
    """Guards the agreement with verdicts on 1,526 replies of a real model: where a verdict has no answer a vote has none,
    and where it is right, and only there, the vote's answer is the same as the gold one."""
    rows = parquet.read_table(real_data / "traces" / "qwen3-4b.parquet").to_pylist()

    def agree(row: dict[str, Any]) -> tuple[bool, bool, bool]:
        gold = mathematics.parse_gold(row["ground_truth"])
        verdict = mathematics.verify(row["response"], gold)
        answer = mathematics.extract_answer(row["response"], False)
        loose = mathematics.extract_answer(row["response"], True)
        assert answer is None or loose == answer
        right = answer is not None and mathematics.equal_answers(answer, gold)
        return (answer is None) == (verdict.extracted is None), right == verdict.right, right

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(agree, rows))
    assert len(found) == 1526
    assert all(none and right for none, right, _ in found)
    assert sum(right for _, _, right in found) == 940
