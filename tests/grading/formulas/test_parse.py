"""How answers are read: a table of trees, what is refused, and that every sign of a text counts."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.tokens import Unreadable
from support.trees import line

TREES = [
    # numbers
    ("1,234,567", "1234567"),
    ("1{,}234", "1234"),
    ("80\u202f000", "80000"),
    ("0.123\\,456", "1929/15625"),
    ("3{,}5", "7/2"),
    ("(100,200)", "(() 100 200)"),
    ("1.04e-3", "13/12500"),
    ("1½", "(+ 1 (/ 1 2))"),
    ("2 3/4", "(+ 2 (/ 3 4))"),
    ("1.\\overline3", "4/3"),
    ("0.\\dot{1}4285\\dot{7}", "1/7"),
    ("1011_2", "(based '1011' 2)"),
    ("A3F_{16}", "(based 'A3F' 16)"),
    ("7{:}05", "(: 7 '05')"),
    # Unicode
    ("\u20117", "(- 7)"),
    ("x₁²+𝜋", "(+ (^ x_{1} 2) pi)"),
    ("∛2", "(root 2 3)"),
    ("“42”", "42"),
    ("４２", "42"),
    # products, powers, functions
    ("2xy^2", "(* 2 x (^ y 2))"),
    ("x(x+1)", "(apply x (+ x 1))"),
    ("f^{-1}(2)", "(apply (^ f (- 1)) 2)"),
    ("f''(x)", "(apply f'' x)"),
    ("E[X^2]", "(apply E (^ X 2))"),
    ("\\sin^2 2x\\cos x", "(* (^ (sin (* 2 x)) 2) (cos x))"),
    ("\\cos\\theta(1+\\sin\\theta)", "(* (cos \\theta) (+ 1 (sin \\theta)))"),
    ("\\log_2 8", "(log 8 2)"),
    ("\\sin^{-1} x", "(arcsin x)"),
    ("||x|-1|", "(abs (+ (abs x) (- 1)))"),
    ("5!!", "(!! 5)"),
    ("{52 \\choose 5}", "(binomial 52 5)"),
    ("C(52,5)", "(binomial 52 5)"),
    ("1\\pm\\sqrt5", "(+- 1 (root 5 2))"),
    ("\\frac12x", "(* (/ 1 2) x)"),
    ("x^10", "(^ x 10)"),
    ("q\\vec{v}\\times\\vec{B}", "(* q (apply cross \\vec{v} \\vec{B}))"),
    ("\\vec{v}_0", "\\vec{v}_{0}"),
    # calculus
    ("\\frac{d^2y}{dx^2}", "(derivative 2 y x x)"),
    ("\\frac{\\partial f}{\\partial x}", "(partial 1 f x)"),
    ("\\nabla\\times F", "(apply curl F)"),
    ("\\int_0^1 x^2\\,dx", "(integral (^ x 2) x 0 1)"),
    ("\\sum_{k=1}^{n} k", "(sum k k 1 n)"),
    ("\\lim_{x\\to 0} x", "(limit x x 0)"),
    # lists, sets, relations
    ("3, 11, and 27,", "(, 3 11 27)"),
    ("x=4 \\lor x=-7", "(or (= x 4) (= x (- 7)))"),
    ("1<x \\text{ and } x<4", "(and (< 1 x) (< x 4))"),
    ("]1,4[", "(() 1 4)"),
    ("[0,1)\\cup\\{3\\}", "(cup ([) 0 1) ({} 3))"),
    ("\\{x\\in\\mathbb{R} : x>3\\}", "(such that (in x R) (> x 3))"),
    ("\\{x | x>3\\}", "(such that x (> x 3))"),
    ("\\mathbb{R}\\setminus\\{3\\}", "(setminus R ({} 3))"),
    ("0<x\\le 1", "(chain (< 0 x) (<= x 1))"),
    ("x \\equiv 3 \\pmod 7", "(mod (equiv x 3) 7)"),
    # structures
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "(matrix (row 1 2) (row 3 4))"),
    ("\\left\\{\\begin{array}{l}x=3\\\\y=4\\end{array}\\right.", "(cases (case (= x 3)) (case (= y 4)))"),
    (
        "\\begin{cases}x, & \\text{if } x>0\\\\0 & \\text{otherwise}\\end{cases}",
        "(cases (case x (> x 0)) (case 0 'otherwise'))",
    ),
    # words and dress
    ("\\text{(C) Plane}", "'(C) Plane'"),
    ("\\textbf{(B)}\\ 12", "'(B) 12'"),
    ("Evelyn", "'Evelyn'"),
    ("\\text{Answer: }13", "13"),
    ("{\\large \\color{blue}13}\\\\", "13"),
    # units
    ("12\\pi\\text{ cm}", "<(* 12 pi) 1/100 m>"),
    ("12\\frac12\\%", "<(+ 12 (/ 1 2)) 1/100 %>"),
    ("12^{\\text{th}} \\text{grade}", "<12 1 grade>"),
    ("-60^\\circ", "<(- 60) 1/180pi rad>"),
]


@pytest.mark.parametrize(("text", "tree"), TREES)
def test_trees(text: str, tree: str) -> None:
    """Guards against notation that is read as something else."""
    assert line(parse(text)) == tree


@pytest.mark.parametrize(
    "text",
    [
        "5 6",
        "1,2,\\ldots",
        "(1,2",
        "\\frac{1}",
        "x+",
        "\\unknown{x}",
        "\\partial",
        "{{7",
        "1..2",
        "|x",
        "\\int x",
        "9" * 5000,
        "\\begin{cases}1",
        "x^",
        "\\sqrt",
        "()",
        "",
        "\\text{5} 6",
        "x\x0bc",
        "+" * 4000,
        "(" * 2000 + "1" + ")" * 2000,
    ],
)
def test_what_is_outside_the_grammar_is_refused(text: str) -> None:
    """Guards against parts of an answer that are dropped, and against errors of another kind."""
    with pytest.raises(Unreadable, match=r"\w"):
        parse(text)


SIGNS = "0123456789abxyfnCE+-*/^_!|'<>=.,()[]{}\\%"


@given(st.sampled_from([text for text, _ in TREES if "text" not in text]), st.randoms(use_true_random=False))
def test_every_digit_counts(text: str, draw: random.Random) -> None:
    """Guards against a tree that does not hold all of its text: another digit is another tree, or is refused."""
    places = [at for at, sign in enumerate(text) if sign.isascii() and sign.isdigit()]
    if not places:
        return
    at = draw.choice(places)
    changed = text[:at] + draw.choice([d for d in "123456789" if d != text[at]]) + text[at + 1 :]
    try:
        other = parse(changed)
    except Unreadable:
        return
    assert other != parse(text)


@given(
    st.lists(
        st.sampled_from([*SIGNS, *(t for t, _ in TREES), "\\frac", "\\text{", "\\left", "\\\\", "&", "$"]), max_size=12
    )
)
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    """Guards against errors of another kind, which would end a worker."""
    with contextlib.suppress(Unreadable):
        parse("".join(pieces))
