"""Words behind a number: those that change its value, and nouns that only say what was counted.

A noun is read by an open rule: an English plural (or one of some common singulars, or any word behind "per") that is none
of the words, and has none of the endings, that may change a value.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.spelling import word_set
from rethink.grading.formulas.tree import Unit
from rethink.grading.formulas.unit_table import CHANGING_SIGNS, COUNTERS


def _table(text: str) -> dict[str, Fraction]:
    """Return the number that ends each row of words. Rows are separated by commas."""
    found: dict[str, Fraction] = {}
    for *words, number in map(str.split, text.split(",")):
        found.update(dict.fromkeys(words, Fraction(number)))
    return found


_SCALES = _table("""
    hundred 百 100, thousand 千 тысяч тыс тыс. mille 1e3, million 百万 млн 1e6, billion млрд 1e9, trillion 万亿 1e12,
    quadrillion 1e15, quintillion 1e18, sextillion 1e21, septillion 1e24, lakh lac 1e5, crore 千万 1e7, dozen 12,
    score 20, gross 144, 万 萬 1e4, 亿 億 1e8
""")
_PARTS = _table("""
    half 2, third 3, quarter fourth 4, fifth 5, sixth 6, seventh 7, eighth 8, ninth 9, tenth 10, eleventh 11,
    twelfth 12, thirteenth 13, fourteenth 14, fifteenth 15, sixteenth 16, twentieth 20, thirtieth 30, fortieth 40,
    fiftieth 50, sixtieth 60, hundredth 100, thousandth 1e3, millionth 1e6, billionth 1e9, trillionth 1e12
""")
_MONEY = _table("""
    k K 1e3, M m mn mln MM mil 1e6, B b bn 1e9, T tn trn 1e12
""")


def scale(word: str, money: bool = False) -> Fraction | None:
    """Return what a word behind a number multiplies it by: million, dozen, tenths; with `money` also K, M, bn; else None.

    >>> scale("tenths")
    Fraction(1, 10)
    >>> scale("M") is None
    True
    """
    if money and word in _MONEY:
        return _MONEY[word]
    lower = word.lower()
    if lower in _SCALES:
        return _SCALES[lower]
    single = {"halves": "half", "scores": ""}.get(lower, lower.removesuffix("s"))
    if single in _SCALES and single != "gros" and single.isascii():
        return _SCALES[single]
    return 1 / _PARTS[single] if single in _PARTS else None


_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fourty fifty sixty "
    "seventy eighty ninety first second third fourth last half quarter once twice thrice single double triple "
    "grand grands mega megas giga gigas "
    "quadruple quintuple couple pair several few many some any all none both dozen score gross myriad googol "
    "googolplex lakh lac crore mille nil cero uno dos tres cuatro cinco diez cien ciento mil millar medio tercio "
    "cuarto quinto docena zwei drei vier zehn hundert tausend halb drittel viertel zehntel hundertstel dutzend deux "
    "trois quatre cinq dix cent vingt demi tiers quart cinquieme dizaine douzaine centaine millier moitie"
)
_MATHEMATICS = (
    "plus minus times over divided multiplied divide product sum difference quotient power square cube root inverse "
    "reciprocal factorial exponent exponential log logarithm logs sine cosine tangent mod modulo modulus base radix "
    "binary octal hexadecimal hex decimal fraction ratio percent percentage basis negative positive absolute opposite "
    "negated conjugate complement imaginary complex infinity infinite undefined nan approx approximately about around "
    "roughly nearly almost equal equals exact exactly estimate estimated rounded truncated repeating recurring "
    "periodic bar prime primes subscript superscript degree degrees cycle fold remainder remaining tetration mantissa "
    "multiple multiples index"
)
_COMPARING = (
    "more less fewer greater smaller larger higher lower bigger longer shorter older younger least most above below "
    "under beyond past before after within without except excluding including inclusive exclusive extra additional "
    "another other short shy away off up down left behind ahead only just even odd further farther increase decrease "
    "change gain loss deficit minimum maximum average mean median net surplus debt profit increases decreases losses "
    "gains debts deficits exceeding halving doubling"
)
_GRAMMAR = (
    "and or not nor but if then else when where while for from to of in on at by with as than that this these those "
    "which who is are was were be been has have had does did do will would can could may might must should its his "
    "hers theirs ours yours us yes no thus so because since until unless otherwise versus across towards toward "
    "always sometimes perhaps besides afterwards maybe hence therefore however respectively each every either neither "
    "the a an per via vs between among such same what how news series lens plus less focus radius status virus basis "
    "axis analysis loss cross"
)
_VERBS_AND_PLURALS = (
    "equals divides multiplies adds subtracts exceeds remains becomes gives makes means holds works exists fails lies "
    "satisfies yields goes comes says contains includes has does implies follows minuses changes doubles triples "
    "quadruples halves squaring powers products sums differences quotients inverses reciprocals factorials exponents "
    "logarithms negatives positives percentages opposites pairs couples scores ones tens twos threes fours fives "
    "sixes sevens eights nines elevens twelves twenties thirties forties fifties hundreds thousands millions modes "
    "bases radices fractions ratios decimals decimales millones milliers miliones millionen billones tercios cuartos "
    "quintos decimos tiers demis moins mas menos docenas douzaines cientos dizaines centaines dozens grosses lots mln "
    "bln trn mld mrd mitad mitades moitie moities metades metade"
)
_NUMBER_WORDS = word_set(_NUMBERS) - {"zero"}
_CHANGING = word_set(" ".join((_NUMBERS, _MATHEMATICS, _COMPARING, _GRAMMAR, _VERBS_AND_PLURALS)))
PLURAL_ONLY = word_set("odd even prime positive negative complex digit square single double remaining complete")
"""Adjectives that change no value in front of a plural: "9 negative integers", but not "9 negative integer"."""
_SAFE_BEHIND = word_set("pairs roots couples cubes powers products sums differences fractions digits multiples primes")
"""Nouns that are safe with an adjective or another noun in front: ordered pairs, unit cubes."""
_ENDINGS = re.compile(
    r".*(?:illi(?:on|ard)(?:s|e|en|es)?|illionths?|illiardths?|teens?|teenths?|tieths?|[dlnrvx]ths?|fold|ly|(?:squar|cub|divid|multipli|halv|"
    r"doubl|tripl|increas|decreas|negat|round|minuss?|rais|reduc)ed|plex|log|ty)"
)
_TH_NOUNS = word_set("month months birth births worth truth")
_TY_NOUNS = word_set("party city county property university activity penalty variety probability possibility")
_IRREGULAR_TEXT = (
    "people:person persons:person men:man women:woman children:child feet:foot teeth:tooth mice:mouse geese:goose "
    "oxen:ox dice:die vertices:vertex matrices:matrix leaves:leaf loaves:loaf knives:knife wolves:wolf shelves:shelf "
    "fishermen:fisherman policemen:policeman firemen:fireman snowmen:snowman buses:bus classes:class glasses:glass "
    "passes:pass pennies:penny movies:movie cookies:cookie ties:tie pies:pie shoes:shoe zombies:zombie lives:life "
    "wives:wife halves:"
)
_IRREGULAR = dict(row.split(":") for row in _IRREGULAR_TEXT.split())
_SAME = word_set("fish sheep deer cattle shrimp salmon aircraft spacecraft offspring bison moose squid staff")
_SINGULAR = word_set(
    "apple orange egg book page student child person man woman boy girl friend car cat dog hen goat cow horse bird "
    "box bag bottle cup day week month year hour minute way solution triangle circle integer number value element "
    "member player team game coin marble ball ticket cookie piece slice step move pencil pen house room chair table "
    "card stamp toy flower tree point line segment vertex edge face subset function polynomial arrangement "
    "combination permutation outcome pack packet trip mile bus train word letter message candy shirt shoe sandwich "
    "pizza cake pie worker customer color tile grade"
)
_WORD = re.compile(r"[A-Za-z][a-z]{2,19}(?:-[a-z]{2,19})?\.?")


def noun(word: str, below: bool = False, described: bool = False) -> str | None:
    """Return the singular of a noun that counts something; None for a word that is not surely one.

    Behind "per" (`below`) any word that changes no value will do. With a word in front (`described`), some more will
    do: "ordered pairs".

    >>> noun("boxes"), noun("tenths")
    ('box', None)
    """
    word = word.rstrip(".")
    lower = word.lower()
    is_safe = lower in _SAFE_BEHIND if described else lower == "times"
    if not _WORD.fullmatch(word) or (_changes_value(lower) and not is_safe):
        return None
    if lower in _IRREGULAR or lower in _SAME:
        return _IRREGULAR.get(lower, lower)
    for plural in ("children", "women", "men", "people", "fish"):
        if lower.endswith(plural):
            return lower.removesuffix(plural) + _IRREGULAR.get(plural, plural)
    if lower.endswith("s") and not lower.endswith(("ss", "us", "is")) and len(lower) > 3:
        return _singular(lower)
    return lower if below or lower in _SINGULAR else None


def label(words: str) -> str | None:
    """Return words that describe what is counted ("red" balls, cups of "wheat flour"); None if one may change a value."""
    parts = words.lower().split()
    if not 0 < len(parts) <= 3:
        return None
    for part in parts:
        if not _WORD.fullmatch(part) or (_changes_value(part) and part not in PLURAL_ONLY):
            return None
    return " ".join(_singular(part) for part in parts)


def _changes_value(word: str) -> bool:
    if word in _TH_NOUNS or word in _TY_NOUNS:
        return False
    for part in word.split("-"):
        if part in _CHANGING or part.removesuffix("s") in _NUMBER_WORDS or _ENDINGS.fullmatch(part):
            return True
        if scale(part) is not None:
            return True
    return False


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.fullmatch(r".*(?:s|x|z|ch|sh|o)es", word):
        return word[:-2]
    return word.removesuffix("s") if not word.endswith(("ss", "us", "is")) else word


def classified(text: str) -> Unit | None:
    """Return the unit of a Chinese, Japanese or Korean classifier, with or without a noun behind it; else None."""
    for counter in sorted(COUNTERS, key=len, reverse=True):
        rest = text.removeprefix(counter).strip()
        if text.startswith(counter):
            if len(rest) > 6 or not all("㐀" <= sign <= "鿿" for sign in rest) or CHANGING_SIGNS & set(rest):
                return None
            return Unit(((counter, 1), (rest, 0)) if rest else ((counter, 1),))
    return None
