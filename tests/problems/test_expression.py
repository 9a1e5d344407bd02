"""Arithmetic expressions: values and normal forms."""

from __future__ import annotations

import itertools

from rethink.problems.expression import evaluate, is_expression, normalize


def test_normalize_by_hand() -> None:
    """Guards against brackets that are dropped where they change the value."""
    cases = {
        "2-(3-5)": ("2+5-3", 4), "8/(4/2)": ("2*8/4", 4), "(2-3)*5": ("(2-3)*5", -5), "-(2+3)*5": ("-(2+3)*5", -25),
        "(8/2)/2": ("8/2/2", 2), "((-3)) *2 + 7": ("(-3)*2+7", 1), "007": ("7", 7),
    }  # fmt: skip
    for text, (normal, value) in cases.items():
        assert normalize(text) == normal
        assert evaluate(text)[0] == evaluate(normal)[0] == value, text


def test_normalize_keeps_value_and_numbers() -> None:
    """Guards the same for 256 expressions of four shapes."""
    for shape in ("({}{}{}){}({}{}{})", "{}{}({}{}({}{}{}))", "(({}{}{}){}{}){}{}", "-({}{}({}{}{})){}{}"):
        for a, b, c in itertools.product("+-*/", repeat=3):
            text = shape.format(2, a, 3, b, 5, c, 7)
            normal = normalize(text)
            assert is_expression(normal)
            assert normalize(normal) == normal
            (value, numbers), (other_value, other_numbers) = evaluate(text), evaluate(normal)
            assert (value, sorted(numbers)) == (other_value, sorted(other_numbers)), text
