"""Answers that are made to be called right: what a policy under training could find."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rethink.grading.formulas.arithmetic import Arithmetic, Budget
from rethink.grading.formulas.judge import judge
from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.points import Points
from rethink.grading.formulas.values import Evaluator
from rethink.problems.mathematics import compare, verify
from support.cpu_limit import cpu_limit

_ZEROS = "(x-1)(x-2)(x-3)(x+1)x(2x-1)(3x-1)(23x-17)(19x-31)(29x-59)"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (rf"\sin x+{_ZEROS}", r"\sin x"),
        (rf"2x^2+5x-{_ZEROS}", "2x^2+5x"),
        (r"\sqrt{2}+2^{-3000}", r"\sqrt{2}"),
        (r"\pi-10^{-900}", r"\pi"),
        ("x^2+8x-10^{-500}", "x^2+8x"),
        (r"\ln(x+4)+10^{-9000}", r"\ln(x+4)"),
        (r"\sqrt{x^2+8}+e^{-500}", r"\sqrt{x^2+8}"),
        (r"\frac{5}{17}-2^{-9000}", r"\frac{5}{17}"),
        ("3^{2000}-1+7", "3^{2000}-1"),
        ("2000!-2^{10}", "2000!"),
        (r"\binom{2000}{1000}+1", r"\binom{2000}{1000}"),
        ("10^{2024}+1", "10^{2024}"),
        ("0." + "3" * 450, r"\frac{1}{3}"),
        (r"\sqrt{x^2}", "x"),
        (r"\sqrt{x^2y}", r"x\sqrt{y}"),
        (r"\sqrt[4]{x^4}+2", "x+2"),
        (r"\arctan(\tan x)", "x"),
        (r"x \equiv 5", "x=5"),
        (r"x \approx 5", "x=5"),
        ("x≡5", "5"),
        ("x≈5", "5"),
        (r"5 \text{ MW}", r"5 \text{ mW}"),
        ("3 tenths", "3"),
        (r"9\text{M}", "9"),
        (r"2 \text{ dozen}", "2"),
        (r"\max(x+2,x+1,x-e^{1000})", "x+2"),
        (r"42+\max(0,0,x-100!)", "42"),
        (r"\overline{z+1}", "z+1"),
        (r"\operatorname{Re}(z)", "z"),
        ("|z|^2", "z^2"),
        (r"\Im(z)", "0"),
        (r"x+1>\cos(10^{-100})", "x>0"),
        (r"2x>2(\cos(10^{-100})-1)", "x>0"),
        ("4{2}", "8"),
        (r"\mathbf{4}2", "8"),
        (r"\boxed{4}{2}", "8"),
        ("1,2,3,...", "1,2,3"),
        ("0.333...", "0.333"),
        (r"\cot^{-1} x", r"\tan x"),
        (r"\csc^{-1} x", r"\sin x"),
        (r"\mathbb{R}\cup\{i\}", r"\mathbb{R}"),
        (r"\mathbb{R}\cup\{\sqrt{-1}\}", r"\mathbb{R}"),
        (r"\emptyset, 42", "42"),
        (r"\text{B) and C}", "B"),
        (r"\text{(B) or C}", "B"),
        (r"\text{B) is wrong}", "B"),
        (r"\text{B: A, C}", "B"),
        (r"-\text{even}", r"\text{even}"),
        ("!even", r"\text{even}"),
    ],
)
def test_an_answer_that_only_looks_equal_is_not_right(answer: str, gold: str) -> None:
    """Guards against sample points that can be guessed, differences below the digits compared, and dropped signs."""
    assert compare(answer, gold).right is not True


@pytest.mark.parametrize(
    "text",
    [r"\int_0^1 x dx", r"\lim_{x\to 0} x", r"\int x dx", r"\sum_{x=1}^{\infty} x", "f(1)", r"\frac{df}{dx}", r"\log 3"],
)
def test_no_answer_fits_the_stand_ins_of_what_is_not_computed(text: str) -> None:
    """Guards against stand-ins (of integrals, functions) with the same value in every comparison, which an answer could
    divide by."""
    tree = parse(text)
    value = Evaluator(Arithmetic(200, Budget()), {}).value(tree)
    points = Points([], "a", "b")
    other = Evaluator(Arithmetic(200, Budget()), {}, salt=points.salt).value(tree)
    assert value != other
    if isinstance(value, Fraction):
        assert (
            compare(rf"\frac{{42 {text}}}{{\frac{{{value.numerator}}}{{{value.denominator}}}}}", "42").right is not True
        )


@pytest.mark.parametrize(
    "answer",
    [
        r"\frac{d^9}{dx^9}\left(x^{x^{x^{x}}}\right)",
        r"\frac{d^9}{dx^9}\left(\frac{d^9}{dx^9}\left(x^2e^{x^2}\right)\right)",
        r"\frac{d^9}{dx^9}\left(\sin(\sin(\sin(\sin(\sin(x)))))\right)",
        ",".join([r"\sum_{k=1}^{9999}\sin k"] * 6),
        ",".join([r"\sum_{k=1}^{9999}\frac1k"] * 6),
    ],
)
def test_heavy_answers_are_given_up_soon(answer: str) -> None:
    """Guards against derivatives that grow without end, and a limit of work for each item of a list alone."""
    with cpu_limit(15):
        assert judge(answer, "1,2,3,4,5,6")[0] is not True
        assert judge(answer, "x+2")[0] is not True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2^{2000}-2^{10}", "4^{1000}-1024"),
        (r"1-\frac{1}{2025!}", r"\frac{2025!-1}{2025!}"),
        ("x^{2024}+1", "x^{2000}x^{24}+1"),
        (r"6.63\times10^{-34}x", r"x\cdot 6.63\cdot10^{-34}"),
        (r"\sqrt{2x}", r"\sqrt{2}\sqrt{x}"),
        (r"x\approx 5", r"x \approx 5"),
        (r"\ln 8", r"3\ln 2"),
        (r"\max(a,b,c)", r"\max(c,a,b)"),
        (r"\operatorname{Re}(z)", r"\frac{z+\overline{z+0}}{2}"),
        (r"|z|^2+1", r"1+|z|^2"),
        ("|x|^2", "x^2"),
        (r"\cot^{-1} 1", r"\frac{\pi}{4}"),
        (r"\sec^{-1} 2", r"\frac{\pi}{3}"),
        (r"2x+2>\sqrt{8}-2x", r"x>\frac{\sqrt{2}-1}{2}"),
        ("4(2)", "8"),
        (r"3\frac12", "3.5"),
        (r"2\sqrt{4}", "4"),
        (r"\frac{1}{2}4", "2"),
        (r"\text{(B) Vitamin C}", "B"),
    ],
)
def test_equal_answers_with_extreme_numbers_and_roots_stay_right(answer: str, gold: str) -> None:
    """Guards against a check of sizes and signs that refuses right answers."""
    assert compare(answer, gold).right is True


@pytest.mark.parametrize("inner", ["(" * 4000 + ")" * 4000, r"\text{a}" * 8000, "1," * 30_000])
def test_two_long_boxes_are_not_compared_with_each_other(inner: str) -> None:
    """Guards against seconds of work, without a limit, in the process that trains."""
    with cpu_limit(1):
        assert verify(rf"\boxed{{{inner}}} and \boxed{{{inner}1}}", "7").right is False
