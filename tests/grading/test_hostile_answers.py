"""Answers that are made to be called right: what a policy under training could find."""

from __future__ import annotations

import time

import pytest

from rethink.problems.mathematics import compare, verify

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
    ],
)
def test_an_answer_that_only_looks_equal_is_not_right(answer: str, gold: str) -> None:
    """Guards against sample points that can be guessed, differences below the digits compared, and dropped signs."""
    assert compare(answer, gold).right is not True


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
    ],
)
def test_equal_answers_with_extreme_numbers_and_roots_stay_right(answer: str, gold: str) -> None:
    """Guards against a check of sizes and signs that refuses right answers."""
    assert compare(answer, gold).right is True


@pytest.mark.parametrize("inner", ["(" * 4000 + ")" * 4000, r"\text{a}" * 8000, "1," * 30_000])
def test_two_long_boxes_are_not_compared_with_each_other(inner: str) -> None:
    """Guards against seconds of work, without a limit, in the process that trains."""
    start = time.process_time()
    assert verify(rf"\boxed{{{inner}}} and \boxed{{{inner}1}}", "7").right is False
    assert time.process_time() - start < 1
