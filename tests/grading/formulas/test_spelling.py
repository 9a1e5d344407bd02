"""Unicode signs: each is read as its LaTeX command, and without its rule the answer could not be read or would differ."""

from __future__ import annotations

import pytest

from rethink.grading.formulas import spelling
from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.spelling import spell
from rethink.grading.formulas.tokens import tokenize

SAME = [
    ("−7", "-7"),
    ("\u20117", "-7"),
    ("\uff0d7", "-7"),
    ("—7", "-7"),
    ("x\u2060+\u200b1", "x+1"),
    ("80\u202f000", "80000"),
    ("1\u00a0234", "1234"),
    ("３．５", "3.5"),
    ("x²y³", "x^{2}y^{3}"),
    ("2ⁿ⁺¹", "2^{n+1}"),
    ("10⁻³", "10^{-3}"),
    ("x₁₂", "x_{12}"),
    ("2½", "2\\frac{1}{2}"),
    ("⅔", "\\frac23"),
    ("𝑥+𝟏", "x+1"),
    ("𝛼β", "\\alpha\\beta"),
    ("Ω", "\\Omega"),
    ("5 µm", "5 μm"),
    ("ℝ", "\\mathbb{R}"),
    ("x⩽2", "x\\le 2"),
    ("∛2·√3", "\\sqrt[3]{2}\\cdot\\sqrt{3}"),
    ("⌊x⌋", "\\lfloor x\\rfloor"),
    ("25 ℃", "25 °C"),
    ("A∪B∖C", "A\\cup B\\setminus C"),
    ("x∈ℤ", "x\\in\\mathbb{Z}"),
]


@pytest.mark.parametrize(("text", "plain"), SAME)
def test_unicode_is_read_as_latex(text: str, plain: str) -> None:
    """Guards against right answers of models that write Unicode."""
    assert parse(text) == parse(plain)


@pytest.mark.parametrize("sign", list(spelling._SIGNS))
def test_every_rule_is_needed(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against rules that pile up: without one, its sign has other tokens."""
    text = f"1{sign}2"
    tokens = tokenize(text)
    monkeypatch.delitem(spelling._SIGNS, sign)
    assert tokenize(text) != tokens


def test_different_characters_stay_different() -> None:
    """Guards against a compatibility form that loses a value: the digits of 5² are not 52, of x₂ not x2, of 1½ not 11/2."""
    assert spell("5²") == "5^{2}"
    assert spell("x₂") == "x_{2}"
    assert parse("1½") != parse("11/2")
