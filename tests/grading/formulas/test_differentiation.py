"""Derivatives that are worked out, and those that are not."""

from __future__ import annotations

import pytest

from rethink.grading.formulas.judge import judge

PAIRS = [
    (r"\frac{d}{dx} x^2", "2x", True),
    (r"\frac{d}{dx} x^2", "2x+1", False),
    (r"\frac{d^2}{dx^2} x^3", "6x", True),
    (r"\frac{d}{dx} \left(\frac{\sin x}{x}\right)", r"\frac{x\cos x-\sin x}{x^2}", True),
    (r"\frac{d}{dx} e^{2x}", "2e^{2x}", True),
    (r"\frac{d}{dx} x^x", r"x^x(\ln x+1)", True),
    (r"\frac{d}{dx} \ln(1+x^2)", r"\frac{2x}{1+x^2}", True),
    (r"\frac{\partial}{\partial x} \left(x^2y\right)", "2xy", True),
    (r"\frac{\partial}{\partial y} \left(x^2y\right)", "2xy", False),
    (r"\frac{d}{dx} \arctan x", r"\frac{1}{1+x^2}", True),
    (r"\frac{dy}{dx}", "0", False),
]


@pytest.mark.parametrize(("answer", "gold", "right"), PAIRS)
def test_derivatives_of_explicit_formulas(answer: str, gold: str, right: bool) -> None:
    """Guards against derivatives that are never compared, and against rules that are wrong."""
    assert judge(answer, gold)[0] is right
    assert judge(gold, answer)[0] is right


def test_what_may_depend_on_the_variable_is_not_worked_out() -> None:
    """Guards against y taken for a constant."""
    assert judge(r"\frac{d}{dx} \left(xy\right)", "y")[0] is not True
