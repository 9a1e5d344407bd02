"""One spelling for characters: Unicode signs become LaTeX, and what only looks different becomes the same.

The rules go by Unicode category and compatibility (NFKC), so that they hold for characters that nobody listed."""

from __future__ import annotations

import re
import unicodedata


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_SIGNS_TEXT = r"""
    × \times, · ⋅ ∙ • \cdot, ∗ *, ÷ \div, ∕ ⁄ /, − -, ∞ \infty, ≤ ≦ ⩽ \leq, ≥ ≧ ⩾ \geq, ≠ \neq, ∈ \in, ∉ \notin,
    ⊂ \subset, ⊆ \subseteq, ∪ \cup, ∩ \cap, ∖ \setminus, ± \pm, ∓ \mp, ≈ \approx, ≅ \cong, ≃ \simeq, ≡ \equiv,
    ∼ \sim, ∝ \propto, ∥ \parallel, ⊥ \perp, ∣ |, √ \sqrt, ∛ \sqrt[3], ∜ \sqrt[4], ∅ \emptyset, ∧ \land, ∨ \lor,
    ¬ \lnot, ∀ \forall, ∃ \exists, ∂ \partial, ∇ \nabla, ∫ \int, ∑ \sum, ∏ \prod, ∠ \angle, △ \triangle, → ⟶ \to,
    ⇒ \Rightarrow, ⌊ \lfloor, ⌋ \rfloor, ⌈ \lceil, ⌉ \rceil, ⟨ \langle, ⟩ \rangle, ℝ \mathbb{R}, ℤ \mathbb{Z},
    ℚ \mathbb{Q}, ℕ \mathbb{N}, ℂ \mathbb{C}, … ⋯ \ldots, ′ ‘ ’ ', “ ” „ ", º °, ˆ ^
"""
_SIGNS: dict[str, str] = {}
"""Signs, and LaTeX's spelling of each."""
for _row in map(str.split, _SIGNS_TEXT.split(",")):
    _SIGNS.update(dict.fromkeys(_row[:-1], _row[-1] + " " * _row[-1][-1].isalpha()))
_GREEK = word_set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
    "chi psi omega"
)
_CHINESE = r"(?<![\u4e00-\u9fff])(?:\\text\{\s*)?(?:%s)(?:\s*\})?(?![\u4e00-\u9fff])"
_OR, _AND = re.compile(_CHINESE % "或者?"), re.compile(_CHINESE % "和|且|与|以及")
_CIRCLED = re.compile(r"([①-⑳])\s*(?=[①-⑳])")
_MODULUS = re.compile(r"\(\s*(?:\\(?:text|mathrm|operatorname)\{\s*mod\s*\}|\\?b?mod(?![a-z]))\s*([^()]+)\)")
_VARIANTS = {"ϕ": "phi", "ε": "epsilon", "ϵ": "epsilon", "ϑ": "theta", "ς": "sigma", "ϱ": "rho"}


def spell(text: str) -> str:
    """Return the text in LaTeX's spelling of every sign.

    Characters that nobody sees (category Cf) go, all spaces are one kind of space, all dashes are a minus; raised and
    lowered characters become powers and subscripts, and 1½ becomes 1 \\frac{1}{2}. Chinese words between formulas (1或2)
    and statements with circled numbers (①③) become lists, and (mod 7) becomes \\pmod{7}."""
    found: list[str] = []
    script = ""
    for char in text:
        kind, plain = _script(char)
        if kind != script:
            found.append("}" * bool(script) + {"": "", "super": "^{", "sub": "_{"}[kind])
            script = kind
        found.append(plain if kind else _spell_one(char))
    spelled = _MODULUS.sub(r"\\pmod{\1}", "".join(found) + "}" * bool(script))
    if spelled.isascii():
        return spelled
    spelled = _AND.sub(r" \\text{ and } ", _OR.sub(r" \\text{ or } ", spelled))
    return _CIRCLED.sub(r"\1, ", spelled)


def _script(char: str) -> tuple[str, str]:
    """Return "super" or "sub" and the plain character for a raised or lowered one; ("", "") for others."""
    kind, _, code = unicodedata.decomposition(char).partition("> ")
    if kind not in ("<super", "<sub") or char in "ªº™℠":
        return "", ""
    plain = "".join(chr(int(x, 16)) for x in code.split())
    return kind[1:], "".join(map(_spell_one, plain))


def _spell_one(char: str) -> str:
    if char.isascii():
        return char if char >= " " or char in "\t\n" else "\ufffd"
    if char in _SIGNS:
        return _SIGNS[char]
    if char == "、":
        return ", "
    if "①" <= char <= "⑳":
        return char
    if unicodedata.decomposition(char).startswith("<fraction>"):
        top, bottom = unicodedata.normalize("NFKC", char).split("⁄")
        return rf" \frac{{{top}}}{{{bottom}}}" if bottom else "\ufffd"
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return "\u2009" if char in "\u00a0\u2009\u202f" else " "  # these may separate groups of digits
    if category == "Pd":
        return "-"
    greek = _greek(char)
    if greek:
        return f"\\{greek} "
    plain = unicodedata.normalize("NFKC", char)
    return plain if plain == char else "".join(map(_spell_one, plain))


def _greek(char: str) -> str:
    """Return the LaTeX command of a Greek letter (also of a bold or slanted one), without its backslash; "" for others."""
    if char in _VARIANTS:
        return _VARIANTS[char]
    name = unicodedata.name(unicodedata.normalize("NFKC", char)[0], "")
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", name)
    if found is None:
        return ""
    letter = found[2].lower().replace("lamda", "lambda")
    if letter not in _GREEK:
        return ""
    return letter if found[1] == "SMALL" else letter.capitalize()
