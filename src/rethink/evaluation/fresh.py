"""The control of fix and damage rates: a fresh answer, that is another first answer to the same problem, in place of the
refinement.

A second answer that does not look at a wrong draft is sometimes right, too. Only what a refinement fixes beyond that, or
damages less, comes from looking at the draft. The other drafts of a problem are such fresh answers, so with two or more
drafts per problem the control costs nothing.

Verdicts of first answers decide which drafts count and what the fresh answers are, so these numbers have no bounds for
replies that were not graded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rethink.evaluation.answers import Answer, by_suite, first_answers
from rethink.evaluation.intervals import Outcome
from rethink.evaluation.outcomes import draft_pairs
from rethink.jsonl import Record
from rethink.strategies import parse

NO_CONTROL = (
    "fix and damage rates have no control: fresh answers need two graded drafts per problem, as with evaluation.n=2"
)


RATES = {
    "solve": "solve",
    "refined": "refined",
    "fix": "fix rate",
    "fix_fresh": "fresh",
    "damage": "damage rate",
    "damage_fresh": "fresh",
}


def rate_columns(records: Sequence[Record]) -> dict[str, str]:
    """Return the rates that a table of such records of `evaluation_metrics` shows, with their headings. Those of fresh
    answers are among them only if some record has one.
    """
    have_fresh = any(record["fix_fresh"]["n"] or record["damage_fresh"]["n"] for record in records)
    return {key: title for key, title in RATES.items() if have_fresh or title != "fresh"}


def why_no_fresh(records: Sequence[Record]) -> str:
    """Return why a table of these records shows no fresh answers; "" if it does, or has no fix and damage rates."""
    are_refined = any(record["fix"]["n"] or record["damage"]["n"] for record in records)
    return NO_CONTROL if are_refined and "fix_fresh" not in rate_columns(records) else ""


def fresh_outcomes(answers: Sequence[Answer], right: bool) -> tuple[list[Outcome], list[Outcome]]:
    """Return what became of the drafts with this verdict: by refinement, and with a fresh answer in its place.

    The first list is that of `fix_outcomes` (of `damage_outcomes`, for right drafts): (problem, whether the verdict has
    changed). The second has, for each of them, (problem, share of the problem's other graded first answers that have the
    other verdict). A draft without another graded first answer is in neither. A strategy that chooses among its first
    answers, as a vote does, compares the draft with them, so only those of other attempts are fresh.
    """
    refined: list[Outcome] = []
    fresh: list[Outcome] = []
    for own in by_suite(answers).values():
        verdicts: dict[str, Counter[bool | None]] = defaultdict(Counter)
        for problem, step in first_answers(own):
            verdicts[problem][step.right] += 1
        for answer in own:
            chosen_among = [step.right for step in answer.firsts] if parse(answer.strategy).chooses else None
            for problem, before, after in draft_pairs([answer]):
                others = verdicts[problem] - Counter([before] if chosen_among is None else chosen_among)
                n_graded = others[True] + others[False]
                if before == right and n_graded:
                    refined.append((problem, after != before))
                    fresh.append((problem, others[not before] / n_graded))
    return refined, fresh
