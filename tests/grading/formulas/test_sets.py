"""Sets of real numbers in many notations: the same set is equal, another one never is."""

from __future__ import annotations

import pytest

from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.sets import equal_sets
from rethink.grading.formulas.values import NotJudged

EQUAL = [
    ("(-\\infty,1)\\cup(4,\\infty)", "x<1 \\text{ or } x>4"),
    ("(1,4)", "1<x \\text{ and } x<4"),
    ("(1,4)", "x>1, x<4"),
    ("(1,4]", "1<x\\le4"),
    ("(1,2)", "2>x>1"),
    ("(-\\infty,\\infty)", "\\text{all real numbers}"),
    ("(-\\infty,\\infty)", "\\mathbb{R}"),
    ("(-\\infty,\\infty)", "x \\in \\mathbb{R}"),
    ("x\\in R", "\\text{All real numbers}"),
    ("\\mathbb{R}\\setminus\\{3\\}", "(-\\infty,3)\\cup(3,\\infty)"),
    ("\\mathbb{R}\\setminus\\{3\\}", "x \\ne 3"),
    ("\\mathbb{R}-\\{3\\}", "x \\ne 3"),
    ("x \\ne 3", "x \\in R, x \\neq 3"),
    ("\\mathbb{R}\\setminus\\{1,2\\}", "x \\neq 1, 2"),
    ("\\mathbb{R}\\setminus\\{1,2\\}", "x \\neq 1, x \\ne 2"),
    ("\\mathbb{R}\\setminus\\{1,2\\}", "x \\neq 1 \\text{ and } x\\ne 2"),
    ("(3,\\infty)", "\\{x : x > 3\\}"),
    ("(3,\\infty)", "\\{x\\in\\mathbb{R} \\mid x > 3\\}"),
    ("(3,\\infty)", "\\{x | x \\in \\mathbb{R}, x > 3\\}"),
    ("[-1,1]", "|x|\\le 1"),
    ("(-\\infty,-1)\\cup(5,\\infty)", "|x-2|>3"),
    ("\\{1,3\\}\\cup\\{2,4\\}", "\\{1,2,3,4\\}"),
    ("[0,2)\\cup[2,5]", "[0,5]"),
    ("-2<k<0 \\text{ or } 0<k<3", "(-2,0)\\cup(0,3)"),
    ("\\emptyset", "\\text{no solution}"),
    ("\\{\\}", "\\emptyset"),
    ("x\\ge 2", "[2,\\infty)"),
    ("\\{1,2\\}", "1, 2"),
    ("\\{1,2\\}", "x=1 \\text{ or } x=2"),
    ("x=1, x=2", "\\{2,1\\}"),
    ("\\{1,2\\}", "x = 1 \\text{ or } 2"),
    ("(a,\\infty)", "x>a"),
    ("a<x<b", "(a,b)"),
    ("(a,b)", "x>a \\text{ and } x<b"),
    ("(-\\infty,a)\\cup(b,\\infty)", "x<a \\text{ or } x>b"),
    ("(a,b]\\cup(b,c)", "(a,c)"),
    ("(-\\sqrt{11},-2)\\cup(\\sqrt{11},9)", "-\\sqrt{11}<x<-2 \\text{ or } \\sqrt{11}<x<9"),
    ("[\\frac{\\pi^2}{8},\\frac{5\\pi^2}{4}]", "\\frac{\\pi^2}{8}\\le x\\le 1.25\\pi^2"),
    ("(3/5,8/3]", "0.6<x\\le\\frac{8}{3}"),
    ("\\{x : 2x-1\\ge 5\\}", "[3,\\infty)"),
    ("2x>6", "(3,\\infty)"),
    ("-2x>6", "(-\\infty,-3)"),
    ("\\{x : -2\\le x\\le 2, x\\in\\mathbb{Z}\\}", "\\{-2,-1,0,1,2\\}"),
    ("n\\ge 2, n\\in\\mathbb{N}", "n>1, n \\in \\mathbb{Z}"),
    ("\\mathbb{Z}^+", "\\text{all positive integers}"),
    ("[1,2]\\cap[2,3]", "\\{2\\}"),
    ("(1,4)\\setminus\\{2\\}", "(1,2)\\cup(2,4)"),
    ("(-\\infty,0)\\cup\\{1\\}", "x<0 \\text{ or } x=1"),
    ("(-\\infty,1),(4,\\infty)", "(-\\infty,1)\\cup(4,\\infty)"),
    ("x \\le -2 \\text{ or } x \\ge 3", "x\\in(-\\infty,-2]\\cup[3,\\infty)"),
    ("x<1, x>4", "x<1 \\text{ or } x>4"),
    ("D = (-\\infty, 3)", "x<3"),
    ("f(x)\\ge 2", "[2,\\infty)"),
    ("|x| \\ge 0", "\\mathbb{R}"),
    ("\\{x\\mid x\\ne 0\\}", "\\text{nonzero real numbers}"),
    ("(0,1)", "\\{t : 0<t<1\\}"),
    ("x > 3", "3 < x"),
    ("k \\geqslant 2", "[2,\\infty)"),
    ("[-2,7]", "-2\\le x\\le 7"),
    ("\\{x \\ge 2\\}", "[2,\\infty)"),
    ("-\\infty<x<\\infty", "\\mathbb{R}"),
    ("0^\\circ<x<90^\\circ", "(0^\\circ,90^\\circ)"),
    ("(30^\\circ,60^\\circ)", "\\frac{\\pi}{6}<x<\\frac{\\pi}{3}"),
    ("\\mathbb{Z}", "\\text{all integers}"),
    ("\\mathbb{Z}", "n \\in \\mathbb{Z}"),
    ("\\mathbb{Z}", "\\{k \\mid k\\in\\mathbb Z\\}"),
    ("x\\in\\mathbb{R}, x>3", "(3,\\infty)"),
    ("x > 3, x \\in \\mathbb{R}", "(3,\\infty)"),
    ("\\mathbb{R}\\setminus[0,1]", "x<0 \\text{ or } x>1"),
    ("\\mathbb{R}\\setminus(0,1]", "x\\le 0 \\text{ or } x>1"),
    ("(-\\infty, -1) \\cup (-1, 1) \\cup (1, \\infty)", "x \\ne 1, -1"),
    (
        "\\{ x \\in \\mathbb{R} : x \\neq 1 \\text{ and } x \\neq -1 \\}",
        "(-\\infty, -1) \\cup (-1, 1) \\cup (1, \\infty)",
    ),
    ("0<|x|<1", "(-1,0)\\cup(0,1)"),
    ("|x|>0", "x\\ne 0"),
    ("|x|=1", "\\{1,-1\\}"),
    ("|2x-1|\\ge 3", "(-\\infty,-1]\\cup[2,\\infty)"),
    ("-3\\le 2x+1<5", "[-2,2)"),
    ("3-x>1", "(-\\infty,2)"),
    ("\\frac{x}{2}>1", "x>2"),
    ("x+1>0", "(-1,\\infty)"),
    ("x > \\sqrt{2} \\text{ or } x<-\\sqrt2", "|x|>\\sqrt2"),
    ("\\{x : x = 1 \\text{ or } x = 2\\}", "\\{1,2\\}"),
    ("x\\in\\{1,2\\}", "\\{2,1\\}"),
    ("x\\in\\{1,2\\}", "x=1,2"),
    ("[3,3]", "\\{3\\}"),
    ("\\{5\\}", "5"),
    ("\\{5\\}", "x=5"),
    ("\\{\\frac12, 0.5\\}", "0.5"),
    ("k>2n", "2n<k"),
    ("x \\ge e", "[e,\\infty)"),
    ("(-\\infty,\\ln 2)", "x<\\ln 2"),
    ("(1,\\infty)", "x>\\log_2 2"),
    ("[0, 2\\pi)", "0\\le\\theta<2\\pi"),
    ("\\theta\\in[0,2\\pi)", "0\\le\\theta<2\\pi"),
    ("x>0, x\\ne1", "(0,1)\\cup(1,\\infty)"),
    ("(0,1)\\cup(1,\\infty)", "x>0 \\text{ and } x \\neq 1"),
    ("(0,2)", "(0,1]\\cup[1,2)"),
    ("x<3 \\text{ or } 3<x", "x\\ne 3"),
]
DIFFERENT = [
    ("(-\\infty,1)\\cup(4,\\infty)", "x\\le 1 \\text{ or } x>4"),
    ("(1,4)", "1\\le x<4"),
    ("\\mathbb{R}", "x\\ne 3"),
    ("\\mathbb{R}", "\\mathbb{Z}"),
    ("\\mathbb{R}", "\\mathbb{Q}"),
    ("\\{1,2\\}", "(1,2)"),
    ("\\{1,2\\}", "1, 2, 3"),
    ("x>3", "y>3"),
    ("x>3", "x>4"),
    ("(3,\\infty)", "x>3, x>5"),
    ("(3,\\infty)", "x>3 \\text{ and } x>5"),
    ("[0,2)\\cup(2,5]", "[0,5]"),
    ("(a,b)", "a\\le x<b"),
    ("x<1 \\text{ and } x>4", "x<1 \\text{ or } x>4"),
    ("[2,\\infty]", "x\\ge 2"),
    ("5", "x>5"),
    ("\\emptyset", "0"),
    ("\\{0\\}", "\\emptyset"),
    ("(3,5)", "x>3"),
    ("\\{3\\}", "[3,4]"),
    ("(30^\\circ,60^\\circ)", "\\frac{\\pi}{6}<x<\\frac{\\pi}{4}"),
    ("(30^\\circ,60^\\circ)", "30<x\\le 60"),
    ("(-\\infty,\\ln 2)", "x<\\ln 3"),
    ("x\\ge 2", "x>2"),
    ("x\\ge 2", "x\\le 2"),
    ("[1,2]", "\\{1,2\\}"),
    ("\\mathbb{R}\\setminus\\{1\\}", "\\mathbb{R}\\setminus\\{1,2\\}"),
    ("\\mathbb{R}\\setminus\\{1\\}", "\\mathbb{R}"),
    ("(-\\infty,1)\\cup(1,\\infty)", "\\mathbb{R}"),
    ("[0,1)\\cup(1,2]", "[0,2]"),
    ("(0,\\infty)", "[0,\\infty)"),
    ("x<1 \\text{ or } x>4", "x<1"),
    ("x<1", "x<1, x > 4"),
    ("(0,2)", "(0,1)\\cup(1,2)"),
]
NOT_SETS = [
    ("(1,2)", "(1,3)"),
    ("1,2", "2,1"),
    ("a>b", "b<a"),
    ("x=1, y=2", "\\{1,2\\}"),
    ("\\{(1,2)\\}", "(1,2)"),
    ("x^2<4", "4>x^2"),
    ("x^2 < 4", "(-2,2)"),
    ("1<2", "3<4"),
    ("x+y<3", "(0,3)"),
    ("n\\ge2", "n\\ge 2, n\\in\\mathbb{Z}"),
    ("\\text{no solution}", "\\text{Monday}"),
    ("\\mathbb{N}", "\\mathbb{Z}^+"),
    ("\\text{even}", "\\{2\\}"),
    ("x = 2k, k\\in\\mathbb{N}", "x = 2k, k\\in\\mathbb{Z}"),
    ("\\{(x,y) : x>y\\}", "\\{(x,y) : y<x\\}"),
    ("(0,5) \\text{ cm}", "(0,5)"),
    ("a\\le b", "b\\ge a"),
]


def verdicts(a: str, b: str) -> list[bool | None]:
    """Return the verdicts on two answers in either order; None where it cannot be told."""
    found: list[bool | None] = []
    for answer, gold in ((a, b), (b, a)):
        try:
            found.append(equal_sets(parse(answer), parse(gold)))
        except NotJudged:
            found.append(None)
    return found


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_the_same_set_in_another_notation(a: str, b: str) -> None:
    assert verdicts(a, b) == [True, True]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_sets(a: str, b: str) -> None:
    assert verdicts(a, b) == [False, False]


@pytest.mark.parametrize(("a", "b"), NOT_SETS)
def test_what_is_no_set_is_left_to_others(a: str, b: str) -> None:
    assert verdicts(a, b) == [None, None]
