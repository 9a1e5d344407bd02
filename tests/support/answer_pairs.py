"""Pairs of answers that are equal in two spellings, and pairs that are not: answer_pairs.txt, by section."""

from __future__ import annotations

from pathlib import Path

Pairs = list[tuple[str, str]]


def read_sections() -> dict[str, Pairs]:
    """Return the pairs by heading: one pair per line, two spaces and a tilde between its answers."""
    sections: dict[str, Pairs] = {}
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            section = sections.setdefault(line.removeprefix("# "), [])
        elif line:
            answer, gold = line.split("  ~ ")
            section.append((answer.strip(), gold))
    return sections


_SECTIONS = read_sections()
_SHAPES = "lists, intervals, words, units"
EQUAL = [*_SECTIONS["equal numbers"], *_SECTIONS[f"equal {_SHAPES}"], *_SECTIONS["equal formulas"]]
DIFFERENT = [*_SECTIONS["different numbers"], *_SECTIONS[f"different {_SHAPES}"], *_SECTIONS["different formulas"]]
FORMULAS = [*_SECTIONS["equal formulas"], *_SECTIONS["different formulas"]]
AUDIT_EQUAL = _SECTIONS["equal for the audit"]
"""For the answer audit only: the grader need not agree."""
AUDIT_DIFFERENT = _SECTIONS["different for the audit"]
