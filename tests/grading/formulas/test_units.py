"""What is read as a unit, what is not, and what each unit is worth."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rethink.grading.formulas import unit_table
from rethink.grading.formulas.counted import scale
from rethink.grading.formulas.tree import Unit
from rethink.grading.formulas.unit_ratios import ratios
from rethink.grading.formulas.units import is_followed_by_smaller, read_unit, siunitx

SAME = [
    ("cm", "centimeter", "centimeters", "centimetre", "cms", "厘米", "см"),
    (
        "m/s^2",
        "m s^-2",
        "m·s⁻²",
        "m s^{-2}",
        "meters per second per second",
        "meters per second squared",
        "m/s/s",
        "N/kg",
    ),
    ("km/h", "kilometers per hour", "km per hour", "kph", "公里/小时", "km h^-1", "kilometers an hour"),
    ("N", "kg·m/s^2", "kg m s^-2", "newtons", "J/m", "kg m/s/s"),
    ("J/(kg K)", "J/kg·K", "J kg^-1 K^-1", "J/kg/K", "J/(kg·°C)"),
    ("cm^2", "cm²", "square centimeters", "sq cm", "sq. cm", "centimeters squared", "平方厘米"),
    ("ft^3", "cubic feet", "cu ft", "feet cubed", "cubic foot"),
    ("mi/h", "mph", "miles per hour", "miles/hour"),
    ("kWh", "kilowatt-hours", "kilowatt hours", "kW h", "kW·h"),
    ("Ω", "ohm", "ohms", "V/A", "\u2126"),
    ("μF", "µF", "microfarads", "μC/V"),
    ("°", "degrees", "deg", "degree", "度"),
    ("°C", "℃", "degrees Celsius", "celsius", "摄氏度"),
    ("%", "percent", "per cent", "pct"),
    ("$", "dollars", "US dollars", "USD", "dollar", "US$"),
    ("cents", "¢", "pennies"),
    ("元", "yuan", "RMB", "CNY"),
    ("h", "hr", "hrs", "hours", "hour", "小时", "Stunden", "heures"),
    ("units^2", "square units", "sq units", "sq. units", "units squared"),
    ("apples", "apple", "apple(s)", "Apples"),
    ("boxes", "box"),
    ("berries", "berrys"),
    ("people", "persons", "person"),
    ("pages per day", "pages/day", "pages a day"),
    ("miles", "miles in total", "mi"),
    ("years", "years old", "yr", "岁"),
    ("rpm", "revolutions per minute", "rev/min"),
    ("p.m.", "pm", "PM"),
    ("rad/s", "radians per second"),
    ("dollars per hour", "$/h", "dollars/hour"),
    ("light-years", "ly", "light years"),
]
"""Spellings of one unit."""


@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[0])
def test_spellings_of_a_unit(spellings: tuple[str, ...]) -> None:
    """Guards against a unit that is known in some spellings only."""
    for spelling in spellings:
        assert read_unit(spelling, True) == read_unit(spellings[0], True) is not None, spelling


WORTH = [
    # published definitions: https://www.bipm.org/en/publications/si-brochure and NIST Special Publication 811
    ("inch", "m", "0.0254"),
    ("ft", "in", "12"),
    ("yd", "ft", "3"),
    ("mile", "ft", "5280"),
    ("acre", "sq ft", "43560"),
    ("gallon", "cubic inches", "231"),
    ("gallon", "fl oz", "128"),
    ("lb", "oz", "16"),
    ("ton", "lb", "2000"),
    ("tonne", "kg", "1000"),
    ("L", "cm^3", "1000"),
    ("week", "h", "168"),
    ("year", "months", "12"),
    ("century", "years", "100"),
    ("dollar", "cents", "100"),
    ("byte", "bits", "8"),
    ("kcal", "J", "4184"),
    ("atm", "Pa", "101325"),
    ("km/h", "m/s", "5/18"),
    ("GHz", "rpm", "60000000000"),
    ("eV", "J", "1.602176634e-19"),
    ("MW", "mW", "1000000000"),
    ("Mg", "mg", "1000000000"),
    ("MHz", "mHz", "1000000000"),
    ("°", "arcmin", "60"),
    ("arcmin", "arcsec", "60"),
    ("square meters", "cm^2", "10000"),
    ("dyn", "N", "0.00001"),
]


@pytest.mark.parametrize(("larger", "smaller", "times"), WORTH)
def test_worth(larger: str, smaller: str, times: str) -> None:
    """Guards against a wrong factor, and against prefixes without case (MW and mW)."""
    top, _, bottom = times.partition("/")
    assert ratios(read_unit(larger, True), read_unit(smaller, True)) == [(Fraction(top) / Fraction(bottom or 1), 0)]
    assert ratios(read_unit(smaller, True), read_unit(larger, True)) == [(Fraction(bottom or 1) / Fraction(top), 0)]


def test_prefixes_with_case() -> None:
    """Guards against two units that differ in case alone and are read as the same."""
    symbols = [spelling for row in unit_table.WITH_PREFIX.split("\n") for spelling in row.partition(":")[0].split()]
    for symbol in symbols:
        units = {prefix + symbol: read_unit(prefix + symbol, True) for prefix in ("m", "M")}
        both = list(units.values())
        if None not in both and symbol not in ("in", "l"):
            assert both[0] != both[1], units
    for small, large in (("s", "S"), ("h", "H"), ("g", "G"), ("k", "K"), ("cm", "CM"), ("pa", "Pa"), ("mol", "Mol")):
        assert read_unit(small, True) != read_unit(large, True)


CHANGING = (
    "tenths halves quarters thirds fourths fifths sixths sevenths eighths ninths hundredths thousandths "
    "millionths billionths trillionths twentieths thirtieths half third quarter tenth twelfths sixteenths "
    "ten-thousandths ninety-firsts million millions billion trillion quadrillion nonillion vigintillion milliard "
    "billiard zillion googol lakh lakhs crore hundred hundreds thousand thousands dozen dozens gross score scores "
    "pair pairs couple couples myriad ones tens twos threes forties fifties twenty eleven k M B bn mn mln bln tn "
    "x n y factorial squared cubed square cube root inverse reciprocal negative positive minus plus over "
    "less more fewer about approximately roughly nearly almost exactly exceeding below above beyond under fold "
    "twofold tenfold twice thrice double triple doubled tripled halved mod modulo base binary octal hex "
    "hexadecimal decimal and or not nor but if than at by from to with without except excluding repeating "
    "recurring rounded truncated log logs exponent exponents powers power products product sum sums quotient "
    "differences difference ratio fractions percentages negatives opposites increase decrease gain loss deficit "
    "deficits debt losses average mean median maximum minimum remainder infinite infinity undefined none nil zero "
    "multiplied divided raised reduced increased equals divides remains becomes is are was has millones milliers "
    "tercios cuartos docenas mitades douzaines Millionen Milliarden Zehntel Hundertstel Dutzend mille cientos "
    "dixièmes centièmes décimos тысяч млн половина десятых 万 亿 百 "
    "千 百万 千万 倍 半 分之一 平方 立方 次方 以上 以下 左右 成 折 个以上 个左右 个半 万个 对 双 打 零下"
)
HARMLESS_IN_FRONT = ("square", "positive", "negative", "double", "decimal", "triple", "per")
HARMLESS_BEHIND = ("pairs", "couples", "powers", "products", "sums", "differences", "fractions")
PHRASES = [
    "below zero",
    "degrees below zero",
    "degrees south",
    "or more",
    "or less",
    "at least",
    "at most",
    "more than",
    "or 10",
    "and a half",
    "mod 7",
    "modulo 7",
    "base 8",
    "base eight",
    "in base two",
    "times x",
    "times 2",
    "percent points",
    "percent of 20",
    "percent of people",
    "percent increase",
    "percent less",
    "to the third",
    "to the power",
    "of 10",
    "out of 10",
    "hundred apples",
    "million dollars",
    "dozen eggs",
    "tenths miles",
    "half hours",
    "negative integer",
    "fewer apples",
    "more apples",
    "dollars less",
    "dollars more",
    "inches below",
    "meters above",
    "per 2",
    "per dozen",
    "over 2",
    "pairs less",
    "choose 2",
    "km north",
    "energy in eV",
    "th card",
    "(A)",
    "(C)",
    "",
    "-",
    "/",
    "per",
    "^2",
    "cm^",
    "cm^x",
    "()",
    "a",
    "x cm",
    "cm x",
    "2 cm",
    "cm 2",
    "cm, m",
    "cm = 5",
    "m" * 61,
]


@pytest.mark.parametrize("text", [*CHANGING.split(), *PHRASES])
def test_words_that_change_a_value(text: str) -> None:
    """Guards against "3 tenths" that is graded as 3: whatever changes a value, or may do so, is no unit."""
    assert read_unit(text, True) is None
    assert read_unit(f"{text} of", True) is None
    if text.isalpha() and len(text) > 2:
        assert text in HARMLESS_IN_FRONT or read_unit(f"{text} apple", True) is None
        assert text in HARMLESS_BEHIND or read_unit(f"apples {text}", True) is None


ONE = (Fraction(1), 0)
ONES = "one two three four five six seven eight nine ten eleven twelve thirteen nineteen twenty thirty ninety"
LARGE = (
    "m",
    "b",
    "tr",
    "quadr",
    "quint",
    "sext",
    "sept",
    "oct",
    "non",
    "dec",
    "undec",
    "vigint",
    "cent",
    "g",
    "bazill",
    "z",
)


def test_number_words() -> None:
    """Guards against numerals that are not listed, in each of their forms."""
    words = [*ONES.split(), *(f"{prefix}illion" for prefix in LARGE)]
    words += [f"{word}th" for word in words if word.endswith("n")]
    for word in words:
        for form in (word, f"{word}s", word.capitalize(), f"{word}-fold", f"{word}fold", f"{word} dollars"):
            assert read_unit(form, True) is None, form


COUNTED = {
    "hens": "hen",
    "boxes": "box",
    "berries": "berry",
    "movies": "movie",
    "churches": "church",
    "potatoes": "potato",
    "people": "person",
    "grandchildren": "grandchild",
    "goldfish": "goldfish",
    "integers": "integer",
    "months": "",
    "roots": "root",
    "times": "time",
    "vertices": "vertex",
    "solutions": "solution",
    "ordered pairs": "pair",
    "unit cubes": "cube",
    "positive integers": "integer",
    "个": "个",
    "个苹果": "个",
    "名学生": "名",
    "人": "人",
}


@pytest.mark.parametrize(("text", "noun"), COUNTED.items())
def test_counted_nouns(text: str, noun: str) -> None:
    """Guards against nouns that are not read, which would make a right answer wrong."""
    unit = read_unit(text, True)
    assert unit is not None
    if noun:
        assert [name for name, power in unit.powers if power] == [noun]
        assert (unit.factor, unit.pi) == ONE


def test_plain_letters() -> None:
    """Guards against variables that are read as units: 5m, 2mg, 9M, 2ab."""
    for text in (
        "m",
        "s",
        "g",
        "h",
        "k",
        "M",
        "B",
        "x",
        "mg",
        "mn",
        "ab",
        "pt",
        "ms",
        "nm",
        "cd",
        "mN",
        "in",
        "N",
        "abc",
    ):
        assert read_unit(text, False) is None, text
    for text in ("cm", "km", "kg", "%", "°", "$", "€", "元", "Ω", "℃", "个", "meters", "dollars", "kHz", "小时"):
        assert read_unit(text, False) is not None, text


SCALES = {
    "million": 10**6,
    "Million": 10**6,
    "millions": 10**6,
    "dozen": 12,
    "tenths": Fraction(1, 10),
    "halves": Fraction(1, 2),
    "half": Fraction(1, 2),
    "quarters": Fraction(1, 4),
    "hundredths": Fraction(1, 100),
    "lakh": 10**5,
    "crores": 10**7,
    "gross": 144,
    "score": 20,
    "万": 10**4,
    "亿": 10**8,
    "M": None,
    "k": None,
    "apples": None,
    "scores": None,
    "gros": None,
    "": None,
    "s": None,
    "second": None,
    "seconds": None,
}


@pytest.mark.parametrize(("word", "value"), SCALES.items())
def test_scale(word: str, value: Fraction | int | None) -> None:
    """Guards against scale words that are dropped; a second is a unit, not a half of a third."""
    assert scale(word) == value


def test_scale_of_money() -> None:
    """Guards against a K that is a thousand anywhere else than behind money."""
    assert [scale(word, money=True) for word in ("K", "M", "bn", "T", "x")] == [1000, 10**6, 10**9, 10**12, None]


def known(text: str) -> Unit:
    """Return a unit that must be readable."""
    unit = read_unit(text, True)
    assert unit is not None, text
    return unit


RATIOS = [
    (None, None, [ONE]),
    ("cm", None, [ONE]),
    (None, "apples", [ONE]),
    ("%", None, [ONE, (Fraction(1, 100), 0)]),
    (None, "%", [ONE, (Fraction(100), 0)]),
    ("°", None, [ONE, (Fraction(1, 180), 1)]),
    (None, "°", [ONE, (Fraction(180), -1)]),
    ("rad", None, [ONE]),
    ("°", "rad", [(Fraction(1, 180), 1)]),
    ("turns", "rad", [(Fraction(2), 1)]),
    ("Hz", "s^-1", [ONE]),
    ("rad/s", "s^-1", [ONE]),
    ("rpm", "rad/s", [(Fraction(1, 30), 1)]),
    ("square units", "cm^2", [ONE]),
    ("m^3", "cubic units", [ONE]),
    ("units", "apples", [ONE]),
    ("units", "square units", []),
    ("units", "kg", []),
    ("units", "dollars", []),
    ("%", "cm", []),
    ("%", "°", []),
    ("°", "min", []),
    ("°", "°C", [ONE]),
    ("°C", "°F", []),
    ("°C", "K", []),
    ("cm", "cm^2", []),
    ("m/s", "m/s^2", []),
    ("s", "S", []),
    ("apples", "oranges", []),
    ("red balls", "balls", [ONE]),
    ("red balls", "blue balls", []),
    ("cups of flour", "cups of sugar", []),
    ("cups of flour", "cups", [ONE]),
    ("pounds", "£", [ONE]),
    ("¥", "元", [ONE]),
    ("¥", "yen", [ONE]),
    ("$", "€", []),
    ("$", "元", []),
    ("am", "pm", []),
    ("N", "J", []),
]


@pytest.mark.parametrize(("left", "right", "expected"), RATIOS)
def test_ratios(left: str | None, right: str | None, expected: list[tuple[Fraction, int]]) -> None:
    """Guards against 5% that is 5 cm, and 36 square units that are not 36 cm^2."""
    assert ratios(known(left) if left else None, known(right) if right else None) == expected
    swapped = ratios(known(right) if right else None, known(left) if left else None)
    assert [(1 / ratio, -power) for ratio, power in swapped] == expected


def test_values_in_other_units() -> None:
    """Guards against ratios that do not fit together: a to b to c is a to c, and value * factor stays the same."""
    lengths = [known(text) for text in ("nm", "μm", "cm", "in", "ft", "m", "mile", "km", "ly")]
    for a in lengths:
        for b in lengths:
            [(there, _)] = ratios(a, b)
            assert 7 * a.factor == 7 * there * b.factor
            for c in lengths:
                assert ratios(a, c) == [(there * ratios(b, c)[0][0], 0)]


SIUNITX = [
    (r"\metre", "m"),
    (r"\meter\per\second\squared", "m/s^2"),
    (r"\kilo\metre\per\hour", "km/h"),
    (r"\square\metre", "m^2"),
    (r"\cubic\centi\metre", "cm^3"),
    (r"\micro\farad", "μF"),
    (r"\degreeCelsius", "°C"),
    (r"\percent", "%"),
    (r"\kilogram\metre\per\second\squared", "N"),
    (r"\joule\per\kilogram\per\kelvin", "J/(kg K)"),
    (r"\metre\tothe{4}", "m^4"),
    ("kg.m/s^2", "N"),
    ("m.s^{-1}", "m/s"),
    ("km", "km"),
]


@pytest.mark.parametrize(("text", "unit"), SIUNITX)
def test_siunitx(text: str, unit: str) -> None:
    """Guards against commands of siunitx that are dropped."""
    assert siunitx(text) == known(unit)


def test_siunitx_that_is_not_known() -> None:
    """Guards against unknown commands that are left out."""
    for text in (r"\foo", r"\metre\foo", r"\kilo", "", r"\metre x", r"\raiseto{2}\metre"):
        assert siunitx(text) is None, text


def test_compound_values() -> None:
    """Guards against "5 ft 3 lb" and "30 min 5 h", which are no sums."""
    for larger, smaller in (
        ("h", "min"),
        ("ft", "in"),
        ("lb", "oz"),
        ("°", "arcmin"),
        ("$", "cents"),
        ("years", "months"),
    ):
        assert is_followed_by_smaller(known(larger), known(smaller))
        assert not is_followed_by_smaller(known(smaller), known(larger))
    for larger, smaller in (
        ("ft", "oz"),
        ("ft^2", "in^2"),
        ("m/s", "cm/s"),
        ("hens", "goats"),
        ("h", "h"),
        ("€", "cents"),
    ):
        assert not is_followed_by_smaller(known(larger), known(smaller))


TABLES = ("WITH_PREFIX", "NAMES_WITH_PREFIX", "SYMBOLS", "NAMES", "MONEY", "FOREIGN")


@pytest.mark.parametrize("table", TABLES)
def test_a_spelling_stands_once_in_a_table(table: str) -> None:
    """Guards against rows that are entered twice, of which one is changed later."""
    spellings: list[str] = []
    for row in filter(str.strip, getattr(unit_table, table).splitlines()):
        spellings += row.strip().partition(": ")[0].split()
    assert sorted(spellings) == sorted(set(spellings))
