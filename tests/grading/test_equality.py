"""When two answers are the same: a table in both directions, and what must hold for numbers, lists and formulas."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rethink.grading.formulas.judge import judge
from rethink.grading.pool import Pool
from rethink.problems.mathematics import compare
from support.answer_pairs import DIFFERENT, EQUAL, FORMULAS
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)


def equal(answer: str, gold: str) -> bool | None:
    return judge(answer, gold)[0]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_answers_in_two_spellings(a: str, b: str) -> None:
    """Guards against right answers graded wrong for how they are written, in either direction."""
    assert compare(a, b).right is True
    assert compare(b, a).right is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers(a: str, b: str) -> None:
    """Guards against wrong answers graded right, in either direction, as in huggingface/Math-Verify#14 and #60. Only what
    cannot be read, or is equal for some values, is not graded.
    """
    verdicts = compare(a, b), compare(b, a)
    for verdict in verdicts:
        assert verdict.right is not True
        assert verdict.right is False or "cannot be read" in verdict.reason or "values only" in verdict.reason


@pytest.mark.parametrize(
    ("answer", "right"), [("10/4=2.5", True), ("10/4=2.6", False), ("2.4=2.5", False), ("x=y=2.5", True)]
)
def test_every_link_of_a_chain_must_be_right(answer: str, right: bool) -> None:
    """Guards against an answer that ends well, and against one that only begins so."""
    assert compare(answer, "2.5").right is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        *[("1.2", True), ("1.15", True), ("1.25", True), ("1.1499", False), ("1.2501", False), ("-1.2", False)],
        *[("\\frac{7}{6}", True), ("x = 7/6", True), ("x = \\frac{7}{6} \\approx 1.17", True), ("1.2 m", True)],
        *[
            ("\\sqrt{1.5}", True),
            ("\\sqrt{2}", False),
            ("x", False),
            ("1.2, 1.3", False),
            ("1.2x", False),
            ("≈1.2", True),
        ],
        *[("(1.2, 1.2)", False), ("\\text{one}", False), ("1.2 \\times 10^0", True), ("\\frac{1}{0}", False)],
    ],
)
def test_a_rounded_gold_answer(answer: str, right: bool) -> None:
    """Guards against values that round to the gold answer and are called wrong, and others that are called right."""
    assert compare(answer, "≈1.2").right is right


@given(st.integers(-(10**6), 10**6), st.integers(0, 4), st.fractions(-1, 1))
def test_rounding_agrees_with_exact_arithmetic(n: int, places: int, part: Fraction) -> None:
    """Guards against binary rounding: a distance of at most half of the last place is right, any other is wrong."""
    unit = Fraction(1, 10**places)
    sign = "-" if n < 0 else ""
    digits = f"{abs(n):0{places + 1}}"
    gold = sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
    value = n * unit + part * unit
    assert judge(f"{value.numerator}/{value.denominator}", f"≈{gold}")[0] is (abs(part) <= Fraction(1, 2))


NUMBERS = st.integers(-(10**9), 10**9)


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\u2060"])
def test_zero_width_characters_are_ignored(blank: str) -> None:
    """Guards against an answer graded by what nobody can see."""
    assert equal(f"{blank}5{blank}7", "57") is True
    assert equal(f"5{blank}7", "5") is False


def test_a_group_that_begins_with_a_zero_is_no_list() -> None:
    """Guards against 1,034 read as the list 1, 34."""
    assert equal("1,034", "1, 34") is False
    assert equal("1,034", "1034") is True


@given(NUMBERS, st.integers(1, 10**4))
def test_spellings_of_fractions(top: int, bottom: int) -> None:
    """Guards against spellings that lose a sign or a digit."""
    value = Fraction(top, bottom)
    for text in (f"{top}/{bottom}", f"\\dfrac{{{-top}}}{{{-bottom}}}", f"x = {top}/{bottom}"):
        assert equal(text, f"\\frac{{{value.numerator}}}{{{value.denominator}}}") is True
        assert equal(text, f"\\frac{{{value.numerator + 1}}}{{{value.denominator}}}") is False


@given(NUMBERS, st.integers(0, 6), st.data())
def test_spellings_of_decimals(n: int, places: int, data: st.DataObject) -> None:
    """Guards against rounding: numbers are exact."""
    value = Fraction(n, 10**places)
    text = f"{'-' * (n < 0)}{abs(n) // 10**places}.{abs(n) % 10**places:0{max(places, 1)}}"
    assert equal(text, f"{value.numerator}/{value.denominator}") is True
    assert equal(text, f"{n}/{10**places}") is True
    assert equal(f"{n}e-{places}", text) is True
    assert equal(f"{n} \\times 10^{{-{places}}}", text) is True
    at = data.draw(st.sampled_from([i for i, c in enumerate(text) if c.isdigit()]))
    digit = data.draw(st.sampled_from("0123456789"))
    assume(digit != text[at])
    assert equal(text[:at] + digit + text[at + 1 :], text) is False


LISTS = st.lists(st.integers(-99, 99), min_size=2, max_size=6)


@given(LISTS, st.randoms(use_true_random=False))
def test_lists_are_unordered_and_tuples_ordered(items: list[int], draw: random.Random) -> None:
    """Guards against points read as sets of numbers, and against solutions graded by their order."""
    shuffled = draw.sample(items, len(items))
    ours, wanted = (", ".join(map(str, x)) for x in (shuffled, items))
    assert equal(ours, wanted) is True
    assert equal(f"\\{{{ours}\\}}", wanted) is True
    assert equal(f"({ours})", f"({wanted})") is (shuffled == items)
    assert equal(f"{ours}, {items[0]}", wanted) is False
    assert equal(ours, ", ".join(map(str, [items[0] + 1, *items[1:]]))) is False


@settings(max_examples=30, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9), st.sampled_from(["x", "k", "t_1", "\\alpha", "Q"]))
def test_products_equal_their_expansions(a: int, b: int, c: int, name: str) -> None:
    """c (x - a) (x - b) = c x^2 - c (a + b) x + c a b, and not with another constant, name or factor."""
    product = f"{c}({name} - {a})({name} - {b})".replace("- -", "+ ")
    expanded = f"{c}{name}^2 + {-c * (a + b)}{name} + {c * a * b}".replace("+ -", "- ")
    assert compare(product, expanded).right is True
    assert compare(f"{expanded} + 1", product).right is False
    assert compare(expanded, product.replace(name, "z")).right is False
    assert compare(f"2{product}", expanded).right is False


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_order_of_the_questions() -> None:
    """Guards against caches and assumptions that one answer leaves for the next."""

    def ask(order: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        pool = Pool(1, timeout_s=60)
        try:
            return {(a, b): pool.ask("formulas", [a, b]).right for a, b in order}
        finally:
            pool.close()

    assert ask(FORMULAS) == ask(FORMULAS[::-1])
