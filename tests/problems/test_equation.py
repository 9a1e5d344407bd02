"""Countdown equations: the parser against Python's arithmetic, the search against brute force, hostile replies."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems.equation import FORMAT, equal_answers, extract_answer, numbers_and_target
from rethink.problems.rows import Columns, Row
from support.cpu_limit import cpu_limit

GOLD = '{"numbers":[3,7,5],"target":26}'
GOLD_2 = '{"numbers":[8,3,8,3],"target":24}'  # 8 / (3 - 8 / 3): only through a fraction


def tagged(text: str) -> str:
    return f"Let me try.\n<answer>{text}</answer>"


RIGHT = [
    "3 * 7 + 5", "5+3*7", " 3\n* 7 +\t5 ", "-3 * (-7) + 5", "-(-5 - 3 * 7)", "5 - (-3) * 7",
]  # fmt: skip

WRONG = {
    "": "ends too early", "26": "given numbers", "3 * 7": "given numbers", "3 * 7 + 5 + 0": "given numbers",
    "3 * 7 + 5 + 3 - 3": "given numbers",
    "3 * 7 + 3 + 2": "given numbers", "3 + 7 + 5": "makes 15", "3 / 7 + 5": "makes 38/7",
    "7 / (5 - 5) + 3": "divides by zero", "3 * 7 + 5 = 26": "'=' is not allowed", "3 ** 7 + 5": "'*' where a number",
    "7 // 3 + 5": "'/' where a number", "3 * 7 - -5": "'-' where a number", "--3 * 7 + 5": "'-' where a number",
    "5 + -3 * -7": "'-' where a number", "3 7 + 5": "'7' where an operator", "3(7) + 5": "'(' where an operator",
    "(3 * 7 + 5": "bracket is not closed", "3 * 7 + 5)": "')' where an operator", "3 * 7 +": "ends too early",
    "3.0 * 7 + 5": "'.' is not allowed", "3 × 7 + 5": "not allowed",
    "٣ * 7 + 5": "not allowed",  # Arabic 3: int() would read it
    "3 * 7 + 5\n3 + 7 * 5": "'3' where an operator", "__import__('os').getpid()": "not allowed",
    "(" * 21 + "3" + ")" * 21 + "* 7 + 5": "deep", "3 * 7 + 5" + " " * 200 + "+ 0": "longer than",
}  # fmt: skip


@pytest.mark.parametrize("expression", RIGHT)
def test_right_expressions(expression: str) -> None:
    """Guards against rejecting expressions that follow the rules: any order, blanks, brackets, a leading minus."""
    verdict = FORMAT.verify(tagged(expression), GOLD)
    assert verdict.right is True
    assert verdict.extracted == expression.strip()
    assert FORMAT.verify_lenient(tagged(expression), GOLD) == verdict


@pytest.mark.parametrize(("expression", "reason"), WRONG.items(), ids=lambda text: text[:30])
def test_wrong_expressions(expression: str, reason: str) -> None:
    """Guards against cheating that is rewarded, and exceptions."""
    verdict = FORMAT.verify(tagged(expression), GOLD)
    assert verdict.right is False
    assert reason in verdict.reason
    assert verdict.extracted is not None
    assert not verdict.lenient


def test_adjacent_brackets_are_not_deep() -> None:
    """Guards against a depth that counts closed brackets."""
    assert FORMAT.verify(tagged(" + ".join(["(1)"] * 30)), gold_for([1] * 30, 30)).right is True


REPLIES = {
    "<answer>3 + 7 + 5</answer> no: <answer>3 * 7 + 5</answer>": True, "<ANSWER>3 * 7 + 5</Answer>": True,
    "<answer>3 * 7 + 5</answer> or <answer>3 + 7 + 5</answer>": False, "<think><answer>3 * 7 + 5</answer>": False,
    "<answer>3 * 7 + 5": False, "\\boxed{3 * 7 + 5}": False,
}  # fmt: skip


@pytest.mark.parametrize(("reply", "right"), REPLIES.items())
def test_the_last_closed_tag_after_the_thinking_counts(reply: str, right: bool) -> None:
    """Guards against answers from the thinking, from an earlier tag, or from outside the tag."""
    assert FORMAT.verify(reply, GOLD).right is right


LENIENT = {
    tagged("3 * 7 + 5 = 26"): True, tagged("$3 \\times 7 + 5$"): True, tagged("3 × 7 + 5 = 26."): True,
    tagged("\\left(3 · 7\\right) + 5"): True, "So \\boxed{3 * 7 + 5 = 26}.": True,
    "3 \\times 7 = 21.\nThe answer is **5 + 3 * 7 = 26**.": True, "Hence \\(3 \\times 7 + 5 = \\boxed{26}\\)": True,
    tagged("3 * 7 + 5 = 27"): None, tagged("3 * 7 = 21 + 5 = 26"): None, tagged("3 + 7 + 5 = 26"): False,
    tagged("3 * 7 + 5") + tagged("3 + 7 + 5"): None, tagged("no idea") + "\n3 * 7 + 5": None,
    "3 * 7 + 5\nIt is 26.": None, "3 * 7 + 5, 5 * 3 + 7": None, "<think>3 * 7 + 5": None,
}  # fmt: skip


@pytest.mark.parametrize(("reply", "right"), LENIENT.items())
def test_lenient_extraction(reply: str, right: bool | None) -> None:
    """Guards against unmarked lenient verdicts, and several expressions. None: the same verdict as by strict extraction."""
    assert FORMAT.verify(reply, GOLD).right is False
    verdict = FORMAT.verify_lenient(reply, GOLD)
    assert verdict.lenient is (right is not None)
    assert verdict.right is bool(right)
    if right is None:
        assert verdict == FORMAT.verify(reply, GOLD)


def test_lenient_extraction_of_fractions() -> None:
    """Guards against a fraction read as a number of two digits, or a mixed number read as a product."""
    assert FORMAT.verify_lenient("\\boxed{\\frac{8}{3 - \\frac{8}{3}}}", GOLD_2).right is True
    assert FORMAT.verify_lenient("\\boxed{3\\frac{15}{5}}", gold_for([3, 15, 5], 9)).right is False


@pytest.mark.parametrize("n", [10**5, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("unit", ["(", "1+", " ", "\\frac{"])
def test_long_replies_have_a_short_verdict(unit: str, n: int) -> None:
    """Guards against replies that stall the verifier, overflow its stack, or fill the log."""
    flood = unit * (n // len(unit)) + ("x" if unit == " " else "")
    for reply in (tagged(flood), flood, f"<answer>{flood}", f"\\boxed{{{flood}}}"):
        for grade in (FORMAT.verify, FORMAT.verify_lenient):
            with cpu_limit():
                verdict = grade(reply, GOLD)
            assert verdict.right is False
            assert len(verdict.reason) < 200
            assert len(verdict.extracted or "") <= 200


expressions = st.recursive(
    st.integers(0, 1999).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("(-{})".format),
    ),
    max_leaves=7,
)


@settings(deadline=None)
@given(expressions)
def test_values_equal_those_of_python(expression: str) -> None:
    """Guards precedence, associativity and signs, against Python's parser with exact fractions."""
    numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in expression).split()]
    exact = " ".join(f"Fraction({t})" if t.isdigit() else t for t in spaced(expression).split())
    try:
        value = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        assert "divides by zero" in FORMAT.verify(tagged(expression), gold_for(numbers, 1)).reason
        return
    if value.denominator == 1:
        assert FORMAT.verify(tagged(expression), gold_for(numbers, int(value))).right is True
        assert FORMAT.verify(tagged(expression), gold_for([*numbers, 1], int(value))).right is False
    wrong = FORMAT.verify(tagged(expression), gold_for(numbers, int(value) + 1))
    assert wrong.reason == f"makes {value}, which is not the target"


def spaced(expression: str) -> str:
    return "".join(f" {c} " if c in "+-*/()" else c for c in expression)


def gold_for(numbers: list[int], target: int) -> str:
    return f'{{"numbers":{numbers},"target":{target}}}'


def brute_force(numbers: tuple[int, ...], target: int) -> bool:
    """Return whether the target can be made, by all values of all splits of all orders."""

    def values(given: tuple[int, ...]) -> set[Fraction]:
        if len(given) == 1:
            return {Fraction(given[0])}
        found: set[Fraction] = set()
        for k in range(1, len(given)):
            for x, y in itertools.product(values(given[:k]), values(given[k:])):
                found |= {x + y, x - y, x * y} | ({x / y} if y else set())
        return found

    return any(target in values(order) for order in set(itertools.permutations(numbers)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 13), min_size=2, max_size=4).map(tuple), st.integers(0, 60))
def test_gold_reply_finds_a_solution_if_there_is_one(numbers: tuple[int, ...], target: int) -> None:
    """Guards against a search that misses solutions; no positive target needs the leading minus."""
    gold = gold_for(list(numbers), target)
    if brute_force(numbers, target):
        assert FORMAT.verify(FORMAT.gold_reply(gold), gold).right is True
    else:
        with pytest.raises(ValueError, match="no expression makes"):
            FORMAT.gold_reply(gold)


@pytest.mark.parametrize(
    "gold", [GOLD_2, *(gold_for(n, t) for n, t in [([13, 2], 11), ([3, 12], 4), ([12, 3], 4), ([2, 3, 13], 7)])]
)
def test_gold_reply_finds_the_only_solution(gold: str) -> None:
    """Guards against a search over integers only, and one order of - and /."""
    assert FORMAT.verify(FORMAT.gold_reply(gold), gold).right is True


def test_read_row() -> None:
    """Guards the layouts of rows in use, problems that cannot be solved, and messages without the place."""
    layouts: list[dict[str, Any]] = [
        {"answer": {"numbers": [3, 7, 5], "target": 26}},
        {"answer": '{"target": 26, "numbers": [3, 7, 5], "more": 1}'},
        {"nums": [3, 7, 5], "target": 26},
    ]
    for values in layouts:
        found = FORMAT.read_row(Row("file, row 1", values), Columns(), 0)
        assert found == ("Make 26 from the numbers 3, 7 and 5.", GOLD)
        assert numbers_and_target(GOLD) == ((3, 5, 7), 26)
    refused: list[Any] = ["26", {"numbers": [3, 7, 5]}, {"numbers": [3, 7, 5], "target": "26"}]
    refused += [{"numbers": n, "target": 26} for n in ([3, -7, 5], [3, True, 5], [26], list(range(9)))]
    for answer in refused:
        with pytest.raises(UserError, match="file, row 1"):
            FORMAT.read_row(Row("file, row 1", {"answer": answer}), Columns(), 0)


@pytest.mark.slow
def test_real_problems_have_gold_replies(real_data: Path) -> None:
    """Guards against a search or a verifier that fails on one of 1,024 real problems."""
    rows = parquet.read_table(real_data / "countdown" / "test.parquet").to_pylist()
    columns = Columns(answer="reward_model.ground_truth")
    golds = [FORMAT.read_row(Row(f"row {n}", row), columns, 0)[1] for n, row in enumerate(rows)]
    assert len(golds) == 1024
    assert [gold for gold in golds if FORMAT.verify(FORMAT.gold_reply(gold), gold).right is not True] == []


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("3 * 7 + 5", "(5 + 7 * 3)", True),
        ("8 / (3 - 8 / 3)", "8 / ((9 - 8) / 3) + 0", False),  # 24 from other numbers
        ("(1 + 2) * 3", "3 * 3 * 1", False),
        ("6 / 4", "3 / 2", False),
        ("(6 - 2) / 4 + 3", "4 - (6 / 3 - 2)", True),  # both make 4 from 2 3 4 6
        ("1 / (2 - 2)", "1/(2-2)", True),  # the same text
        ("1 / (2 - 2)", "2 / (1 - 1)", False),
        ("0 * 5 * 1", "5 / (1 / 0)", False),  # the second divides by zero, although its normal form would not
    ],
)
def test_votes_compare_values_and_numbers(a: str, b: str, equal: bool) -> None:
    """Guards against right expressions that split their votes, and votes that join right and wrong ones."""
    first, second = (str(extract_answer(tagged(text), lenient=False)) for text in (a, b))
    assert equal_answers(first, second) == equal_answers(second, first) == equal


def test_equal_expressions_have_equal_verdicts() -> None:
    """All expressions of some numbers in one form, zero among them: equal ones have the same verdict for every target, and
    two that are right for one target are equal."""
    texts: list[str] = []
    for a, b, c in itertools.permutations((0, 1, 2)):
        for x, y in itertools.product("+-*/", repeat=2):
            texts += [f"{a} {x} {b} {y} {c}", f"{a} {x} ({b} {y} {c})"]
    texts += ["0 + 1", "1 + 2 + 1", "1 - 0 + 2 + 0"]
    rights: dict[str, frozenset[int]] = {}
    for text in texts:
        right = [t for t in range(-3, 5) if FORMAT.verify(tagged(text), f'{{"numbers":[0,1,2],"target":{t}}}').right]
        rights[str(extract_answer(tagged(text), lenient=False))] = frozenset(right)
    for one, other in itertools.combinations(rights, 2):
        if equal_answers(one, other):
            assert rights[one] == rights[other], (one, other)
        else:
            assert not rights[one] & rights[other], (one, other)
