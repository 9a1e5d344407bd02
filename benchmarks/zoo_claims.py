"""What the papers claim, and whether its direction holds in the runs of `benchmarks/zoo.py`: a table for docs/results.md.

    python benchmarks/zoo_claims.py [RESULTS]

Prints markdown. A claim is a difference of measures, paired by seed, with Student's interval over seeds. P-values are
corrected for the number of claims (Holm). A claim *holds* if its p-value is below 0.05 and the difference has the claimed
sign, *fails* if it has the other sign, and is *open* otherwise. "Not below" claims no difference: it *fails* if the p-value
is below 0.05 and the difference is negative, is *open* if the interval, which is not corrected, is below 0, and is *not
refuted* otherwise.

Figures of the papers come from models of 0.5 to 30 billion parameters: only directions can be compared.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rethink.evaluation.intervals import Difference
from rethink.evaluation.runs import over_seeds
from zoo import MARKS, SEEDS
from zoo_results import PAPER, RESULTS, T1, Mark, Run, Runs, read_runs, with_seeds
from zoo_table import holm, markdown, with_p

Sign = Literal["above", "below", "not below"]
LEVEL = 0.05
NUMBERS = ("tokens", "entropy")
"""The measures that are no shares."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    - `text`: the claim, with figures of the paper.
    - `terms`: what is above or below 0, or not below it: measures of arms at marks, such as "score@160 fix - start@0 fix".
    - `is_control`: whether the papers leave out this comparison, and we add it.
    """

    paper: str
    text: str
    terms: str
    sign: Sign = "above"
    sampling: str = T1
    is_control: bool = False


@dataclass(frozen=True)
class Term:
    """A measure of an arm at a mark, of its answers or one that its training logged, with its sign, 1 or -1."""

    sign: int
    arm: str
    mark: Mark
    measure: str


CLAIMS = (
    Claim(
        "ThinkTwice",
        "first answers beat GRPO's: 65.6 to 62.2 percent, pass@4, Qwen3-4B",
        "think-twice@160 solve pass@4 - grpo@160 solve pass@4",
        sampling=PAPER,
    ),
    Claim(
        "ThinkTwice",
        "after one refinement, too: 71.9 to 67.4",
        "think-twice@160 refined pass@4 - grpo@160 refined pass@4",
        sampling=PAPER,
    ),
    Claim(
        "ThinkTwice",
        "the lead after refinement is larger",
        "think-twice@160 refined pass@4 - grpo@160 refined pass@4 - think-twice@160 solve pass@4 + grpo@160 solve pass@4",
        sampling=PAPER,
    ),
    Claim(
        "ThinkTwice",
        "the fix rate rises during training, about 18 to 23 percent",
        "think-twice@320 fix - think-twice@40 fix",
    ),
    Claim(
        "ThinkTwice",
        "the damage rate falls, about 1.5 to 0 percent",
        "think-twice@320 damage - think-twice@40 damage",
        "below",
    ),
    Claim(
        "ThinkTwice",
        "refinements fix more than fresh answers would",
        "think-twice@160 fix - think-twice@160 fresh fix",
        is_control=True,
    ),
    Claim(
        "ThinkTuning",
        "feedback helps: MATH-500 47.5 to 45.5, Llama-3.2-3B",
        "think-tuning@160 solve - think-tuning-alone@160 solve",
    ),
    Claim(
        "GSR",
        "merged answers beat a vote of the same candidates by 3.1 points, Qwen2.5-7B",
        "gsr@160 merge:3 - gsr@160 vote:3",
    ),
    Claim(
        "GSR",
        "the gap comes from training: 0.0 before",
        "gsr@160 merge:3 - gsr@160 vote:3 - start@0 merge:3 + start@0 vote:3",
    ),
    Claim("GSR", "merged answers beat a vote that costs as much", "gsr@160 merge:3 - gsr@160 vote:4", is_control=True),
    Claim("GSR", "learning to merge helps merging", "gsr@160 merge:3 - gsr-direct@160 merge:3"),
    Claim("GSR", "the gain is the teacher's", "gsr@160 solve - gsr-no-teacher@160 solve", is_control=True),
    Claim(
        "Reflect, Retry, Reward",
        "second tries improve: Countdown 10.2 to 45.0, Qwen2.5-1.5B",
        "reflect-retry-reward@160 reflect - start@0 reflect",
    ),
    Claim(
        "Reflect, Retry, Reward",
        "so do first ones, whose tokens get no reward: 6.0 to 34.9",
        "reflect-retry-reward@160 solve - start@0 solve",
    ),
    Claim(
        "Reflect, Retry, Reward",
        "second tries after a reflection beat fresh ones",
        "reflect-retry-reward@160 reflect - reflect-retry-reward@160 fresh second try",
        is_control=True,
    ),
    Claim(
        "Reflect, Retry, Reward",
        "what the reflection says matters",
        "reflect-retry-reward@160 reflect - shuffled@160 reflect",
        is_control=True,
    ),
    Claim(
        "VL-Rethinker",
        "replay helps: MathVision 29.8 to 26.0, 7B (here with forced rethinking)",
        "vl-rethinker@160 solve - vl-rethinker-no-replay@160 solve",
    ),
    Claim(
        "VL-Rethinker",
        "forced rethinking adds: 32.3 to 29.8",
        "vl-rethinker@160 solve - vl-rethinker-no-forcing@160 solve",
    ),
    Claim(
        "TON",
        "dropped thoughts make replies shorter: CLEVR 227 to 28 tokens",
        "ton@160 tokens - ton-no-dropout@160 tokens",
        "below",
    ),
    Claim("TON", "and no worse", "ton@160 solve - ton-no-dropout@160 solve", "not below"),
    Claim(
        "TON",
        "thoughts are skipped more and more: CLEVR 28 to 97 percent",
        "ton@160 skipped_frac - ton@160 skipped_frac at first",
    ),
    Claim("SuperCorrect", "preferring corrections helps: MATH 70.2 to 62.4", "supercorrect@160 solve - start@0 solve"),
    Claim("SuperCorrect", "errors are corrected more often: 46 to 12 percent", "supercorrect@160 fix - start@0 fix"),
    Claim(
        "SCoRe",
        "a second try gains: MATH +4.4 points, -11.2 before, Gemini 1.5 Flash",
        "score@160 refined - score@160 solve - start@0 refined + start@0 solve",
    ),
    Claim("SCoRe", "more of the wrong answers are fixed: 14.5 to 9.5 percent", "score@160 fix - start@0 fix"),
    Claim("SCoRe", "fewer of the right ones are damaged: 1.4 to 15.8", "score@160 damage - start@0 damage", "below"),
    Claim("SCoRe", "RL on first answers has the better ones: 61.8 to 60.0", "grpo@160 solve - score@160 solve"),
    Claim("SCoRe", "but worse second ones: 59.4 to 64.4", "grpo@160 refined - score@160 refined", "below"),
    Claim(
        "SCoRe", "the first stage helps second tries: 64.4 to 61.4", "score@160 refined - score-one-stage@160 refined"
    ),
    Claim("SCoRe", "so does the bonus: 64.4 to 62.6", "score@160 refined - score-no-bonus@160 refined"),
    Claim("SCoRe", "more rounds help, slightly", "score@160 refine:4 - score@160 refined"),
    Claim(
        "SCoRe",
        "more than before training",
        "score@160 refine:4 - score@160 refined - start@0 refine:4 + start@0 refined",
        is_control=True,
    ),
    Claim(
        "SDPO",
        "better than GRPO: LiveCodeBench 48.8 to 41.2, Qwen3-8B; not at 1.5B (feedback there, right siblings here)",
        "self-distillation@sampled solve - grpo@sampled solve",
    ),
    Claim("SDPO", "and faster", "self-distillation@40 solve - grpo@40 solve"),
    Claim(
        "SDPO",
        "a weak model gains from mixing in GRPO",
        "self-distillation-mixed@160 solve - self-distillation@160 solve",
    ),
    Claim(
        "RLTF-SD",
        "first answers beat GRPO's: MATH500 54.8 to 52.6, Llama-3.1-8B",
        "rltf@sampled solve - grpo@sampled solve",
    ),
    Claim("RLTF-SD", "because of imitation", "rltf@160 solve - rltf-alone@160 solve"),
    Claim("ERL", "first answers beat GRPO's: HotpotQA 56 to 45, Qwen3-4B", "erl@sampled solve - grpo@sampled solve"),
    Claim(
        "ERL",
        "a second try after a reflection gains more than before training",
        "erl@160 reflect - erl@160 solve - start@0 reflect + start@0 solve",
    ),
    Claim(
        "ERL",
        "and than fresh second tries",
        "erl@160 reflect - erl@160 fresh second try",
        is_control=True,
    ),
    Claim(
        "PAG",
        "after revision better than RL on first answers: MATH500 65.2 to 62.4, Qwen2.5-1.5B",
        "pag@160 self-refine - grpo@160 solve",
    ),
    Claim("PAG", "and than SCoRe's second tries: 65.2 to 63.9", "pag@160 self-refine - score@160 refined"),
    Claim("PAG", "first answers are no worse: 62.2 to 61.6", "pag@160 solve - grpo@160 solve", "not below"),
    Claim("PAG", "checks become right: 30.3 to 81.7 percent", "pag@160 checks right - start@0 checks right"),
    Claim("PAG", "revising everything is worse", "pag@160 self-refine - pag-revise-all@160 self-refine"),
    Claim(
        "Self-verification",
        "checks become right: 74.5 percent, 26.8 under RL on answers, Qwen2.5-1.5B",
        "self-verification@160 checks right - grpo@160 checks right",
    ),
    Claim(
        "Self-verification",
        "first answers are no worse: 24.4 to 24.0",
        "self-verification@160 solve - grpo@160 solve",
        "not below",
    ),
    Claim(
        "Learning to merge",
        "merged answers beat the vote: AIME24 70.7 to 67.9, Qwen3-1.7B",
        "learn-to-merge@160 merge:3 - learn-to-merge@160 vote:3",
    ),
    Claim(
        "Learning to merge",
        "more than GRPO's do",
        "learn-to-merge@160 merge:3 - learn-to-merge@160 vote:3 - grpo@160 merge:3 + grpo@160 vote:3",
    ),
    Claim(
        "Learning to merge",
        "both skills cost nothing: 49.4 to 50.0",
        "learn-to-merge@160 solve - grpo@160 solve",
        "not below",
    ),
    Claim(
        "Learning to merge",
        "pass@k advantages for candidates help merging",
        "learn-to-merge@160 merge:3 - merge-centered@160 merge:3",
    ),
    Claim(
        "Critique-GRPO",
        "better than GRPO at equal updates: 47.1 to 41.2, Qwen2.5-7B",
        "critique-grpo@160 solve - grpo@160 solve",
    ),
    Claim(
        "Critique-GRPO",
        "and at equal sampled tokens",
        "critique-grpo@sampled solve - grpo@sampled solve",
        is_control=True,
    ),
    Claim("Critique-GRPO", "entropy stays higher", "critique-grpo@160 entropy - grpo@160 entropy"),
    Claim(
        "GSPO", "better than GRPO, for a mixture of experts", "objective-gspo@160 solve - objective-grpo-slow@160 solve"
    ),
    Claim(
        "CISPO", "better than GRPO: AIME24, Qwen2.5-32B", "objective-cispo@160 solve - objective-grpo-slow@160 solve"
    ),
    Claim(
        "SAPO", "better than GRPO and GSPO, Qwen3-30B-A3B", "objective-sapo@160 solve - objective-grpo-slow@160 solve"
    ),
    Claim(
        "DAPO",
        "better than GRPO (without dynamic sampling 42 to 30), Qwen2.5-32B",
        "objective-dapo@160 solve - objective-grpo-slow@160 solve",
    ),
    Claim("DAPO", "entropy stays higher", "objective-dapo@160 entropy - objective-grpo-slow@160 entropy"),
    Claim("Dr. GRPO", "no worse than GRPO", "objective-dr_grpo@160 solve - objective-grpo-slow@160 solve", "not below"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    print(claim_table(read_runs(parser.parse_args().results), CLAIMS))


def claim_table(runs: Runs, claims: Sequence[Claim]) -> str:
    """Return a row per claim for which there are at least two seeds: those of the main comparison, and all that were
    trained for long enough if a claim is about the last mark."""
    found: dict[int, Difference] = {}
    for number, claim in enumerate(claims):
        gap = measured(runs if MARKS[-1] in marks(claim) else with_seeds(runs, SEEDS), claim)
        if gap.n > 1:
            found[number] = gap
    corrected = holm({str(number): gap.p for number, gap in found.items()})
    lines = [["", "claim", "here, in points", "difference", "direction"]]
    for number, gap in found.items():
        claim, p = claims[number], corrected[str(number)]
        text = f"{claim.text} (our control)" if claim.is_control else claim.text
        sampling = "" if claim.sampling == T1 else f" ({claim.sampling})"
        is_share = parse_terms(claim.terms)[0].measure not in NUMBERS
        difference = with_p(gap, p) if is_share else f"{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}], p {p:.3f}"
        lines.append([claim.paper, text, f"{claim.terms}{sampling}", difference, verdict(gap, p, claim.sign)])
    return markdown(lines)


def verdict(gap: Difference, p: float, sign: Sign) -> str:
    """Return whether a claim holds, fails, or is open; p is its corrected p-value."""
    is_certain = not math.isnan(p) and p < LEVEL
    if sign == "not below":
        if gap.value < 0 and is_certain:
            return "fails"
        return "open" if gap.high < 0 else "not refuted"
    if not is_certain:
        return "open"
    return "holds" if (gap.value > 0) == (sign == "above") else "fails"


def parse_terms(text: str) -> list[Term]:
    """Return the terms of a sum.

    >>> parse_terms("score@160 refined - start@0 solve pass@4")[1]
    Term(sign=-1, arm='start', mark=0, measure='solve pass@4')
    """
    found: list[Term] = []
    signs = re.findall(r" ([+-]) ", text)
    for sign, term in zip(["+", *signs], re.split(r" [+-] ", text), strict=True):
        side, measure = term.split(" ", 1)
        arm, mark = side.split("@")
        found.append(Term(1 if sign == "+" else -1, arm, int(mark) if mark.isdigit() else mark, measure))
    return found


def marks(claim: Claim) -> set[Mark]:
    """Return the marks that a claim is about."""
    return {term.mark for term in parse_terms(claim.terms)}


def measured(runs: Runs, claim: Claim) -> Difference:
    """Return the sum of a claim's terms over the seeds that all its arms have."""
    terms = parse_terms(claim.terms)
    values: list[dict[int, float]] = [term_values(runs, term, claim.sampling) for term in terms]
    sums: list[float] = []
    for seed in sorted(set.intersection(*map(set, values))):
        sums.append(math.fsum(term.sign * of[seed] for term, of in zip(terms, values, strict=True)))
    return over_seeds(sums)


def term_values(runs: Runs, term: Term, sampling: str) -> dict[int, float]:
    """Return the measure of each run that has it, by seed."""
    found: dict[int, float] = {}
    for run in runs.get(term.arm, {}).values():
        value = term_value(run, term, sampling)
        if not math.isnan(value):
            found[run.seed] = value
    return found


def term_value(run: Run, term: Term, sampling: str) -> float:
    point, answers = run.at(term.mark), run.answers(term.mark, sampling)
    if point is not None and term.measure in point.logged:
        return point.logged[term.measure]
    return math.nan if answers is None else answers.value(term.measure)


if __name__ == "__main__":
    main()
