"""One spelling for what can be written in several ways: spaces, sizes, fractions, powers, units, Unicode signs.

This runs before math-verify. Most answers are then equal as text or as exact numbers and need no algebra, and lists,
intervals and names reach the comparison (`equality`) in the one spelling that it knows. Each rule here changes a verdict on
a real answer, on one of the tests' tables, or on a spelling that math-verify's parser gets wrong. What that parser reads
correctly (such as `\\ne`) has no rule.

Normalizing never changes a value: "1 2" does not become 12, and 1\\frac{1}{2} does not become a product.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SIGNS = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "≠": r"\neq ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "±": r"\pm ",
    "≈": r"\approx ",
    "°": "",
    "√": r"\sqrt",
    "θ": r"\theta ",
    "∅": r"\emptyset ",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "′": "'",
    "\u00a0": " ",
    "\u2009": " ",
    "~": " ",
    "\0": "\ufffd",
    "\u200b": "",  # these last five have no width
    "\u200c": "",
    "\u200d": "",
    "\u2060": "",
    "\ufeff": "",
}
_SIGNS_TABLE = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED_DIGITS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")

_COMMANDS = {
    "dfrac": r"\frac",
    "tfrac": r"\frac",
    "cfrac": r"\frac",
    "quad": " ",
    "qquad": " ",
    "ge": r"\geq ",
    "geqslant": r"\geq ",
    "le": r"\leq ",
    "leqslant": r"\leq ",
    "lbrace": r"\{",
    "rbrace": r"\}",
    "lvert": "|",
    "rvert": "|",
    "lVert": "|",
    "rVert": "|",
    "varnothing": r"\emptyset ",
    "degree": "",
    "bmod": r"\mod ",
    "pmod": r"\mod ",
    "mod": r"\mod ",
}
"""Commands that are another name for a command, or that only set sizes of brackets and type."""
for _size in ("displaystyle", "textstyle", "limits", "left", "right", "mleft", "mright"):
    _COMMANDS[_size] = ""
for _size in ("big", "Big", "bigg", "Bigg"):
    for _side in ("", "l", "r", "m"):
        _COMMANDS[_size + _side] = ""
_COMMAND = re.compile(r"\\([a-zA-Z]+)")

_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")
_NUMPY = re.compile(r"\bnp\.(?=[a-z])")
_FUNCTION = r"((?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|gcd)"
_AND = r"\\text *\{\s*(?:,?\s*(?:and|or)\s*|,\s*)\}|(?<=[\s\d}\)])(?:and|or)(?=[\s\d\\(])"
_SPELLINGS = (
    # signs
    (re.compile(r"\\\|"), "|"),
    (re.compile(r"^\\\{ *\\\}$"), r"\\emptyset "),
    (re.compile(r"\^ *\{ *\\prime *\\prime *\}"), "''"),
    (re.compile(r"\^ *(?:\{ *\\prime *\}|\\prime(?![a-zA-Z]))"), "'"),
    (re.compile(r"\^ *(?:\{ *\\circ *\}|\\circ(?![a-zA-Z]))"), ""),
    # fonts and words
    (re.compile(r"\\(?:mathbf|boldsymbol|bm|overrightarrow)(?= *\{ *[a-zA-Z] *\})"), r"\\vec"),
    (re.compile(rf"\\(?:operatorname\*?|mathrm|text) *\{{ *{_FUNCTION} *\}}"), r"\\\1 "),
    (re.compile(r"\\(?:mathrm|mathbf|boldsymbol|mathit|mbox|textbf|textrm|textit|operatorname\*?)(?= *\{)"), r"\\text"),
    (re.compile(r"\\text *\{([ied]|-?\d+(?:\.\d+)?)\}"), r"\1"),
    (re.compile(r"(?<=\d) *(?:percent\b|\\text *\{ *percent *\})"), "%"),
    (re.compile(_AND), ","),
    (re.compile(r"\^ *\{? *(?:\\text *\{ *)?(?:st|nd|rd|th)\b *\}? *\}?"), ""),
    (re.compile(r"\\\$|\$|\\[()\[\]]"), ""),
    # braces that LaTeX makes optional
    (re.compile(r"(?<=\^)\s*(\d+)|(?<=[_^])\s*(\w|\\[a-zA-Z]+)"), r"{\1\2}"),
    (re.compile(r"(?<![a-zA-Z\\])sqrt *\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![a-zA-Z\\{])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(\\sqrt *\[\d+\]) *(\d)(?!\d)"), r"\1{\2}"),
    (re.compile(r"\\frac *(\d) *(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac *(\d)(?= *\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac *\{[^{}]*\}) *(\d)(?!\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt *(\d+|[a-zA-Z])(?![a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"^\s*(?:the answer is|answer\s*[:=])", re.IGNORECASE), ""),
)
_BLANK = r"(?:\\[!,;:> ]|\s)"
_THOUSANDS = re.compile(
    rf"(?<![\d.,(\[])(?<!\\\{{)\d{{1,3}}(?:(?:,(?:\\!{_BLANK}*)?|\{{,\}}|\\[,!;: ]{_BLANK}*| )\d{{3}})+(?![\d])"
)
"""Digit groups, except right after an opening bracket: (100,200) is a point."""
_BLANKS = re.compile(rf"(?<!\d){_BLANK}++|{_BLANK}++(?!\d)")
"""A space between digits stays, so 1 2 is not 12; after a command, a space separates it from the letters that follow."""
_COMMAND_BLANK = re.compile(rf"(\\[a-zA-Z]+){_BLANK}+(?=[a-zA-Z])")
_UNIT = re.compile(
    r"^(?P<value>.*[\d})%!])(?P<unit>(?:[-/\s*]|\\cdot|\\[,;: ]|\\text *\{[^{}\d,]*\}(?:\^\{-?\d\})?)*"
    r"\\text *\{[^{}\d,]*\}(?:\^\{-?\d\})?)$"
)
_PLAIN_UNIT = re.compile(r"^(?P<value>[-+]?[\d.,]*\d%?) +(?P<unit>[a-zA-Z]{2,}[a-zA-Z /.]*(?:\^\{\d\})?)$")
_UNITS = (
    "cm=centimeter mm=millimeter km=kilometer m=meter in=inch inche=inch ft=foot feet=foot mi=mile "
    "yd=yard metre=meter g=gram kg=kilogram mg=milligram lb=pound oz=ounce s=second sec=second "
    "min=minute ms=ms h=hour hr=hour mph=mile/hour kph=kilometer/hour ml=milliliter l=liter"
)
_SHORT = dict(pair.split("=") for pair in _UNITS.split())
_MEGA = re.compile(r"\bM(?=(?:W|Wh|Hz|eV|V|A|J|Pa|N|g|m|s|C|F|T|L|l)\b)")
"""The prefix whose small letter means something else: MW and mW."""
_NO_UNIT = re.compile(
    r"and|or|not|nor|if|is|plus|minus|squared|cubed|sin|cos|tan|cot|sec|csc|log|ln|exp|max|sqrt|"
    r"hundred|thousand|lakh|crore|(?:[mb]|tr|quadr|quint|zill)illions?|dozens?|scores?|gross|pairs?|googol|mn|bn|tn|(?-i:[kMB])|"
    r"(?:hal(?:f|ve)|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|(?:ten|eleven|twelf|hundred|thousand|million)th)s?|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teenths?|(?:twen|thir|for|fif|six|seven|eigh|nine)tieths?|fold|factorial|"
    r"cubes?|roots?|negative|positive|less|more|over|mod|base|hex|binary|octal",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[a-cei-kn-rt-z]")
"""Letters that are variables, not units. In "5 million", "5 or more", "5 times x" and 2\\text{x} the words are not units
either.
"""
_MIXED = re.compile(r"(-?)(\d+)(?: *\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")
_FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?\d+(?:\.\d+)?)\}\{([-+]?\d+(?:\.\d+)?)\}")
_POWER_OF_TEN = re.compile(r"([-+]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:\\times|\\cdot))?10\^\{([-+]?\d{1,3})\}")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.IGNORECASE)
MAX_NUMBER = 4000
"""Longer numbers (in digits) are compared as text."""


def normalize(answer: str, grouped: bool = True) -> str:
    """Return the answer in one spelling, without its unit; see `unit`. With `grouped`, 1,234 is one number, not a list."""
    return _remove_spaces(_split_unit(_unify_spelling(answer))[0], grouped)


def unit(answer: str) -> str:
    """Return the unit of a value in one spelling, such as "inch2" for \\text{ square inches}; "" without a unit."""
    if "\\$" in answer or answer.count("$") == 1:
        return "dollar"
    letters = re.sub(r"\\(?:text|cdot)", " ", _split_unit(_unify_spelling(answer))[1])
    letters = _MEGA.sub("mega", letters).lower()
    letters = re.sub(r"\b(square|sq|cubic) +([a-z]+)", lambda m: f"{m[2]} {2 + (m[1] == 'cubic')}", letters)
    found = re.findall(r"[a-z]+|\d|/", re.sub(r"\bper\b", "/", letters))
    return "".join(_SHORT.get(x) or _SHORT.get(x.removesuffix("s")) or x.removesuffix("s") for x in found)


def _split_unit(text: str) -> tuple[str, str]:
    """Return the value and its unit."""
    found = _UNIT.match(text) or _PLAIN_UNIT.match(text)
    if found is None:
        return text, ""
    names = re.findall(r"[a-zA-Z]+", re.sub(r"\\(?:text|cdot)", " ", found["unit"]))
    if not names or any(map(_NO_UNIT.fullmatch, names)) or _VARIABLE.fullmatch(names[-1]):
        return text, ""
    # "2 xy" is a product: plain letters are a unit only if it is a known one, or if they could be a word.
    written = "\\" in found["unit"] or all(_could_be_word(name.lower()) for name in names)
    return (found["value"], found["unit"]) if written else (text, "")


def _could_be_word(name: str) -> bool:
    known = name in _SHORT or name.removesuffix("s") in _SHORT
    return known or (len(name) > 2 and bool(re.search("[aeiou]", name)) and list(name) != sorted(set(name)))


def words(answer: str) -> str | None:
    """Return the words of a text answer such as `\\text{Evelyn}` in lower case, or the letter of `\\text{(C) Plane}`; None
    for formulas.
    """
    text = _unify_spelling(answer)
    inner = re.sub(r"\\text *\{([^{}]*)\}", r"\1", text)
    if inner == text and not re.fullmatch(r"\(?[A-Za-z]\)?|[A-Za-z][a-z' -]{2,}[A-Za-z.]*", text):
        return None
    choice = re.match(r"\(([A-Za-z])\)(?!.*\([A-Za-z]\))", inner)
    plain = choice[1].lower() if choice else re.sub(r"[^a-z]", "", inner.lower())
    return plain if re.fullmatch(r"[A-Za-z' .,()-]+", inner) and plain else None


def number(text: str) -> Fraction | None:
    """Return the exact value of a normalized integer, decimal, 1.5e-3, a/b, \\frac{a}{b} or mixed number, with or without
    %.
    """
    text = text.removesuffix("%")
    if len(text) > MAX_NUMBER or not text.isascii():
        return None
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, top, bottom = filter(lambda part: part is not None, mixed.groups())
        return _divide(f"{sign}{int(whole) * int(bottom) + int(top)}", bottom)
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        value = _divide(fraction[2], fraction[3])
        return -value if value is not None and fraction[1] == "-" else value
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        return Fraction(f"{power[1]}{(power[2] or '1').removesuffix('.')}e{power[3]}")
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        sign, whole, fixed, period = repeating.groups()
        nines = f"{int(whole + fixed + period) - int(whole + fixed or '0')}"
        return _divide(f"{sign}{nines}", f"{(10 ** len(period) - 1) * 10 ** len(fixed)}")
    top, slash, bottom = text.partition("/")
    if _DECIMAL.fullmatch(top) and (not slash or re.fullmatch(r"\d+\.?", bottom)):
        return _divide(top, bottom or "1")
    return None


def _divide(top: str, bottom: str) -> Fraction | None:
    below = Fraction(bottom.removesuffix("."))
    return Fraction(top.replace(".e", "e").replace(".E", "e").removesuffix(".")) / below if below else None


def _unify_spelling(answer: str) -> str:
    text = answer.strip().translate(_SIGNS_TABLE)
    text = _RAISED_DIGITS.sub(lambda found: f"^{{{found[0].translate(_RAISED)}}}", text)
    text = _ROW.sub(r"\\newrow ", text)
    text = _NUMPY.sub(r"\\", text)
    text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text.strip().rstrip(".").strip()


def _remove_spaces(text: str, grouped: bool) -> str:
    text = text.replace(r"\%", "%")
    if grouped:
        text = _THOUSANDS.sub(lambda found: re.sub(r"[^\d]", "", found[0]), text)
    text = _COMMAND_BLANK.sub(r"\1\0", text)
    return _BLANKS.sub("", text).replace("\0", " ").removesuffix(".")
