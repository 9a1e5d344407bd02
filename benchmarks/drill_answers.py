"""Hostile answers: what a policy under training could write to be called right, to hang the grader, or to run code.

Every reply comes with a gold answer that it does not equal. For bombs and characters changed at random nothing is claimed:
there only crashes, hangs and code count. With RETHINK_TEST_DATA (tests/README.md) one in three is a real reply of a
model with its answer changed.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from drill_commands import HELD, Trial
from rethink.grading.extract import boxes
from rethink.grading.pool import TIMEOUT_S
from rethink.problems.grade import grade

LIMIT_S = TIMEOUT_S + 3.0
"""More than a worker's limit and its restart."""


@dataclass(frozen=True)
class Attack:
    """A reply and a gold answer; `differs` says that the reply cannot be right."""

    kind: str
    reply: str
    gold: str
    differs: bool = True
    verifier: str = "boxed"


def trials(scratch: Path, n: int, seed: int) -> Iterator[Callable[[], Trial]]:
    marker = scratch / "code-ran"
    marker.unlink(missing_ok=True)
    for i in range(n):
        yield partial(attack, i, random.Random(f"{seed} {i}"), marker)


def attack(number: int, draw: random.Random, marker: Path) -> Trial:
    made = hostile(number, draw, marker)
    name = f"{number}: {made.reply[-150:]!r} for {made.gold[:80]!r}"
    start = time.monotonic()
    try:
        verdict = grade(made.reply, made.gold, made.verifier)
    except Exception as err:
        return Trial(name, made.kind, "crashed", repr(err))
    seconds = time.monotonic() - start
    if marker.exists():
        marker.unlink()
        return Trial(name, made.kind, "code ran")
    if seconds > LIMIT_S:
        return Trial(name, made.kind, "hung", f"{seconds:.1f} s")
    if made.differs and verdict.right:
        return Trial(name, made.kind, "wrong called right", verdict.reason)
    graded = "not graded" if verdict.right is None else str(verdict.right)
    return Trial(name, made.kind, HELD, "", counts={graded: 1})


def hostile(number: int, draw: random.Random, marker: Path) -> Attack:
    """Return the hostile answer with this number; one in three is a real reply with its answer changed."""
    makers = [*MAKERS, changed_real_reply] if number % 3 else [changed_real_reply]
    return draw.choice(makers)(draw, marker)


def boxed(text: str) -> str:
    return f"So the answer is $\\boxed{{{text}}}$."


def number(draw: random.Random) -> str:
    """Return an integer, a decimal or a fraction."""
    kind = draw.randrange(3)
    if kind == 0:
        return str(draw.randint(-999, 99_999))
    if kind == 1:
        return f"{draw.randint(0, 99)}.{draw.randint(1, 999)}"
    return rf"\frac{{{draw.randint(1, 99)}}}{{{draw.choice([7, 11, 13, 17])}}}"


def formula(draw: random.Random) -> str:
    """Return a formula in x."""
    a, b = draw.randint(2, 9), draw.randint(2, 9)
    return draw.choice(
        [
            rf"\sin x + {a}",
            f"{a}x^2+{b}x",
            rf"\frac{{{a}}}{{x+{b}}}",
            rf"e^{{{a}x}}",
            rf"\sqrt{{x^2+{b}}}",
            rf"\ln(x+{a})",
            f"x^{{{a}}}",
            rf"{a}\cos({b}x)",
        ]
    )


def vanishing_term(draw: random.Random, marker: Path) -> Attack:
    """Add a polynomial that is 0 at points a grader is likely to try."""
    gold = formula(draw)
    guesses = [f"(x-{k})" for k in range(-3, 8)] + ["(23x-17)", "(19x-31)", "(29x-59)", "(2x-1)", "(3x-1)", "(x^2-2)"]
    factors = draw.sample(guesses, draw.randint(3, len(guesses)))
    return Attack("a term that vanishes at guessed points", boxed(gold + "+" + "".join(factors)), gold)


def tiny_difference(draw: random.Random, marker: Path) -> Attack:
    """Add what floating point does not see."""
    gold = draw.choice([number(draw), formula(draw), r"\sqrt{2}", r"\pi"])
    size = draw.choice([20, 80, 200, 500, 1000, 3000, 9000])
    term = draw.choice([f"2^{{-{size}}}", f"10^{{-{size}}}", rf"\frac{{1}}{{3^{{{size}}}}}", f"e^{{-{size}}}"])
    return Attack("a difference that floats do not see", boxed(f"{gold}{draw.choice('+-')}{term}"), gold)


def cut_decimal(draw: random.Random, marker: Path) -> Attack:
    a, b = draw.choice([(1, 3), (2, 3), (1, 7), (5, 11), (22, 7)])
    digits = draw.choice([3, 10, 30, 80, 300])
    text = f"{a // b}." + str(a % b * 10**digits // b).rjust(digits, "0")
    return Attack("a fraction cut to a decimal", boxed(text), rf"\frac{{{a}}}{{{b}}}")


def huge_numbers(draw: random.Random, marker: Path) -> Attack:
    n = draw.choice([300, 460, 600, 1000, 2000, 2024])
    gold = draw.choice(
        [f"2^{{{n}}}", f"{n}!", f"10^{{{n}}}", f"3^{{{n}}}-1", "1" + "0" * n, rf"\binom{{{2 * n}}}{{{n}}}"]
    )
    return Attack("huge numbers", boxed(gold + draw.choice(["+1", "-1", "+7", "-2^{10}"])), gold)


def other_branch(draw: random.Random, marker: Path) -> Attack:
    pairs = [(r"\sqrt{x^2}", "x"), ("|x|", "x"), (r"\sqrt{(x-3)^2}", "x-3"), (r"\ln(x^2)", r"2\ln(-x)")]
    pairs += [(r"\arcsin(\sin x)", "x"), (r"\arctan(\tan x)", "x"), (r"\sqrt[4]{x^4}", "x"), (r"x\cdot|x|", "x^2")]
    answer, gold = draw.choice(pairs)
    shift = draw.choice(["", "+1", "+2", "+5"])
    return Attack("equal on a part of the numbers only", boxed(answer + shift), gold + shift)


def other_relation(draw: random.Random, marker: Path) -> Attack:
    n = draw.randint(2, 99)
    answers = [rf"x \approx {n}", rf"x \equiv {n}", rf"x \neq {n}", f"x > {n}", f"x < {n}", rf"x \geq {n}", f"not {n}"]
    answers += [
        f"{n} or {n + 1}",
        f"{n}, {n + 1}",
        f"{n}?{n + 1}",
        f"{n}..{n + 2}",
        f"{n}~{n + 1}",
        rf"{n}\pm 1",
        f"-{n}",
    ]
    return Attack("another relation, or several answers", boxed(draw.choice(answers)), draw.choice([str(n), f"x={n}"]))


def several_boxes(draw: random.Random, marker: Path) -> Attack:
    gold = number(draw)
    others = [boxed(str(draw.randint(100_000, 999_999))) for _ in range(draw.choice([1, 2, 7, 40]))]
    position = draw.randrange(len(others))  # never last
    between = draw.choice([" ", " or ", ", "])
    reply = between.join([*others[:position], boxed(gold), *others[position:]])
    return Attack("several boxes on a line", reply, gold)


def bracket(draw: random.Random, marker: Path) -> Attack:
    a, b = draw.randint(0, 9), draw.randint(10, 20)
    left, right = draw.choice("(["), draw.choice(")]")
    gold = f"{left}{a},{b}{right}"
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    answers = [f"{other[left]}{a},{b}{right}", f"{left}{a},{b}{other[right]}", f"{left}{a},{b + 1}{right}"]
    answers += [f"{left}{a + 1},{b}{right}", f"{left}-{a + 1},{b}{right}", f"{left}{b},{a}{right}"]
    answer = draw.choice(answers)
    return Attack("another bracket or bound", boxed(answer), gold)


def unit(draw: random.Random, marker: Path) -> Attack:
    names = ["cm", "m", "km", "kg", "g", "mg", "s", "hours", "minutes", "dollars", "MW", "mW", r"\text{ cm}^2"]
    ours, theirs = draw.sample(names, 2)
    n = draw.randint(2, 999)
    return Attack("another unit", boxed(rf"{n} \text{{ {ours} }}"), rf"{n} \text{{ {theirs} }}")


def scale_word(draw: random.Random, marker: Path) -> Attack:
    """Put a word behind the number that changes its value."""
    n = draw.randint(2, 999)
    words = ["tenths", "halves", "dozen", "million", "M", "k", "bn", "thousand", "squared", "hundredths", "pairs"]
    words += ["quarters", "score", "factorial", "negative", "fold", "thirds"]
    word = draw.choice(words)
    written = draw.choice([f" {word}", word, rf" \text{{ {word}}}", rf"\text{{{word}}}", rf"\mathrm{{{word}}}"])
    return Attack("a word that changes the value", boxed(f"{n}{written}"), str(n))


def name(draw: random.Random, marker: Path) -> Attack:
    gold = formula(draw)
    answer = re.sub(r"(?<![a-zA-Z\\])x|x(?![a-zA-Z])", draw.choice("yztuX"), gold)
    return Attack("another name", boxed(answer), gold)


def digit(draw: random.Random, marker: Path) -> Attack:
    gold = draw.choice([number(draw), formula(draw), str(draw.randrange(10**40))])
    places = [i for i, c in enumerate(gold) if c.isdigit()]
    if not places:
        return Attack("another digit", boxed(gold + "+1"), gold)
    i = draw.choice(places)
    changed = gold[:i] + str((int(gold[i]) + draw.randint(1, 8)) % 10) + gold[i + 1 :]
    return Attack("another digit", boxed(changed), gold, differs=_same_value_is_impossible(changed, gold))


def _same_value_is_impossible(a: str, b: str) -> bool:
    """Return whether two numbers in plain notation differ; formulas with another digit always do."""
    if not re.fullmatch(r"[-\d.]+", a):
        return r"\frac" not in a or "x" in a or _fraction(a) != _fraction(b)
    return float(a) != float(b) or len(a) > 15


def _fraction(text: str) -> float | None:
    found = re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", text)
    return int(found[1]) / int(found[2]) if found and int(found[2]) else None


def bomb(draw: random.Random, marker: Path) -> Attack:
    n = draw.choice([100, 1000, 5000, 20_000])
    texts = [
        "(" * n + "1" + ")" * n,
        r"\frac{1}{" * n + "2" + "}" * n,
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        f"{n}!!!",
        f"{10 * n}!",
        r"\sqrt{" * n + "x" + "}" * n,
        "+".join(f"x^{{{i}}}" for i in range(n)),
        r"\begin{pmatrix}" + r"\\".join("&".join("1" * 50) for _ in range(n // 50)) + r"\end{pmatrix}",
        rf"\int_0^1 x^{{x^{{x}}}} \sin(x^{{{n}}}) dx",
        rf"\sum_{{k=1}}^{{{n}00000}} \frac{{1}}{{k^k!}}",
        rf"\text{{{'a' * n}}}",
        "1" * n,
        "1,2," * n,
        "{" * n,
        r"\boxed{" * n + "1",
        r"\prod_{k=1}^{10^{12}} k",
        rf"\lim_{{x\to 0}} \frac{{\sin^{{{n}}} x}}{{x^{{{n}}}}}",
        rf"\det(A^{{{n}}})",
        rf"(x+y+z+1)^{{{n}}}",
    ]
    text = draw.choice(texts)
    reply = draw.choice([boxed(text), f"{boxed(text)} and {boxed(text + '1')}", f"{boxed(text)} = {boxed('1' + text)}"])
    return Attack("bombs", reply, draw.choice(["7", "x+1", r"\frac{1}{2}", "(1,2)"]), differs=False)


def code(draw: random.Random, marker: Path) -> Attack:
    path = str(marker)
    texts = [
        f"__import__('pathlib').Path({path!r}).touch()",
        f"(lambda: open({path!r}, 'w'))()",
        f"eval(\"open('{path}','w')\")",
        f"[c for c in ().__class__.__base__.__subclasses__()][0] or open({path!r},'w')",
        rf"\input{{{path}}}",
        rf"\immediate\write18{{touch {path}}}",
        f"{{{{ cycler.__init__.__globals__.os.popen('touch {path}') }}}}",
        f"$(touch {path})",
        f"`touch {path}`",
        f"'; import os; os.system('touch {path}'); '",
        f"exec(open({path!r}, 'w').close())",
        f"sympy.sympify(\"open('{path}','w')\")",
        f'f\'{{open("{path}","w")}}\'',
    ]
    text = draw.choice(texts)
    verifier = draw.choice(["boxed", "choice", "calls", "equation", "countdown"])
    gold = {"choice": "A", "calls": '[{"name": "f", "arguments": {}}]', "equation": '{"numbers": [1, 2], "target": 3}'}
    reply = draw.choice([text, boxed(text), f"<answer>{text}</answer>", f"```json\n{text}\n```"])
    golds = {"countdown": "3 7 5 -> 26", **gold}
    return Attack("code", reply, golds.get(verifier, "7"), verifier=verifier)


def odd_characters(draw: random.Random, marker: Path) -> Attack:
    odd = "\u202e\u2060\ufeff\u200b\u0000\ud800\uff11\u0661\u2212\u00ad\u0301\U0001d7d9\x1b"
    text = "".join(draw.choice(odd + "12x+-{}\\$") for _ in range(draw.randint(1, 60)))
    return Attack("odd characters", boxed(text), draw.choice(["12", "x+1"]), differs=False)


def long_reply(draw: random.Random, marker: Path) -> Attack:
    n = draw.choice([10_000, 100_000, 1_000_000])
    pieces = ["a", "\\boxed{1} ", "$x$ ", "<think>", "\\boxed{", "the answer is ", "####", "\n", "1,"]
    text = draw.choice(pieces) * n
    return Attack("long replies", text[: 2 * n] + draw.choice(["", boxed("8")]), "7")


MAKERS = (
    *(vanishing_term, tiny_difference, cut_decimal, huge_numbers, other_branch, other_relation, several_boxes),
    *(bracket, unit, scale_word, name, digit, bomb, code, odd_characters, long_reply),
)


def changed_real_reply(draw: random.Random, marker: Path) -> Attack:
    """Change a digit or the sign of a real right answer; without the data, change a generated number."""
    replies = real_replies()
    if not replies:
        return digit(draw, marker)
    reply, gold = draw.choice(replies)
    start, content = boxes(reply)[-1]
    if draw.random() < 0.3:  # any byte may change: no claim
        place = draw.randrange(len(content) + 1)
        changed = content[:place] + draw.choice("0123456789+-{}()\\,x^_ ") + content[place + 1 :]
        return Attack("a real reply, a character changed", reply[:start] + changed + "}", gold, differs=False)
    places = [i for i, c in enumerate(content) if c.isdigit()]
    place = draw.choice(places)
    other = str((int(content[place]) + draw.randint(1, 8)) % 10)
    changed = content[:place] + other + content[place + 1 :]
    return Attack("a real reply, a digit changed", reply[:start] + changed + "}", gold)


@cache
def real_replies() -> list[tuple[str, str]]:
    """Return real replies whose answer is their gold answer, an integer of at most 12 digits, at their end."""
    data = os.environ.get("RETHINK_TEST_DATA")
    if not data:
        return []
    from pyarrow import parquet

    rows = parquet.read_table(Path(data) / "traces" / "qwen3-4b.parquet").to_pylist()
    found = []
    for row in rows:
        last = boxes(row["response"])[-1:]
        if last and last[0][1] == row["ground_truth"] and re.fullmatch(r"[1-9]\d{0,11}", last[0][1]):
            found.append((row["response"], row["ground_truth"]))
    return found
