"""Units: what they are in base units, and how values in two of them compare. docs/units.md shows the table.

Whatever is not surely a unit is none, because what is read as one no longer takes part in the comparison. A label, such as
"red" in "red balls" or "of flour" in "cups of flour", is a base unit with the power 0: it must not differ, but it may be
missing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache

from rethink.grading.formulas import counted, unit_table
from rethink.grading.formulas.counted import scale as scale
from rethink.grading.formulas.spelling import word_set
from rethink.grading.formulas.tree import Unit

MAX_TEXT = 60
"""Longer texts (in characters) are no units."""

_PLAIN = word_set(
    "cm mm km kg ml mL ft lb lbs oz yd hr hrs sec min mph kph rpm Hz kHz MHz GHz kW kWh Pa kPa MPa kJ eV keV MeV USD "
    "EUR km/h km/hr mi/h mi/hr m/s ft/s m/s^2 cm^2 cm^3 km^2 mm^2 ft^2"
)
"""Symbols that are units even in 35cm, where single letters, and letters such as mg, are a product of variables."""
_PLAIN_SIGNS = word_set("% ‰ ° ℃ ℉ $ € £ ¥ ₹ ₩ ₽ ¢ Ω ′ ″ °C °F US$ C$ A$")
_TOKEN = re.compile(
    r"\s*(?:(?P<power>\^ ?\(?[-+]?\d\)?)|(?P<sign>[/·*()-])"
    r"|(?P<word>US\$|\$US|C\$|A\$|[°]?[^\W\d_]\.[^\W\d_]\.|°[CF]|o'clock|[^\W\d_]+\.?|[^\w\s]))"
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED_POWER = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]")
_SPELLINGS = str.maketrans({"µ": "μ", "\u2126": "Ω", "~": " ", "⋅": "·", "\u2212": "-", "{": None, "}": None, "’": "'"})
_DIMENSIONS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_AFTER = {"squared": 2, "cubed": 3}
_JOINS = ("per", "a", "an")
_IN_TOTAL = re.compile(
    r"\s+(?:each|apiece|in total|total|altogether|in all|respectively|old|tall|long|wide|high|deep|thick|left|away)$"
)


def read_unit(text: str, written: bool) -> Unit | None:
    """Return the unit that a text spells, such as "m/s^2" or "pages per day"; None if it is not surely one.

    `written` says that the letters are set as text. Otherwise those that could be variables are no unit.

    >>> read_unit("km/h", True)
    Unit(powers=(('m', 1), ('s', -1)), factor=Fraction(5, 18), pi=0)
    >>> read_unit("tenths", True) is None
    True
    """
    text = _RAISED_POWER.sub(lambda found: "^" + found[0].translate(_RAISED), text.translate(_SPELLINGS))
    text = " ".join(text.split())
    bracketed = re.fullmatch(r"[(\[]([^()\[\]]{2,})[)\]]", text)
    text = bracketed[1] if bracketed else text
    if not text or len(text) > MAX_TEXT:
        return None
    if not written and text not in _PLAIN and text not in _PLAIN_SIGNS and not _is_long_word(text):
        return None
    return _read(text)


def _is_long_word(text: str) -> bool:
    """Return whether letters cannot be a product of variables: a name of the table, a sign, or Chinese."""
    word = text.partition(" ")[0].partition("/")[0].partition("^")[0]
    if not word.isascii():
        return _is_listed(word)
    return len(word) > 3 and word.isalpha() and _is_listed(word)


@lru_cache(maxsize=4096)
def _read(text: str) -> Unit | None:
    text = _IN_TOTAL.sub("", text.removesuffix("(s)"))
    whole = known(text) or counted.classified(text)
    if whole is not None:
        return whole
    left, of, noun = text.partition(" of ")
    if text.startswith("of "):
        return _read(re.sub(r"^of (?:an? |the )?", "", text))
    if of:
        unit, label = _Reader(left).product(), counted.label(noun)
        if unit is None or label is None or dict(unit.powers).keys() <= {"%"}:
            return None
        return _times(unit, Unit(((f"of {label}", 0),)), 1)
    return _Reader(text).product()


class _Reader:
    """Reads a product of powers of units from a text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        end = 0
        while end < len(text):
            found = _TOKEN.match(text, end)
            if found is None:
                self.tokens = []
                return
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind]))
            end = found.end()

    def product(self, inside: bool = False) -> Unit | None:
        """Return the unit up to the end (or, inside parentheses, up to the closing one), or None."""
        if not inside and (self.peek()[1] == "(" or self.has_preposition()):
            return None
        below = self.peek()[1] in ("/", "per")
        unit = Unit(()) if below else self.factor(below)
        while unit is not None and self.at < len(self.tokens):
            token = self.tokens[self.at][1]
            if token == ")" and inside:
                break
            if token == "/" or token in _JOINS:
                below = True
                self.at += 1
            elif token in ("·", "*", "-"):
                self.at += 1
            start = self.at
            right = self.factor(below)
            if right is None or ("%" in dict(unit.powers) and not below):
                return None
            raised = any(kind == "power" and "-" in text for kind, text in self.tokens[start : self.at])
            unit = _times(unit, right, -1 if below and not raised else 1)
        return unit

    def has_preposition(self) -> bool:
        """Return whether "in" is no inch, as in "energy in eV"."""
        for at, (_, token) in enumerate(self.tokens):
            before = self.tokens[at - 1] if at else ("", "")
            after = self.tokens[at + 1] if at + 1 < len(self.tokens) else ("", "")
            if token == "in" and (after[0] == "word" and after[1] not in (*_JOINS, *_AFTER)):
                return True
            if token == "in" and before[0] == "word" and before[1].lower() not in (*_JOINS, *_DIMENSIONS):
                return True
        return False

    def factor(self, below: bool) -> Unit | None:
        """Return the next power of a unit, or None."""
        kind, token = self.peek()
        if token == "(":
            self.at += 1
            unit = self.product(inside=True)
            if unit is None or self.peek()[1] != ")":
                return None
            self.at += 1
            return self.raised(unit)
        if kind != "word":
            return None
        dimension = _DIMENSIONS.get(token.lower())
        if dimension is not None and self.peek(1)[0] == "word":
            self.at += 1
            unit = self.word(below)
            return None if unit is None else _power(unit, dimension)
        unit = self.word(below)
        return None if unit is None else self.raised(unit)

    def word(self, below: bool) -> Unit | None:
        """Return the longest unit in the table that begins here, or else a noun with the words in front of it."""
        for length in (3, 2, 1):
            words = self.tokens[self.at : self.at + length]
            if len(words) < length or any(kind != "word" and text != "-" for kind, text in words):
                continue
            text = " ".join(text for _, text in words).replace(" - ", "-")
            unit = known(text)
            if unit is not None and not self.is_noun(length):
                self.at += length
                return unit
        words_of_noun: list[str] = []
        while self.peek()[0] == "word" and self.peek()[1] not in _JOINS and len(words_of_noun) < 3:
            words_of_noun.append(self.peek()[1])
            self.at += 1
        return _counted(words_of_noun, below)

    def is_noun(self, ahead: int) -> bool:
        """Return whether a word stands there that is no unit, as in "dollar bills"."""
        kind, token = self.peek(ahead)
        return kind == "word" and token.lower() not in (*_JOINS, *_AFTER, *_DIMENSIONS) and known(token) is None

    def raised(self, unit: Unit) -> Unit:
        """Return the unit to the power that follows, if one does."""
        kind, token = self.peek()
        if kind == "power":
            self.at += 1
            return _power(unit, int(re.sub(r"[ ^()]", "", token)))
        if token in _AFTER and self.at > 0:
            self.at += 1
            return _power(unit, _AFTER[token])
        return unit

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Return the kind and text of a token ahead; two empty texts at the end."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ("", "")


def known(text: str) -> Unit | None:
    """Return a unit of the table."""
    symbols, names = _tables()
    return symbols.get(text) or names.get(text.lower() if not text.isupper() else text)


def _is_listed(text: str) -> bool:
    return known(text) is not None or counted.classified(text) is not None


def _counted(words: list[str], below: bool) -> Unit | None:
    """Return the unit of words such as "red balls", "ordered pairs" and "business days"."""
    if not words:
        return None
    labels = []
    for word in words[:-1]:
        label = counted.label(word)
        if label is None:
            return None
        labels.append((label, 0))
    if not words[-1].endswith("s") and any(word.lower() in counted.PLURAL_ONLY for word in words[:-1]):
        return None
    unit = known(words[-1]) if labels else None
    if unit is None:
        noun = counted.noun(words[-1], below, described=bool(labels))
        unit = None if noun is None else Unit(((noun, 1),))
    return None if unit is None else _times(unit, Unit(tuple(labels)), 1)


def _add_name(names: dict[str, Unit], name: str, unit: Unit) -> None:
    names[name] = unit
    names.setdefault(name + "s", unit)
    first, _, rest = name.partition(" ")
    if rest:
        names.setdefault(f"{first}s {rest}", unit)


def _power(unit: Unit, power: int) -> Unit:
    powers = tuple((name, n * power) for name, n in unit.powers)
    return Unit(powers if power else (), unit.factor**power, unit.pi * power)


def _times(left: Unit, right: Unit, power: int) -> Unit:
    """Return left times right, or over it with the power -1. In a product, a degree of temperature is a difference."""
    powers: dict[str, int] = {}
    factor = left.factor * right.factor**power
    for unit, sign in ((left, 1), (right, power)):
        for name, n in unit.powers:
            difference = "K" if name in ("°C", "°F") else name
            powers[difference] = powers.get(difference, 0) + n * sign
            if name == "°F":
                factor *= Fraction(5, 9) ** (n * sign)
    labels = {name for name, n in (*left.powers, *right.powers) if n == 0}
    kept = [(name, n) for name, n in sorted(powers.items()) if n or name in labels]
    return Unit(tuple(kept), factor, left.pi + right.pi * power)


@cache
def _tables() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Return the units of the table: by symbol, as it is written, and by name, in lower case."""
    symbols: dict[str, Unit] = {}
    names: dict[str, Unit] = {}
    prefixed, named = {}, {}
    for spelling, unit in _rows(unit_table.WITH_PREFIX, symbols):
        prefixed[spelling] = unit
    for spelling, unit in list(prefixed.items()):
        for prefix, ten in unit_table.PREFIXES.items():
            if spelling in unit_table.RARE_PREFIXES.get(prefix, spelling).split():
                symbols.setdefault(prefix + spelling, Unit(unit.powers, unit.factor * Fraction(10) ** ten))
    for spelling, unit in _rows(unit_table.NAMES_WITH_PREFIX, symbols):
        named[spelling] = unit
        _add_name(names, spelling, unit)
        for prefix, ten in unit_table.PREFIX_NAMES.items():
            _add_name(names, prefix + spelling, Unit(unit.powers, unit.factor * Fraction(10) ** ten))
    for spelling, unit in _rows(unit_table.NAMES, symbols):
        _add_name(names, spelling, unit)
    for spelling, unit in _rows(unit_table.SYMBOLS + unit_table.FOREIGN, symbols):
        symbols[spelling] = unit
    for spelling, unit in _rows(unit_table.MONEY, symbols):
        symbols[spelling] = unit
        if spelling.islower() and len(spelling) > 2:
            _add_name(names, spelling, unit)
    for spelling in unit_table.NOT_ALONE:
        symbols.pop(spelling, None)
    return symbols, names


def _rows(table: str, known: dict[str, Unit]) -> list[tuple[str, Unit]]:
    """Return the spellings of a table with their units, and add them to those that later rows are made of."""
    found = []
    for row in filter(str.strip, table.splitlines()):
        spellings, _, definition = row.strip().partition(": ")
        names = [spelling.replace("_", " ") for spelling in spellings.split()]
        unit = _define(definition, known) if definition else Unit(((names[0], 1),))
        for name in names:
            known.setdefault(name, unit)
            found.append((name, unit))
    return found


def _define(definition: str, known: dict[str, Unit]) -> Unit:
    unit = Unit(())
    for part in definition.split():
        name, _, power = part.partition("^")
        if part[0].isdigit():
            top, _, bottom = part.partition("/")
            unit = Unit(unit.powers, unit.factor * Fraction(top) / Fraction(bottom or 1), unit.pi)
        elif part == "pi":
            unit = Unit(unit.powers, unit.factor, unit.pi + 1)
        else:
            base = Unit(((name, 1),)) if name in unit_table.BASE else known[name]
            unit = base if definition == name else _times(unit, base, int(power or 1))
    return unit


def siunitx(text: str) -> Unit | None:
    r"""Return the unit that the commands of siunitx spell, such as "\metre\per\second", or plain letters in one.

    >>> siunitx(r"\kilo\metre\per\hour") == read_unit("km/h", True)
    True
    """
    if "\\" not in text:
        return read_unit(text.replace(".", "·").replace("{", "").replace("}", ""), True)
    if re.sub(r"\\[a-zA-Z]+|\{?-?\d\}?|\s", "", text):
        return None
    units: list[str] = []
    powers: list[int] = []
    sign, dimension, prefix = 1, 1, ""
    for name, digits in re.findall(r"\\([a-zA-Z]+)|\{?(-?\d)\}?", text):
        if name == "per":
            sign = -1
        elif name in ("square", "cubic"):
            dimension = _DIMENSIONS[name]
        elif name in unit_table.PREFIX_NAMES:
            prefix = name
        elif name == "tothe":
            continue
        elif powers and (digits or name in _AFTER):
            powers[-1] *= int(digits or _AFTER[name])
        else:
            units.append(prefix + unit_table.SIUNITX.get(name, name))
            powers.append(sign * dimension)
            sign, dimension, prefix = 1, 1, ""
    return read_unit("·".join(f"{unit}^{power}" for unit, power in zip(units, powers, strict=True)), True)


@cache
def bases() -> frozenset[str]:
    """Return the base units of the table."""
    symbols, names = _tables()
    return frozenset(name for unit in (*symbols.values(), *names.values()) for name, _ in unit.powers)


def is_followed_by_smaller(unit: Unit, smaller: Unit) -> bool:
    """Return whether a value in one unit may be followed by one in the other and means their sum, as in 5 h 30 min.

    That holds for time, length, weight, angles and money of one kind."""
    kinds = ("s", "m", "kg", "rad", "$", "€", "£", "CNY", "₹", "year")
    if unit.powers == smaller.powers and unit.pi == smaller.pi:
        return (
            len(unit.powers) == 1 and unit.powers[0] in [(kind, 1) for kind in kinds] and unit.factor > smaller.factor
        )
    return (unit.powers, smaller.powers) == ((("year", 1),), (("s", 1),))
