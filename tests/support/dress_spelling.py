"""Write a formula in one of its many spellings: LaTeX or plain text, Unicode signs, spaces, bracket sizes."""

from __future__ import annotations

import random
from fractions import Fraction

from support.dress_formulas import Formula, negative, times

SUM, SIGNED, SLASH, PRODUCT, PREFIX, POWER, ATOM = range(7)
"""How tightly a text holds together; one that is looser than its place allows gets parentheses."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
HALVES = {Fraction(1, 2): "½", Fraction(1, 4): "¼", Fraction(3, 4): "¾", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔"}
MINUSES = ("-",) * 8 + ("\N{MINUS SIGN}", "\N{NON-BREAKING HYPHEN}")
BRACKETS = (("(", ")"),) * 5 + ((r"\left(", r"\right)"),) * 2 + ((r"\bigl(", r"\bigr)"), (r"\big(", r"\big)"))
Written = tuple[str, int]


class Pen:
    """Writes formulas. Signs that a writer chooses once (LaTeX or not, the minus sign) are the same in one text."""

    def __init__(self, draw: random.Random, *, in_list: bool = False, plain: bool = False) -> None:
        self.draw = draw
        self.latex = not plain and draw.random() < 0.75
        self.minus = draw.choice(MINUSES)
        self.gap = draw.choice(["", " ", " ", r"\,"]) if self.latex else draw.choice(["", " ", " ", "\u202f"])
        self.times = draw.choice([r" \cdot ", r"\cdot ", r"\times "]) if self.latex else draw.choice(["*", " · ", "×"])
        self.in_list = in_list

    def write(self, formula: Formula) -> str:
        return self._write(formula)[0]

    def _write(self, formula: Formula) -> Written:
        writers = {"+": self._sum, "*": self._product, "/": self._quotient, "^": self._power, "root": self._root}
        if formula.operator == "number":
            return self.number(formula.number)
        if formula.operator in writers:
            return writers[formula.operator](formula)
        if formula.operator == "binomial":
            return self._binomial(formula)
        if formula.parts:
            return self._function(formula)
        if formula.operator == "pi":
            return (r"\pi" if self.latex and self.draw.random() < 0.9 else "π"), ATOM
        return formula.name or formula.operator, ATOM

    def at_least(self, formula: Formula, level: int) -> str:
        """Write a formula, in parentheses if it is looser than this level."""
        text, found = self._write(formula)
        return text if found >= level else self.bracket(text)

    def bracket(self, text: str) -> str:
        left, right = self.draw.choice(BRACKETS) if self.latex else ("(", ")")
        return f"{left}{text}{right}"

    def number(self, value: Fraction) -> Written:
        if value < 0:
            text, level = self._positive(-value)
            if level == POWER and self.latex and text.startswith(r"\frac{") and self.draw.random() < 0.2:
                return text.replace("{", "{" + self.minus, 1), SIGNED
            return self.minus + text, SIGNED
        return self._positive(value)

    def _positive(self, value: Fraction) -> Written:
        if value.denominator == 1:
            return self.digits(value.numerator), ATOM
        decimal = decimal_of(value)
        if decimal and self.draw.random() < 0.4:
            if decimal.startswith("0.") and self.draw.random() < 0.1:
                return decimal[1:], ATOM
            return decimal + self.draw.choice(["", "", "", "0"]), ATOM
        if value in HALVES and self.draw.random() < 0.05:
            return HALVES[value], POWER
        top, bottom = str(value.numerator), str(value.denominator)
        return self.fraction(top, bottom)

    def fraction(self, top: str, bottom: str) -> Written:
        if not self.latex:
            return f"{top}/{bottom}", SLASH
        if len(top) == len(bottom) == 1 and self.draw.random() < 0.15:
            return self.draw.choice([rf"\frac{top}{bottom}", rf"\frac {top} {bottom}", rf"\dfrac{top}{bottom}"]), POWER
        if len(top) < 5 and len(bottom) < 5 and self.draw.random() < 0.15:
            return f"{top}/{bottom}", SLASH
        command = self.draw.choice(["frac", "frac", "frac", "dfrac", "tfrac", "cfrac"])
        return rf"\{command}{{{top}}}{{{bottom}}}", POWER

    def digits(self, value: int) -> str:
        """Write a natural number, some with a mark between thousands."""
        if value < 1000 or self.draw.random() < 0.5:
            return str(value)
        marks = [r"{,}", r"\,", r"\ "] if self.latex else ["\u202f", "\u00a0", " "]
        if not self.in_list:
            marks.append(",")
        return f"{value:,}".replace(",", self.draw.choice(marks))

    def _sum(self, formula: Formula) -> Written:
        text = ""
        for part in formula.parts:
            term = self.at_least(part, SIGNED)
            if term.startswith(self.minus):
                text += f"{self.gap}{self.minus}{self.gap}{term[len(self.minus) :]}" if text else term
            else:
                text += f"{self.gap}+{self.gap}{term}" if text else term
        return text, SUM

    def _product(self, formula: Formula) -> Written:
        parts = list(formula.parts)
        first = parts[0]
        if first.operator == "number" and first.number < 0:
            rest = parts[1:] if first.number == -1 else [negative(first), *parts[1:]]
            return self.minus + self.at_least(times(*rest), PRODUCT), SIGNED
        text = ""
        for i, part in enumerate(parts):
            factor = self.at_least(part, PREFIX if i == len(parts) - 1 else POWER)
            text = self._joined(text, factor) if text else factor
        return text, PRODUCT

    def _joined(self, text: str, factor: str) -> str:
        """Put two factors side by side, with a sign between them where the result would mean something else."""
        unsafe = (
            factor[0].isnumeric() or factor[0] == "." or factor.startswith((r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"))
        )
        words = text[-1].isalpha() and factor[0].isalpha() and (not self.latex or r"\cdot" in text or len(factor) > 1)
        letter_bracket = text[-1].isalpha() and factor.startswith(("(", r"\left(", r"\big"))
        if unsafe or words or letter_bracket or self.draw.random() < 0.2:
            return f"{text}{self.times}{factor}"
        gap = self.draw.choice(["", "", " ", r"\,"]) if self.latex else self.draw.choice(["", " "])
        if text[-1].isalpha() and factor[0].isalpha() and "\\" in text[-8:]:
            gap = " "
        return f"{text}{gap}{factor}"

    def _quotient(self, formula: Formula) -> Written:
        top, bottom = formula.parts
        if self.latex and self.draw.random() < 0.85:
            command = self.draw.choice(["frac", "frac", "dfrac", "tfrac"])
            return rf"\{command}{{{self.write(top)}}}{{{self.write(bottom)}}}", POWER
        return f"{self.at_least(top, PRODUCT)}/{self.at_least(bottom, POWER)}", SLASH

    def _power(self, formula: Formula) -> Written:
        base, exponent = formula.parts
        if base.operator in ("sin", "cos", "tan") and exponent.number in (2, 3) and self.draw.random() < 0.6:
            inside = self.bracket(self.write(base.parts[0]))
            command = "\\" * self.latex + base.operator
            return f"{command}^{exponent.number}{inside}", POWER
        text = self.at_least(base, ATOM)
        plain = exponent.operator == "number" and exponent.number.denominator == 1
        if plain and not self.latex and base.operator == "name" and self.draw.random() < 0.5:
            return text + str(exponent.number).translate(SUPERSCRIPTS), POWER
        raised = self.write(exponent)
        if self.latex:
            short = len(raised) == 1 and self.draw.random() < 0.6
            return f"{text}^{raised}" if short else f"{text}^{{{raised}}}", POWER
        sign = self.draw.choice(["^", "^", "**"])
        return f"{text}{sign}{raised if len(raised) == 1 else f'({raised})'}", POWER

    def _root(self, formula: Formula) -> Written:
        inside, degree = self.write(formula.parts[0]), int(formula.parts[1].number)
        if self.latex:
            if degree == 2 and len(inside) == 1 and self.draw.random() < 0.3:
                return rf"\sqrt{inside}" if inside.isdigit() else rf"\sqrt {inside}", ATOM
            return rf"\sqrt[{degree}]{{{inside}}}" if degree > 2 else rf"\sqrt{{{inside}}}", ATOM
        if degree == 2:
            plain = inside.isalnum() and len(inside) < 4
            return self.draw.choice([f"sqrt({inside})", f"√{inside}" if plain else f"√({inside})"]), POWER
        return f"({inside})^(1/{degree})", POWER

    def _function(self, formula: Formula) -> Written:
        argument, function = formula.parts[0], formula.operator
        inside = self.write(argument)
        if function == "factorial":
            return f"{self.at_least(argument, ATOM)}!", POWER
        if function == "abs":
            bars = [("|", "|"), (r"\left|", r"\right|"), (r"\lvert ", r"\rvert")] if self.latex else [("|", "|")]
            left, right = self.draw.choice(bars)
            return f"{left}{inside}{right}", ATOM
        command = "\\" * self.latex + function
        if self.latex and argument.operator == "name" and self.draw.random() < 0.4:
            return f"{command} {inside}", PREFIX
        return f"{command}{self.bracket(inside)}", POWER

    def _binomial(self, formula: Formula) -> Written:
        top, bottom = self.write(formula.parts[0]), self.write(formula.parts[1])
        if self.latex:
            forms = [rf"\binom{{{top}}}{{{bottom}}}", rf"\dbinom{{{top}}}{{{bottom}}}", rf"{{{top} \choose {bottom}}}"]
            return self.draw.choice(forms), POWER
        return f"C({top},{bottom})" if self.in_list else f"C({top}, {bottom})", POWER


def decimal_of(value: Fraction) -> str:
    """Return a positive fraction as a decimal of at most six places; "" if it has none."""
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            whole, rest = divmod(scaled.numerator, 10**places)
            return f"{whole}.{rest:0{places}}"
    return ""
