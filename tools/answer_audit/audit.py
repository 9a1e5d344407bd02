"""A second checker of mathematical answers. It audits the verdicts of the grader and shares no code with it.

The grader normalizes text and asks a computer algebra system. This checker parses both answers into small trees and
compares their values at a few fixed points, to a thousand digits. What has no value (sets, intervals, words) is compared
part by part. It does not guess: None means "cannot say".

It bounds itself: long, deep or huge answers are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import permutations, product

from answer_audit.latex import ParseOptions, parse
from answer_audit.nodes import (
    Node,
    as_interval,
    canonical,
    is_function_rule,
    is_name,
    rename_argument,
    subtract,
    variables,
)
from answer_audit.tokens import Unreadable, tokenize
from answer_audit.values import BEYOND, REAL_POINTS, WHOLE_POINTS, Values, equal, is_constant

MAX_ITEMS = 60
MAX_CONSTANTS = 4
WHOLE = {"floor", "ceil", "factorial", "double", "binomial"}
"""With these, variables are whole numbers."""
NUMERALS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}


def check(reply: str, gold: str) -> tuple[bool | None, str]:
    """Return whether the last box of the reply holds the gold answer (True, False, or None for cannot say), and a short
    reason.
    """
    answer = last_box(reply)
    if answer is None:
        return False, "no box"
    if not answer.strip():
        return False, "empty box"
    try:
        return _grade(answer, gold)
    except Unreadable as why:
        same = "".join(answer.split()) == "".join(gold.split())
        return (True, f"the same text, but {why}") if same else (None, str(why))


def last_box(reply: str) -> str | None:
    """Return the content of the last `\\\\boxed{...}` with balanced braces; None without one."""
    opened: list[int] = []
    best: tuple[int, int] | None = None
    for found in re.finditer(r"\\boxed\s*\{|\\fbox\s*\{|\\.|[{}]", reply, re.DOTALL):
        if found[0] == "}" and opened:
            start = opened.pop()
            best = max(best or (start, 0), (start, found.start())) if start > 0 else best
        elif found[0][-1] == "{" and len(found[0]) != 2:
            opened.append(found.end() if len(found[0]) > 2 else -1)
    return reply[slice(*best)] if best else None


def _grade(answer: str, gold: str) -> tuple[bool | None, str]:
    if (verdict := _compare_words(answer, gold)) is not None:
        return verdict, "the same words" if verdict else "other words"
    said = "equal" if _same(answer, gold, ParseOptions(), Values()) else ""
    both = answer + gold
    if not said and re.search(r"%|\\circ|\\degree|°", both) and _same(answer, gold, ParseOptions(), Values(plain=True)):
        said = "equal but for percent or degrees"
    if not said and re.search(r"\d,\d{3}", both) and _same(answer, gold, ParseOptions(thousands="nowhere"), Values()):
        said = "equal as lists"
    if said:
        return True, said
    if re.search(r"\d,\d{3}", both) and _same(answer, gold, ParseOptions(thousands="everywhere"), Values()):
        raise Unreadable("it depends on what the comma separates")
    if "/" in both and _same(answer, gold, ParseOptions(tight=True), Values()):
        raise Unreadable("it depends on how a/bc is read")
    if "log" in both and _same(answer, gold, ParseOptions(), Values(ten=True)):
        raise Unreadable("it depends on the base of the logarithm")
    return False, "not equal"


def _same(answer: str, gold: str, options: ParseOptions, values: Values) -> bool:
    a, a_units = _parse("the answer", answer, options)
    g, g_units = _parse("the gold answer", gold, options)
    same = _Comparison(values).same(a, g)
    if same and a_units and g_units and a_units != g_units:
        raise Unreadable("the units differ")
    return same


def _parse(what: str, text: str, options: ParseOptions) -> tuple[Node, frozenset[str]]:
    try:
        return parse(text, options)
    except Unreadable as why:
        raise Unreadable(f"cannot read {what}: {why}") from None


def _compare_words(answer: str, gold: str) -> bool | None:
    """Return the verdict if one of the two is words; None if neither is."""
    in_words = [_is_words(text) for text in (answer, gold)]
    if not any(in_words):
        return None
    a, g = (re.findall(r"[^\W_]+", " ".join(tokenize(text)).lower()) for text in (answer, gold))
    if "".join(a) == "".join(g):
        return True
    if len(g) == 1 == len(g[0]) and a[:1] == g:
        return True  # the letter of a choice, with its text
    if not all(in_words) and (re.search(r"\d", " ".join(a if in_words[0] else g)) or NUMERALS & {*a, *g}):
        raise Unreadable("numbers in words")
    return False


def _is_words(text: str) -> bool:
    try:
        return parse(text)[0].kind == "words"
    except Unreadable:
        return False


class _Comparison:
    """Compare answers (first) with gold answers (second), part by part."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def same(self, answer: Node, gold: Node) -> bool:
        a, g = canonical(answer), canonical(gold)
        kinds = {a.kind, g.kind}
        if "words" in kinds:
            raise Unreadable("words amid mathematics")
        if "relation" in kinds:
            return self.same_relation(a, g)
        if "matrix" in kinds:
            return self.same_matrix(a, g)
        if kinds == {"many", "group"}:
            return self.same_without_brackets(a, g)
        if len(kinds) == 2 and "many" in kinds:  # "3/4 or 0.75" is one value
            return all(self.same(*pair) for pair in product(*(x.parts if x.kind == "many" else (x,) for x in (a, g))))
        if len(kinds) == 2 and "group" in kinds:
            return False
        if kinds == {"many"}:
            return self.in_any_order(a, g)
        if kinds == {"group"}:
            return a.text == g.text and self.in_order(a, g)
        return self.same_value(a, g)

    def in_order(self, a: Node, g: Node) -> bool:
        return len(a.parts) == len(g.parts) and all(map(self.same, a.parts, g.parts))

    def same_without_brackets(self, a: Node, g: Node) -> bool:
        if any(item.kind == "relation" and item.text != "=" for item in a.parts + g.parts):
            raise Unreadable("several inequalities")
        if self.in_order(a, g):
            raise Unreadable("brackets are missing")
        return False

    def in_any_order(self, a: Node, g: Node) -> bool:
        if max(len(a.parts), len(g.parts)) > MAX_ITEMS:
            raise Unreadable("too many items")
        left = list(g.parts)
        doubt: Unreadable | None = None
        for item in a.parts if len(a.parts) == len(left) else ():
            for other in left:
                try:
                    if self.same(item, other):
                        left.remove(other)
                        break
                except Unreadable as why:
                    doubt = why
            else:
                if doubt:
                    raise doubt
                return False
        return not left

    def same_matrix(self, a: Node, g: Node) -> bool:
        """Return whether matrices are equal; a vector may also be written as a tuple."""
        if a.kind == g.kind:
            return len(a.parts) == len(g.parts) and all(map(self.in_order, a.parts, g.parts))
        matrix, other = (a, g) if a.kind == "matrix" else (g, a)
        if other.kind != "group":
            return False
        entries = [entry for row in matrix.parts for entry in row.parts]
        is_vector = len(matrix.parts) == 1 or len(matrix.parts[0].parts) == 1
        return is_vector and other.text == "()" and self.in_order(Node("group", "()", tuple(entries)), other)

    def same_relation(self, a: Node, g: Node) -> bool:
        if a.kind == g.kind:
            return self.same_relations(a, g)
        relation, other = (a, g) if a.kind == "relation" else (g, a)
        if other.kind == "group" and (values := as_interval(relation)):
            return self.same(values, other)
        if relation.text != "=":
            return False
        stated, value = relation.parts
        agree = self.same(value, g) if relation is a else self.same(a, value)
        if relation is g and not is_name(stated) and agree:
            raise Unreadable("the gold answer is an equation")
        return agree

    def same_relations(self, a: Node, g: Node) -> bool:
        intervals = as_interval(a), as_interval(g)
        if intervals[0] and intervals[1]:
            return self.same(intervals[0], intervals[1])
        if a.text != g.text:
            return False
        if a.text == "=" and is_function_rule(a) + is_function_rule(g) and is_name(a.parts[0]) and is_name(g.parts[0]):
            return self.same(rename_argument(a, g).parts[1], g.parts[1])
        if self.in_order(a, g):
            return True
        if len(a.parts) == len(g.parts) == 2 and self.proportional(a, g):
            return True
        if is_name(a.parts[0]) and is_name(g.parts[0]) and self.same(a.parts[1], g.parts[1]):
            raise Unreadable("the names differ")
        if any(map(_DERIVATIVE, variables(a) ^ variables(g))):
            raise Unreadable("derivatives may be written in several ways")
        return self.reject_unless_ambiguous(a, g)

    def proportional(self, a: Node, g: Node) -> bool:
        """Return whether left minus right of one is a constant multiple of that of the other."""
        if not variables(a, g) or any(side.kind not in _SCALARS for side in a.parts + g.parts):
            return False
        side, other = subtract(*a.parts), subtract(*g.parts)
        ratios = []
        for point in REAL_POINTS:
            x, y = self.values.value_at(side, point), self.values.value_at(other, point)
            if not x or not y or x is BEYOND or y is BEYOND:
                return False
            ratios.append(x / y)
        return is_constant(ratios, positive=a.text not in ("=", "!="))

    def same_value(self, a: Node, g: Node) -> bool:
        whole = any(node.kind in WHOLE for both in (a, g) for node in both.walk()) and bool(variables(a, g))
        if self.agree(a, g, WHOLE_POINTS if whole else REAL_POINTS):
            return True
        if not whole and variables(a, g) and self.agree(a, g, WHOLE_POINTS):
            raise Unreadable("equal at whole numbers alone")
        if not whole and self.same_but_for_constants(a, g):
            raise Unreadable("equal but for the names of constants of integration")
        return self.reject_unless_ambiguous(a, g)

    def agree(self, a: Node, g: Node, points: Sequence[str]) -> bool:
        """Return whether the values agree wherever both have one. Raise Unreadable if neither ever has, or all are huge."""
        seen: set[str] = set()
        for point in points if variables(a, g) else points[:1]:
            x, y = self.values.value_at(a, point), self.values.value_at(g, point)
            if x is BEYOND or y is BEYOND:
                seen.add("too large")
            elif x is None or y is None:
                seen.add("undefined" if x is y else "undefined in one")
            elif equal(x, y):
                seen.add("equal")
            else:
                return False
        if not seen & {"equal", "undefined in one"}:
            raise Unreadable(min(seen))
        return "equal" in seen

    def reject_unless_ambiguous(self, a: Node, g: Node) -> bool:
        """Return False. Raise Unreadable if answers with different values may still mean the same."""
        if any(name.startswith('"') for name in variables(a) ^ variables(g)):
            raise Unreadable("words amid mathematics")
        kinds: dict[str, str] = {}
        for part in (*a.walk(), *g.walk()):
            if is_name(part) and kinds.setdefault(part.text, part.kind) != part.kind:
                raise Unreadable("a function without its argument")
        return False

    def same_but_for_constants(self, a: Node, g: Node) -> bool:
        """Return whether the values agree once the constants of integration have the same names."""
        ours, theirs = (sorted(filter(_CONSTANT.fullmatch, variables(node))) for node in (a, g))
        if not 0 < len(ours) == len(theirs) <= MAX_CONSTANTS:
            return False
        for order in permutations(theirs):
            named = {old: Node("name", new) for old, new in zip(ours, order, strict=True)}
            if self.agree(a.substitute(named), g, REAL_POINTS):
                return True
        return False


_CONSTANT = re.compile(r"[cCAB](_\d)?")
_DERIVATIVE: Callable[[str], object] = re.compile(r".*'|d?dot ").match
_SCALARS = {"number", "name", "sum", "product", "inverse", "power", "root", "call", "opaque", "abs"} | WHOLE
