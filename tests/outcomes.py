"""Hand-made outcomes of strategies for the tests of their evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from looks import WORDS, reply
from rethink.evaluate.outcomes import Outcome, Step

Right = bool | None


def step(phase: str, right: Right = None, n_tokens: int | None = 3, text: str = "t", index: int = 0) -> Step:
    """A sample of so many tokens; only first answers have a verdict."""
    verdict = WORDS[right] if phase == "solve" else ""
    return Step(phase, index, text, verdict, "stop", 5, n_tokens, "0" * 16)


def made(
    problem: str,
    strategy: str,
    finals: Sequence[Right],
    steps: Sequence[Step] = (),
    *,
    repeat: int = 0,
    suite: str = "s",
    depth: int = 1,
    notes: Mapping[str, int] | None = None,
) -> Outcome:
    """What a strategy made of a problem; its tokens are those of the steps."""
    counts = [s.n_tokens for s in steps]
    n_tokens = None if None in counts else sum(n for n in counts if n is not None)
    answers = tuple(map(reply, finals))
    return Outcome(
        *(suite, problem, repeat, strategy, f"question {problem}", "g"),
        *(answers, tuple(steps), 5, n_tokens, depth, dict(notes or {})),
    )


Case = tuple[Outcome, Outcome, Outcome]


def case(
    problem: str,
    candidates: Sequence[Right],
    merged: Sequence[Right],
    vote: Sequence[Right],
    more: Sequence[Right],
    repeat: int = 0,
) -> Case:
    """A problem merged and voted on: `candidates` has one more than are merged, the last for the larger vote alone."""
    k = len(candidates) - 1
    firsts = [step("solve", right, text=f"{problem} {n} of {repeat}", index=n) for n, right in enumerate(candidates)]
    return (
        made(problem, f"merge:{k}", merged, [*firsts[:k], step("merge")], repeat=repeat),
        made(problem, f"vote:{k}", vote, firsts[:k], repeat=repeat),
        made(problem, f"vote:{k + 1}", more, firsts, repeat=repeat),
    )
