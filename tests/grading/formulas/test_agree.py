"""Two formulas agree if they are equal for all values of their names; no other formula may be called equal."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rethink.grading.formulas.agree import agree, equal_equations
from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.tree import Name, Node, Number, Tree
from rethink.grading.formulas.verdicts import NotJudged
from support.cpu_limit import cpu_limit


def verdict(a: str, b: str, seed: str = "run") -> str:
    try:
        return "equal" if agree(parse(a), parse(b), seed) else "different"
    except NotJudged as err:
        return f"not judged: {err}"


EQUAL = [
    ("1+x", "x+1"),
    ("(x+1)^2", "x^2+2x+1"),
    ("2\\cdot2^{100000}", "2^{100001}"),
    ("9^{9^{9}}", "9^{9^9}"),
    ("\\frac{2025!}{2024!}", "2025"),
    ("\\frac{3^{1012}-1}{2}", "\\frac{3^{1012}}{2}-\\frac12"),
    ("\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3"),
    ("\\sqrt[3]{-8}", "-2"),
    ("(-8)^{1/3}", "-2"),
    ("\\sqrt{2gh}", "\\sqrt2\\sqrt{g}\\sqrt{h}"),
    ("2\\pi\\sqrt{\\frac{l}{g}}", "2\\pi\\frac{\\sqrt l}{\\sqrt g}"),
    ("2\\sqrt{\\pi G\\rho_0}\\,r_0", "\\sqrt{4\\pi G\\rho_0r_0^2}"),
    ("\\sqrt{1-\\frac{v^2}{c^2}}", "\\frac{\\sqrt{c^2-v^2}}{c}"),
    ("\\sqrt{x^2+y^2}", "\\sqrt{y^2+x^2}"),
    ("\\sqrt{x^3}", "x\\sqrt{x}"),
    ("\\sqrt{-x}", "(-x)^{1/2}"),
    ("\\sqrt{1-x}\\sqrt{1+x}", "\\sqrt{1-x^2}"),
    ("\\ln x+\\ln y", "\\ln(xy)"),
    ("\\ln|x-1|", "\\ln|1-x|"),
    ("2|x|", "|2x|"),
    ("\\sqrt{(a-b)^2}", "|a-b|"),
    ("\\arcsin x", "\\frac{\\pi}{2}-\\arccos x"),
    ("\\sin 30^\\circ", "\\frac12"),
    ("4\\cos 20^\\circ", "4\\cos\\frac{\\pi}{9}"),
    ("(1+i)^2", "2i"),
    ("e^{i\\pi}", "-1"),
    ("\\frac{4A}{3+3i}e^{it}", "\\frac{2A}{3}(1-i)e^{it}"),
    ("e^{-x^2/2}", "\\exp(-\\frac12x^2)"),
    ("\\frac1a\\sinh(at)", "\\frac{e^{at}-e^{-at}}{2a}"),
    ("\\log_{10}2", "\\frac{\\ln2}{\\ln10}"),
    ("\\log 8", "3\\log 2"),
    ("\\log_28", "3"),
    ("n!", "n(n-1)!"),
    ("\\binom{n}{k}", "\\frac{n!}{k!(n-k)!}"),
    ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"),
    ("5!!", "15"),
    ("\\lfloor\\frac{n+1}{2}\\rfloor", "\\lceil\\frac n2\\rceil"),
    ("\\lfloor\\frac n2\\rfloor", "\\frac{2n-1+(-1)^n}{4}"),
    ("(-1)^n", "\\cos(n\\pi)"),
    ("1+(-1)^n", "2\\cos^2\\frac{n\\pi}{2}"),
    ("(-1)^{n+1}", "-(-1)^n"),
    ("(-1)^{-n}n!", "(-1)^nn!"),
    ("\\lfloor\\sqrt2\\cdot10^5\\rfloor", "141421"),
    ("\\lfloor(\\sqrt2)^2\\rfloor", "2"),
    ("\\sum_{k=1}^{100}k", "5050"),
    ("\\sum_{k=1}^n2k", "2\\sum_{j=1}^nj"),
    ("\\int_0^1x^2\\,dx", "\\int_0^1t\\cdot t\\,dt"),
    ("f(x+1)", "f(1+x)"),
    ("x(y+1)", "xy+x"),
    ("a(b+c)d", "ad(b+c)"),
    ("I_0e^{-t/(RC)}", "I_0\\exp\\left(-\\frac{t}{RC}\\right)"),
    ("\\frac{x^2}{2}+C", "c+\\frac12x^2"),
    ("\\infty", "+\\infty"),
    ("1011_2", "11"),
    ("17\\bmod5", "2"),
    ("\\gcd(12,18)", "6"),
]
NOT_EQUAL = [
    ("10^{1000}+1", "10^{1000}"),
    ("2^{100000}+1", "2^{100000}"),
    ("1-\\frac{1}{2024!}", "1-\\frac{1}{2025!}"),
    ("\\binom{4048}{2024}+1", "\\binom{4048}{2024}"),
    ("\\frac12", "\\frac12(1-\\frac{1}{3^{2000}})"),
    ("x^2", "x^2+10^{-200}"),
    ("0." + 80 * "3", "\\frac13"),
    ("1.41421356", "\\sqrt2"),
    ("2x", "x"),
    ("\\sin 30", "\\sin 30^\\circ"),
    ("\\frac{1}{f(2)}", "f^{-1}(2)"),
    ("\\frac{1}{f(x)}", "f^{-1}(x)"),
    ("f(x)^3", "f^{(3)}(x)"),
    ("f'(x)", "f(x)"),
    ("E[X]^2", "E[X^2]"),
    ("\\frac{\\partial f}{\\partial y}", "\\frac{\\partial f}{\\partial x}"),
    ("0", "\\frac{\\partial u}{\\partial t}"),
    ("y", "x\\frac{\\partial f}{\\partial x}+y"),
    ("-\\infty", "\\infty"),
    ("5", "\\infty"),
    ("\\sum_{k=1}^nk", "\\frac{n(n+1)}{3}"),
    ("\\gcd(n,2)", "n+1"),
    ("1+\\cos^2(n\\pi)", "1+(-1)^n"),
    ("n+(n-1)(n-2)(n-3)(n-4)(n-5)(n-6)(n-7)", "n"),
    ("\\ln 2", "\\ln 3"),
    ("c+C", "2c"),
]
NOT_JUDGED = [
    ("3", "\\frac{1}{1-1}", "the gold answer has no finite value"),
    ("9^{9^9}", "5", "a power too high to compute"),
    ("\\binom{10^9}{5\\cdot10^8}", "5", "a binomial too large to compute"),
    ("|x|", "x", "equal for positive values only"),
    ("\\sqrt{x^2}", "x", "equal for positive values only"),
    ("\\sqrt{x^2}+y", "x+y", "equal for positive values only"),
    ("\\ln x^2", "2\\ln x", "equal for positive values only"),
    ("\\frac{|x|+x}{2x}", "1", "equal for positive values only"),
    ("\\log100", "2", "a logarithm without a base"),
    ("\\ln 2", "\\log 2", "a logarithm without a base"),
    ("\\int_0^1x^2\\,dx", "\\frac13", "a sum, integral or limit that is not worked out"),
    ("a(b+c)d", "a(bd+cd)", "a name before parentheses may be a function or a factor"),
    ("fx+f", "f(x+1)", "a name before parentheses may be a function or a factor"),
    ("x+e^{-10^6}", "x", "numbers too large or too small to compare"),
]
NOTHING = [
    r"2^{-3000}",
    r"e^{-500}",
    r"(\sqrt2-1)^{500}",
    r"(\sqrt2-1.41421356)^{50}",
    r"1-\tanh 1000",
    r"\sqrt{2+10^{-200}}-\sqrt2",
    r"e^{3\cdot10^{-50}}-3e^{2\cdot10^{-50}}+3e^{10^{-50}}-1",
    r"\frac{1}{9^{9^3}}",
    r"\sum_{k=1}^{60}\frac{1}{60}e^{\cos(2\pi k/60)}-\sum_{k=1}^{120}\frac{1}{120}e^{\cos(2\pi k/120)}",
    r"(23x-17)(19x-31)(29x-59)",
    r"\lfloor\frac{1}{x^2+2}\rfloor",
    r"\lfloor\frac{n}{10^9}\rfloor",
    r"0^{(x-1)^2}",
    r"\frac{|x|}{x}-1",
    r"\max(0,x-10^{30})",
    r"(|x|+x)(|10^{-20}-x|+10^{-20}-x)",
    r"|x-10^{50}|+x-10^{50}",
    r"\sqrt{(x-10^{50})^2}+x-10^{50}",
    r"\sqrt{x^2-2\cdot10^{50}x+10^{100}}+x-10^{50}",
    r"\sqrt{(\ln x-1000)^2}+\ln x-1000",
    r"|\sqrt[1000]{x}-5|+\sqrt[1000]{x}-5",
    r"\arccos(\cos x)-x",
    r"\arctan(\tan x)-x",
    r"(x^2)^{1/2}-x",
    r"\sin(\pi n)",
    r"\prod_{k=0}^{100}(n-k)",
    r"\binom{n}{200}",
    r"\frac{n!}{(n-100)!}",
    r"\gcd(n,10^{20}+39)-1",
    r"\sum_{k=10^6}^n1",
    r"\int_0^{1}10^{-50}dt",
    r"f(x+3)-3f(x+2)+3f(x+1)-f(x)",
    r"\lceil x\rceil-\lfloor x\rfloor-1",
    r"\operatorname{sgn}(x)-1",
]
"""What is nearly always nearly nothing, but not zero."""
HARD = [
    ("\\sum_{k=1}^{10000}k^k", "1"),
    ("\\sum_{k=1}^{10000}\\sin k", "1"),
    ("\\prod_{k=1}^{10000}(\\sqrt k+x)", "x"),
    ("e^{e^{e^{e^5}}}", "2"),
    ("2^{2^{2^{2^{2^2}}}}", "2"),
    ("((((9!)!)!)!)!", "2"),
    ("\\sqrt{10^{100000}+1}", "2"),
    ("(" + "+".join(f"\\frac{{1}}{{{k}^{{900}}+1}}" for k in range(100, 160)) + ")", "2"),
    ("(x+y+z)^{3000}-(x+y+z+1)^{3000}", "x"),
    ("\\Pi" + "".join(f"+\\sqrt{{x+{k}}}" for k in range(90)), "x"),
    ("\\sum_{a=1}^{99}\\sum_{b=1}^{99}\\sum_{c=1}^{99}\\sum_{d=1}^{99}abcd", "1"),
    ("(x!)!+((x!)!)!", "x"),
    ("\\binom{(10^9+1)^{999}}{10^9}", "2"),
    ("\\gcd(10^{50000}+1,3^{90000}+2)", "7"),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal_in_another_form(answer: str, gold: str) -> None:
    assert verdict(answer, gold) == verdict(gold, answer) == "equal"


@pytest.mark.parametrize(("answer", "gold"), NOT_EQUAL)
def test_different(answer: str, gold: str) -> None:
    assert verdict(answer, gold) == verdict(gold, answer) == "different"


@pytest.mark.parametrize(("answer", "gold", "reason"), NOT_JUDGED)
def test_not_judged(answer: str, gold: str, reason: str) -> None:
    assert verdict(answer, gold) == f"not judged: {reason}"


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("gold", ["x", "n", "\\sqrt2"])
def test_no_addition_that_vanishes_where_one_looks(gold: str, nothing: str) -> None:
    assert verdict(f"{gold}+{nothing}", gold) != "equal"


@pytest.mark.parametrize(("answer", "gold"), HARD)
def test_time_has_a_limit(answer: str, gold: str) -> None:
    with cpu_limit(10):
        assert verdict(answer, gold) != "equal"


def test_points_depend_on_the_seed() -> None:
    """A polynomial with zeros at the points of one seed must differ for another; the verdict must not."""
    assert verdict("x^2-1", "(x-1)(x+1)", "1") == verdict("x^2-1", "(x-1)(x+1)", "2") == "equal"


@pytest.mark.parametrize(
    ("ours", "wanted", "right"),
    [
        (("y", "2x+1"), ("2x-y+1", "0"), True),
        (("2y", "4x+2"), ("y", "2x+1"), True),
        (("x", "\\sqrt2y"), ("\\sqrt2x", "2y"), True),
        (("a", "b"), ("b", "a"), True),
        (("x^2+y^2", "4"), ("\\frac{x^2}{4}+\\frac{y^2}{4}", "1"), True),
        (("\\dot v", "\\frac1mf-\\frac bmv"), ("m\\frac{dv}{dt}+bv", "f"), True),
        (("pV", "nRT"), ("p", "\\frac{nRT}{V}"), True),
        (("x(x-1)", "0"), ("x-1", "0"), False),
        (("mx", "y"), ("x", "my"), False),
        (("y", "2x"), ("y", "3x"), False),
        (("x", "x"), ("y", "2x"), False),
        (("x", "x"), ("x", "2x"), False),
        (("0", "0"), ("x", "1"), False),
        (("x^2", "x"), ("x", "1"), False),
        (("3", "3"), ("4", "4"), False),
        (("x", "5"), ("x", "5.0000001"), False),
    ],
)
def test_equations(ours: tuple[str, str], wanted: tuple[str, str], right: bool) -> None:
    left, right_side, wanted_left, wanted_right = [parse(side) for side in (*ours, *wanted)]
    assert equal_equations(left, right_side, wanted_left, wanted_right) is right


def test_deep_trees_are_not_judged() -> None:
    tree: Tree = Name("x")
    other: Tree = Name("x")
    for _ in range(3_000):
        tree, other = Node("-", (tree,)), Node("+", (other, Number(Fraction(1))))
    with pytest.raises(NotJudged):
        agree(tree, other)
