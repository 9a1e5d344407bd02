"""Refinements as review prompts bring them about, around real answers, with the verdicts that are right.

The answers are those of tests/grading/traces.tsv that people judged wrong. With the wrong and the gold answer of a row, a
refinement mends the draft, spoils it, or keeps it as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rethink.problems.mathematics import parse_gold

QUOTED_FIRST = (
    "The earlier answer $\\boxed{E}$ is wrong; the correct answer is $\\boxed{N}$.",
    "My previous solution gave \\(\\boxed{E}\\), but with the sign corrected the final answer is \\(\\boxed{N}\\).",
    "So instead of $\\boxed{E}$, the refined answer is $\\boxed{N}$.",
    "**Original answer:** $\\boxed{E}$ \u2192 **Refined answer:** $\\boxed{N}$",
    "I change my answer from $\\boxed{E}$ to $\\boxed{N}$.",
    "Since $\\boxed{E}$ does not satisfy the last condition, we must have $$\\boxed{N}$$",
    "| draft | refined |\n|---|---|\n| $\\boxed{E}$ | $\\boxed{N}$ |",
    "Previous answer: \\boxed{E}. Corrected answer: \\boxed{N}.",
    "The answer is not $\\boxed{E}$ but $\\boxed{N}$.",
    "Thus $\\boxed{E}$ should have been $\\boxed{N}$.",
    "~~$\\boxed{E}$~~ $\\boxed{N}$",
)
QUOTED_ABOVE = (
    "### Mistake\n\nThe solution ended with $\\boxed{E}$.\n\n### Refined solution and final answer\n\n$$\n\\boxed{N}\n$$",
    "**Step 4** of the draft concludes with \\boxed{E}, which is not justified.\n\n**Final answer:** \\boxed{N}",
)
QUOTED_LAST = (
    "Refined answer: $\\boxed{N}$ (previously $\\boxed{E}$)",
    "The final answer is $\\boxed{N}$, not $\\boxed{E}$.",
    "**Final answer:** $\\boxed{N}$ instead of $\\boxed{E}$",
    "Therefore the answer is $\\boxed{N}$, which replaces the earlier answer of $\\boxed{E}$.",
    "$$\\boxed{N}$$\n\n(The previous answer was $\\boxed{E}$.)",
    "The refined answer is $\\boxed{N}$ rather than the original $\\boxed{E}$.",
    "\\boxed{N} (changed from \\boxed{E} after the review)",
    "**Refined answer:** $\\boxed{N}$; the draft said $\\boxed{E}$.",
    "The correct answer is $\\boxed{N}$, whereas I had found $\\boxed{E}$ before.",
)
KEPT = (
    "I confirm each step of the earlier solution, so the answer $\\boxed{E}$ stands: $\\boxed{N}$",
    "The draft is right. As asked, I put the final answer in \\boxed{}: \\boxed{N}",
    "Step 3 asked for \\boxed{...}. My refined solution ends with $\\boxed{N}$.",
)
FORMS = {"first": QUOTED_FIRST, "above": QUOTED_ABOVE, "last": QUOTED_LAST, "kept": KEPT}
"""What closes a refinement, by where it quotes the earlier answer E beside its own answer N."""

OPENING = "I reviewed my previous solution step by step.\n\n"
TABLE = Path(__file__).parent.parent / "grading" / "traces.tsv"


@dataclass(frozen=True)
class Refinement:
    """A reply, the gold answer, and whether the reply is right. `kind` says where the earlier answer is quoted."""

    kind: str
    gold: str
    reply: str
    right: bool


def refinements(replies: Mapping[int, str] | None = None) -> Iterator[Refinement]:
    """Yield eight refinements per form: four right, four wrong. `replies` holds the real reply of each row, to fill in."""
    rows: list[list[str]] = []
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        row = line.split("\t")
        if row[2] == row[3] == "wrong":  # by people and by the grader
            rows.append(row)
    n = 0
    for place, forms in FORMS.items():
        for form in forms:
            for outcome in ("mends", "spoils") * 4:
                number, *_, gold, wrong = rows[n % len(rows)]
                body = (replies or {}).get(int(number), "")
                yield _refinement(place, form, outcome == "mends", body, parse_gold(gold), wrong)
                n += 1


def _refinement(place: str, form: str, right: bool, body: str, gold: str, wrong: str) -> Refinement:
    earlier, new = (wrong, gold) if right else (gold, wrong)
    if place == "kept":
        earlier = new
    closing = re.sub(r"\{([EN])\}", lambda found: "{" + {"E": earlier, "N": new}[found[1]] + "}", form)
    kept = [line for line in body.split("\n") if "\\boxed" not in line]
    return Refinement(place, gold, "\n".join([OPENING, *kept, closing]), right)
