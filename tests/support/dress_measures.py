"""Pairs of answers with units, percent, money, degrees, powers of ten, times and words, and the dress around a formula."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

from support.dress_formulas import changed_number, number
from support.dress_spelling import Pen

Two = tuple[str, str]

FULLWIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
UNITS: dict[str, tuple[tuple[str, ...], str, Fraction]] = {
    "cm": (("cm", "centimeters", "centimetres"), "length", Fraction(1, 100)),
    "m": (("m", "meters", "metres"), "length", Fraction(1)),
    "km": (("km", "kilometers"), "length", Fraction(1000)),
    "mm": (("mm", "millimeters"), "length", Fraction(1, 1000)),
    "kg": (("kg", "kilograms"), "mass", Fraction(1)),
    "g": (("g", "grams"), "mass", Fraction(1, 1000)),
    "mg": (("mg", "milligrams"), "mass", Fraction(1, 10**6)),
    "s": (("s", "seconds", "sec"), "time", Fraction(1)),
    "min": (("min", "minutes"), "time", Fraction(60)),
    "h": (("h", "hours"), "time", Fraction(3600)),
    "days": (("days",), "time", Fraction(86400)),
    "N": (("N", "newtons"), "force", Fraction(1)),
    "J": (("J", "joules"), "energy", Fraction(1)),
    "W": (("W", "watts"), "power", Fraction(1)),
    "mW": (("mW", "milliwatts"), "power", Fraction(1, 1000)),
    "MW": (("MW", "megawatts"), "power", Fraction(10**6)),
    "V": (("V", "volts"), "voltage", Fraction(1)),
    "Hz": (("Hz", "hertz"), "frequency", Fraction(1)),
    "apples": (("apples",), "apples", Fraction(1)),
    "students": (("students",), "students", Fraction(1)),
    "cm^2": (("cm^2", "cm²", "square centimeters"), "area", Fraction(1, 10**4)),
    "m^2": (("m^2", "m²", "square meters"), "area", Fraction(1)),
    "m^3": (("m^3", "m³", "cubic meters"), "volume", Fraction(1)),
    "m/s": (("m/s", "meters per second"), "speed", Fraction(1)),
    "km/h": (("km/h", "km/hr", "kilometers per hour"), "speed", Fraction(1000, 3600)),
    "m/s^2": (("m/s^2", "m/s²"), "acceleration", Fraction(1)),
}


def choose_dress(text: str, draw: random.Random) -> str:
    """Put what does not change a formula around it: display signs, spaces, a full stop, fullwidth digits."""
    chance = draw.random()
    if chance < 0.02 and text.isdigit():
        return text.translate(FULLWIDTH)
    if chance < 0.06:
        return rf"\displaystyle {text}"
    if chance < 0.08:
        return rf"\,{text}\,"
    if chance < 0.1:
        return f" {text} "
    if chance < 0.12 and not text.endswith("!"):
        return f"{text}."
    if chance < 0.14:
        return f"${text}$"
    if chance < 0.16:
        return rf"\text{{Answer: }}{text}"
    if chance < 0.18:
        return f"\u2060{text}"
    if chance < 0.2:
        return rf"\boldsymbol{{{text}}}"
    return text


def a_value(draw: random.Random) -> Fraction:
    return Fraction(draw.randint(2, 9999), draw.choice([1, 1, 1, 10, 2, 4]))


def with_unit(value: Fraction, unit: str, draw: random.Random) -> str:
    text = Pen(draw).write(number(value))
    name = draw.choice(UNITS[unit][0])
    power = ""
    if "^" in name and "/" not in name and draw.random() < 0.5:
        name, _, power = name.partition("^")
        power = draw.choice([f"^{power}", f"^{{{power}}}"])
    short = name == unit or "^" in unit
    forms = [rf"{text} \text{{ {name}}}{power}", rf"{text}\text{{ {name}}}{power}", rf"{text}\,\text{{{name}}}{power}"]
    if short:
        forms += [
            rf"{text}\ \mathrm{{{name}}}{power}",
            rf"{text}\,\mathrm{{{name}}}{power}",
            rf"{text}~\mathrm{{{name}}}{power}",
        ]
    forms.append(f"{text} {name}{power}")
    if name == "m/s":
        forms += [rf"{text}\ \mathrm{{m\,s^{{-1}}}}", rf"{text} \frac{{\text{{m}}}}{{\text{{s}}}}"]
    if name == "m/s^2":
        forms += [rf"{text}\ \mathrm{{m\,s^{{-2}}}}", rf"{text}\ \text{{m}}/\text{{s}}^2"]
    return draw.choice(forms)


def units(draw: random.Random, equal: bool) -> Two:
    """The same unit spelled twice, missing on one side, or converted; or another unit or number."""
    unit = draw.choice(list(UNITS))
    value = a_value(draw)
    _, kind, factor = UNITS[unit]
    if equal:
        form = draw.random()
        if form < 0.25:
            two = [Pen(draw).write(number(value)), with_unit(value, unit, draw)]
            draw.shuffle(two)
            return two[0], two[1]
        alike = [one for one in UNITS if UNITS[one][1] == kind and one != unit]
        if form < 0.4 and alike:
            other = draw.choice(alike)
            converted = value * factor / UNITS[other][2]
            return with_unit(converted, other, draw), with_unit(value, unit, draw)
        return with_unit(value, unit, draw), with_unit(value, unit, draw)
    if draw.random() < 0.4:
        return with_unit(other_value(value, draw), unit, draw), with_unit(value, unit, draw)
    other = draw.choice([one for one in UNITS if UNITS[one][1:] != (kind, factor)])
    return with_unit(value, other, draw), with_unit(value, unit, draw)


def other_value(value: Fraction, draw: random.Random) -> Fraction:
    other = value
    while other in (value, -value):
        other = changed_number(value, draw)
    return other


def percent(draw: random.Random, equal: bool) -> Two:
    value = Fraction(draw.randint(1, 399), draw.choice([1, 1, 2, 4, 10]))
    other = value
    while not equal and other in (value, value * 100, value / 100):
        other = other_value(value, draw)
    texts: list[str] = []
    for one in (other, value):
        text = Pen(draw).write(number(one))
        forms = [rf"{text}\%", rf"{text}\,\%", rf"{text}\ \%", f"{text}%", f"{text} %", rf"{text}\text{{ percent}}"]
        if not texts:
            forms.append(Pen(draw).write(number(one / 100)))
        texts.append(draw.choice(forms))
    return texts[0], texts[1]


MONEY = {
    "dollars": ((r"\${}", "${}", r"\$ {}", r"{}\text{{ dollars}}", "{} dollars", r"\text{{USD }}{}", "US\\${}")),
    "euros": (("€{}", "{}€", r"{}\text{{ euros}}", "{} €", r"{}\text{{ EUR}}", r"\text{{€}}{}")),
    "pounds sterling": (("£{}", r"\pounds {}", r"\text{{£}}{}", r"{}\text{{ GBP}}")),
}


def money(draw: random.Random, equal: bool) -> Two:
    cents = draw.randint(100, 10**7)
    value = Fraction(cents, 100) if draw.random() < 0.5 else Fraction(cents // 100)
    currency = draw.choice(list(MONEY))
    other, name = value, currency
    if not equal:
        if draw.random() < 0.5:
            other = other_value(value, draw)
        else:
            name = draw.choice([one for one in MONEY if one != currency])
    texts = [_money(other, name, draw), _money(value, currency, draw)]
    if equal and draw.random() < 0.2:
        texts[draw.randrange(2)] = Pen(draw).write(number(value))
    return texts[0], texts[1]


def _money(value: Fraction, currency: str, draw: random.Random) -> str:
    amount = f"{float(value):,.2f}" if value.denominator > 1 or draw.random() < 0.3 else f"{value.numerator:,}"
    if draw.random() < 0.3:
        amount = amount.replace(",", draw.choice(["", "{,}", r"\,", "\u202f"]))
    return draw.choice(MONEY[currency]).format(amount)


def degrees(draw: random.Random, equal: bool) -> Two:
    value = draw.choice([30, 45, 60, 72, 90, 120, 135, 150, 180, draw.randint(1, 359)])
    other = value if equal else value + draw.choice([1, -1, 10, 90])
    signs = [r"^\circ", r"^{\circ}", "°", r"\text{ degrees}", r"^{\,\circ}", " degrees", "º", r"^\circ ", r"{{}}^\circ"]
    ours = f"{value}{draw.choice(signs[:5])}"
    forms = [f"{other}{draw.choice(signs[:-1])}"] * 3
    if other:
        radians = Fraction(other, 180)
        forms.append(rf"\frac{{{radians.numerator}\pi}}{{{radians.denominator}}}")
    if not equal:
        forms.append(rf"{value}\text{{ radians}}")
    theirs = draw.choice(forms)
    if equal and draw.random() < 0.1:
        theirs = str(value)
    if draw.random() < 0.2:
        theirs = r"\angle ABC = " + theirs
    return theirs, ours


def degrees_in_functions(draw: random.Random, equal: bool) -> Two:
    function = draw.choice(["sin", "cos", "tan"])
    angle = draw.choice([10, 15, 18, 20, 36, 40, 50, 54, 70, 72, 80])
    factor = draw.choice(["", "", "2", "4", "5"])
    other = angle if equal else angle + draw.choice([1, 2, 5])
    radians = Fraction(other, 180)
    fraction = rf"\frac{{{radians.numerator if radians.numerator > 1 else ''}\pi}}{{{radians.denominator}}}"
    theirs = [rf"\{function} {fraction}", rf"\{function}\left({fraction}\right)", rf"\{function} {other}^\circ"]
    theirs += [rf"\{function}({other}^{{\circ}})", rf"\{function}({other}°)", rf"\{function}{{{other}^\circ}}"]
    if not equal:
        theirs.append(rf"\{function} {angle}")
    return factor + draw.choice(theirs), rf"{factor}\{function} {angle}^\circ"


def powers_of_ten(draw: random.Random, equal: bool) -> Two:
    digits = draw.randint(101, 999)
    exponent = draw.choice([-34, -19, -8, -3, 4, 5, 8, 11, 23])
    others = [
        (digits + draw.choice([1, 10, 100]), exponent),
        (digits, exponent + draw.choice([1, -1])),
        (digits, -exponent),
    ]
    texts = []
    for d, e in ((digits, exponent) if equal else draw.choice(others), (digits, exponent)):
        mantissa = f"{d // 100}.{d % 100:02}"
        raised = str(e).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        forms = [
            rf"{mantissa} \times 10^{{{e}}}",
            rf"{mantissa}\cdot10^{{{e}}}",
            f"{mantissa}e{e}",
            f"{mantissa}×10{raised}",
        ]
        forms += [
            rf"{mantissa}\times {{10}}^{{{e}}}",
            f"{mantissa} x 10^{{{e}}}",
            f"{mantissa} * 10^({e})",
            f"{d}\\times10^{{{e - 2}}}",
        ]
        texts.append(draw.choice(forms))
    return texts[0], texts[1]


WORDS: tuple[str, ...] = ("Monday", "even", "odd", "no solution", "True", "False", "Yes", "No", "infinitely many")
WORDS += ("isosceles triangle", "Alice", "north", "decreasing", "hyperbola", "parabola", "ellipse", "circle", "red")
WORDS += ("blue", "Evelyn")


def words(draw: random.Random, equal: bool) -> Two:
    ours = draw.choice(WORDS)
    theirs = ours if equal else draw.choice([one for one in WORDS if one != ours])
    forms = [
        r"\text{{{}}}",
        "{}",
        r"\textbf{{{}}}",
        r"\mathrm{{{}}}",
        r"\text{{ {} }}",
        r"\text{{{}.}}",
        r"\textit{{{}}}",
    ]
    if " " in ours or " " in theirs:
        forms.remove(r"\mathrm{{{}}}")
    spelled = draw.choice([theirs, theirs, theirs.lower(), theirs.capitalize()])
    return draw.choice(forms).format(spelled), draw.choice(forms[:4]).format(ours)


def letters(draw: random.Random, equal: bool) -> Two:
    ours = draw.choice("ABCDE")
    theirs = ours if equal else draw.choice([one for one in "ABCDE" if one != ours])
    forms = ["{}", r"\text{{{}}}", r"\text{{({})}}", "({})", r"\textbf{{({})}}", r"\mathrm{{{}}}", r"\textbf{{{}}}"]
    return draw.choice(forms).format(theirs), draw.choice(forms).format(ours)


def clock_times(draw: random.Random, equal: bool) -> Two:
    hour, minute = draw.randint(1, 12), draw.randint(0, 59)
    others = [(hour % 12 + 1, minute), (hour, (minute + 10) % 60), (hour, (minute + 1) % 60)]
    other = (hour, minute) if equal else draw.choice(others)
    half = draw.choice(["", " a.m.", " p.m."])
    texts = []
    for h, m in (other, (hour, minute)):
        forms = [f"{h}:{m:02}", f"{h}{{:}}{m:02}", rf"{h}\!:\!{m:02}", f"{h}\\colon {m:02}"]
        spelled = {"": "", " a.m.": draw.choice([r"\text{ a.m.}", r"\text{ AM}", " am", r"\,\text{a.m.}"])}
        spelled[" p.m."] = draw.choice([r"\text{ p.m.}", r"\text{ PM}", " pm", r"\,\text{p.m.}"])
        texts.append(draw.choice(forms) + spelled[half])
    return texts[0], texts[1]


def number_bases(draw: random.Random, equal: bool) -> Two:
    base = draw.choice([2, 3, 5, 7, 8])
    digits = "".join(str(draw.randrange(base)) for _ in range(draw.randint(2, 6)))
    ours = str(draw.randint(1, base - 1)) + digits
    theirs = ours
    if not equal:
        place = draw.randrange(1, len(ours))
        theirs = ours[:place] + str((int(ours[place]) + draw.randint(1, base - 1)) % base) + ours[place + 1 :]
    forms = ["{}_{}", "{}_{{{}}}", "({})_{{{}}}", "({})_{}", r"{}_{{\text{{{}}}}}"]
    names = {2: "two", 3: "three", 5: "five", 7: "seven", 8: "eight"}
    texts = []
    for one in (theirs, ours):
        form = draw.choice(forms)
        texts.append(form.format(one, names[base] if "text" in form else base))
    return texts[0], texts[1]


MEASURES: dict[str, Callable[[random.Random, bool], Two]] = {
    "units": units,
    "percent": percent,
    "money": money,
    "degrees": degrees,
    "degrees in functions": degrees_in_functions,
    "powers of ten": powers_of_ten,
    "words": words,
    "letters": letters,
    "times of day": clock_times,
    "number bases": number_bases,
}
