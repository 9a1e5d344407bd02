"""Words in answers: what is text and not a formula, what only introduces an answer, and what separates items."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.tokens import Token, Unreadable, tokenize
from rethink.grading.formulas.tree import FUNCTIONS, Node, Number, Words

FUNCTION_WORDS = FUNCTIONS | {
    "log",
    "lg",
    "sqrt",
    "tg",
    "ctg",
    "arctg",
    "arcctg",
    "cis",
    "mod",
    "pi",
    "infty",
    "infinity",
}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASES.update(eleven=11, twelve=12, sixteen=16)
_INTRODUCTION = re.compile(r"(?:the )?(?:final )?(?:answer|result|solution(?: set)?)(?: is)?\s*[:=]?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:option |choice |answer )?\(?[A-Z][).:]\s*\S?", re.IGNORECASE)
CONDITION_WORDS = frozenset(("where", "with", "for", "for all", "for any", "for every", "all", "such that"))
"""Words between a value and what is said about its names: k\\pi for k \\in Z."""
IS_AMONG = re.compile(r"(?:is|are) (?:an |any |a |all )*(?:arbitrary )?(integer|real number|real)s?")
_DOMAINS = {
    "integer": r"\mathbb{Z}",
    "positive integer": r"\mathbb{Z}^+",
    "natural": r"\mathbb{N}",
    "real": r"\mathbb{R}",
    "positive real": r"\mathbb{R}^+",
    "constant": r"\mathbb{C}",
    "onstant": r"\mathbb{R}",
}
_KINDS = r"((?:positive )?integers?|natural numbers?|(?:positive )?reals?(?: numbers?)?|(?:real )?constants?)"
_FOR_EACH = re.compile(
    rf"\s*,?\s*(?:for|with|where)\s(?:all|any|every|each|some|an arbitrary|a)?\s*{_KINDS}\s*", re.IGNORECASE
)
_IS_A = re.compile(rf"\s*is (?:an?|any|some) (?:arbitrary )?{_KINDS}\s*", re.IGNORECASE)
_LOGIC = frozenset(("land", "lor", "wedge", "vee", "lnot", "neg"))
_COMPARED = frozenset(["=", "<", ">", "in", "le", "leq", "leqslant", "ge", "geq", "geqslant", "ne", "neq"])
_PUNCTUATION = frozenset(".,'\"!?()-:;`/")
_FOR_ALL = re.compile(r"(?:forall|for (?:all|every|any|each)(?: real)?(?: numbers?| values of)?)(?: ([a-z]))?")
_SHORT_WORDS = frozenset(("no", "not", "for", "any", "most"))
"""Words that look like products of variables."""
_QUOTES = ('"', "'", "`")


def splice_text(tokens: list[Token]) -> list[Token]:
    """Return the tokens without quotes around them, a final period and "Answer:" in front; text that holds numbers is
    replaced by its own tokens.
    """
    tokens = [*tokens]
    while tokens and tokens[-1].kind in ("sign", "text") and tokens[-1].text in (".", "newrow", "\\"):
        if [token.text for token in tokens[-2:]] == [".", "."]:
            raise Unreadable("dots at the end")
        del tokens[-1]
    while len(tokens) > 2 and tokens[0].text == tokens[-1].text and tokens[0].text in (*_QUOTES, "^"):  # also **5**
        tokens = tokens[1:-1]
    tokens = tokens[_length_of_introduction(tokens) :]
    if tokens and tokens[0].kind == "text" and _INTRODUCTION.fullmatch(tokens[0].text.strip()):
        del tokens[0]
    if tokens and tokens[0].kind == "text" and _CHOICE.match(tokens[0].text.strip()):
        return tokens
    signs = {token.text for token in tokens}
    if signs & _LOGIC and not signs & _COMPARED:
        raise Unreadable("a formula of logic")
    tokens = _for_all(_without_said(tokens))
    found: list[Token] = []
    for token in tokens:
        if token.kind == "text" and not token.text.strip(" ~"):
            continue
        joined = re.fullmatch(r"(\s*(?:and|or)\s+)?(.*?)(\s+(?:and|or)\s*)?", token.text, re.DOTALL)
        if token.kind == "text" and token.text.strip() in (",", ";"):
            found.append(Token("sign", token.text.strip(), True))
        elif token.kind == "text" and joined and (joined[1] or joined[3]) and joined[2] and len(tokens) > 1:
            for part in (joined[1], joined[2], joined[3]):
                if part:
                    found.append(Token("text", part.strip() if part != joined[2] else part, True))
        elif (
            token.kind == "text"
            and re.search(r"\d", token.text)
            and not re.fullmatch(r"[^\d]*\^\{?-?\d\}?", token.text)
        ):
            found += tokenize(token.text)
        else:
            found.append(token)
    return found


def _for_all(tokens: list[Token]) -> list[Token]:
    """Return "f(x) = 2x for all x" as "f(x) = 2x, x \\in R"; other tokens as they are."""
    found: list[Token] = []
    n = 0
    while n < len(tokens):
        token = tokens[n]
        said = _FOR_ALL.fullmatch(token.text.strip(" ,.~")) if token.kind in ("text", "command") else None
        n += 1
        if said is None:
            found.append(token)
            continue
        variable = said[1] or ""
        if not variable and n < len(tokens) and re.fullmatch("[a-z]", tokens[n].text) and tokens[n].kind == "letters":
            variable = tokens[n].text
            n += 1
        if not variable:
            found.append(token)
            continue
        found += tokenize(f",{variable}")
        if n == len(tokens) or tokens[n].kind == "text" or tokens[n].text in (",", ";"):
            found += tokenize(r"\in\mathbb{R}")
    return found


def _without_said(tokens: list[Token]) -> list[Token]:
    """Return the tokens with "for all positive integers n" as "for all n \\in Z^+", and "c is a constant" likewise."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token, after = tokens[at], tokens[at + 1 : at + 2]
        said = (
            _FOR_EACH.fullmatch(token.text) if token.kind == "text" and after and after[0].kind == "letters" else None
        )
        claimed = _IS_A.fullmatch(token.text) if token.kind == "text" and not after else None
        if said and len(tokens) == at + 2:
            found += [Token("text", "for all", True), after[0], *_member(said[1])]
            at += 1
        elif claimed:
            found += _member(claimed[1])
        else:
            found.append(token)
        at += 1
    return found


def _member(kind: str) -> list[Token]:
    return tokenize("\\in" + _DOMAINS[kind.removesuffix("s").removesuffix(" number").removeprefix("real c")])


def _length_of_introduction(tokens: list[Token]) -> int:
    """Return how many tokens at the start say "The answer is" in plain letters."""
    said = ""
    for n, token in enumerate(tokens[:6]):
        if token.kind != "letters" and token.text not in (":", "="):
            return 0
        said += " " * bool(n and token.space) + token.text
        following = tokens[n + 1 : n + 2]
        if (
            _INTRODUCTION.fullmatch(said)
            and following
            and following[0].kind != "letters"
            and following[0].text not in (":", "=")
        ):
            return n + 1
    return 0


def plain_words(tokens: list[Token]) -> str | None:
    """Return the words of an answer that is text, such as \\text{even} or (C) Plane; None for a formula."""
    first = tokens[0] if tokens else None
    if first is not None and first.kind == "text" and _CHOICE.match(first.text.strip()):
        return _join(tokens)
    any_word = any_text = any_letters = False
    for token in tokens:
        if token.kind == "text":
            any_text = True
            any_word = any_word or len(re.sub(r"[\W_]", "", token.text)) > 1
        elif token.kind == "letters":
            any_word = any_word or is_word(token.text)
            any_letters = any_letters or not is_word(token.text)
        elif token.kind != "sign" or token.text not in _PUNCTUATION:
            return None
    if any_text and any_letters:  # x \text{ cm}
        return None
    stripped = _join(tokens)
    if stripped.lower().strip(" .") in FUNCTION_WORDS:
        return None
    return stripped if any_word and not _looks_applied(tokens) else None


def _looks_applied(tokens: list[Token]) -> bool:
    """Return whether words are a function and its arguments, as in \\text{Var}(X) or sin(x)."""
    first = tokens[0]
    name = first.text.strip()
    if name.lower() in FUNCTION_WORDS:
        return True
    return (
        len(tokens) > 3 and tokens[1].text == "(" and not tokens[1].space and " " not in name and tokens[-1].text == ")"
    )


def _join(tokens: list[Token]) -> str:
    text = ""
    for token in tokens:
        piece = "\\" + token.text if token.kind == "command" else token.text
        text += (" " if token.space else "") + piece
    return re.sub(r"\s+", " ", text).strip()


def is_word(letters: str) -> bool:
    """Return whether letters in a row are a word, and not a product of variables such as xyz or abc."""
    if letters.lower() in _SHORT_WORDS:
        return True
    if letters.lower() in FUNCTION_WORDS or len(letters) < 3 or not letters.isascii():
        return len(letters) > 1 and not letters.isascii()
    if letters.isupper() or not letters[1:].islower():
        return letters.isupper() and len(letters) > 3
    small = letters.lower()
    return len(small) > 4 or (bool(re.search("[aeiouy]", small)) and list(small) != sorted(set(small)))


def clock_time(tokens: list[Token]) -> Words | None:
    """Return 7:05 p.m. or 8 am as words; None for anything else, a time without a.m. or p.m. among it."""
    text = "".join(":" if token.text == "colon" else token.text for token in tokens)
    found = re.fullmatch(r"(1[0-2]|0?[1-9])(?:[:.]([0-5]\d))?\s*([apAP])\.?\s?[mM]\.?", text)
    return Words(f"{int(found[1])}:{found[2] or '00'} {found[3].lower()}m") if found else None


def based_number(tokens: list[Token]) -> Node | None:
    """Return 2516_8, (1011)_2 or A3F_{16} as digits and base; None for anything else."""
    text = "".join(token.text for token in tokens)
    found = re.fullmatch(r"\(?([0-9A-Z]+)\)?_(?:(\d+)|\{(\d+)\}|\{([a-z]+)\})", text)
    if found is None or not re.search(r"\d", found[1]) or text.count("(") != text.count(")"):
        return None
    if found[4]:
        return based(found[1], _BASES[found[4]]) if found[4] in _BASES else None
    return based(found[1], int(found[2] or found[3]))


def based(digits: str, base: int) -> Node | None:
    """Return digits with their base, if they are digits of that base."""
    try:
        int(digits, base)
    except ValueError:
        return None
    if base < 2:
        return None
    return Node("based", (Words(digits.lstrip("0") or "0"), Number(Fraction(base))))
