"""Hand-made problems, replies and answers for the tests of the evaluation, and a policy with a narrow window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from rethink.evaluation.answers import Answer, AnswerStep
from rethink.evaluation.intervals import Estimate
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.types import Group, Problem, Prompt, Sample, Sampling, Verdict

Right = bool | None
WORDS = {True: "right", False: "wrong", None: "not graded"}


def grade_marks(reply: str, _gold: str) -> Verdict:
    """By the first word: right, wrong, lucky (right by lenient extraction) or blank (no answer); else not graded."""
    mark = reply.split()[0] if reply.split() else ""
    if mark == "blank":
        return Verdict(False, "no answer", None)
    return Verdict({"right": True, "lucky": True, "wrong": False}.get(mark), "by its first word", mark, mark == "lucky")


def problem(name: str, suite: str = "s") -> Problem:
    return Problem(name, f"question {name}", f"gold {name}", grade_marks, suite=suite)


def step(
    phase: str = "solve",
    right: Right = None,
    n_tokens: int | None = 3,
    text: str = "",
    index: int = 0,
    stop: str | None = "stop",
    shown: int | None = 5,
    **changes: object,
) -> AnswerStep:
    """A reply of so many tokens, to a prompt of `shown` tokens; graded, as first and final answers are."""
    values = {
        "phase": phase,
        "index": index,
        "text": text or WORDS[right],
        "prompt": (("user", "q"),),
        "verdict": WORDS[right],
        "extracted": "x",
        "reason": "",
        "lenient": False,
        "stop": stop,
        "n_prompt_tokens": shown,
        "n_tokens": n_tokens,
        "log_prob": None,
        "seed": "0" * 16,
        "draft": None,
    }
    return AnswerStep(**{**values, **changes})  # type: ignore[arg-type]


def made(
    problem: str,
    strategy: str,
    finals: Sequence[Right],
    steps: Sequence[AnswerStep] = (),
    *,
    repeat: int = 0,
    suite: str = "s",
    depth: int = 1,
    notes: Mapping[str, int] | None = None,
    question: str = "",
    tied: bool | None = None,
) -> Answer:
    """What a strategy made of a problem: its final answers are the last steps, or further ones that cost nothing."""
    every = list(steps)
    if [s.right for s in every[len(every) - len(finals) :]] != list(finals):
        every += [step("merge", right, 0, shown=0) for right in finals]
    counts = [s.n_tokens for s in every]
    n_tokens = None if None in counts else sum(n for n in counts if n is not None)
    return Answer(
        suite=suite,
        problem=problem,
        repeat=repeat,
        strategy=strategy,
        question=question or f"question {problem}",
        gold="g",
        steps=tuple(every),
        finals=tuple(range(len(every) - len(finals), len(every))),
        tied=len(finals) > 1 if tied is None else tied,
        n_prompt_tokens=5 if every else 0,
        n_tokens=n_tokens,
        depth=depth,
        notes=dict(notes or {}),
    )


def answer(
    name: str,
    draft: Right,
    *refined: Right,
    index: int = 0,
    suite: str = "s",
    question: str = "",
    overlong: bool = False,
) -> Answer:
    """A draft of the problem of this name, refined once for each further verdict; with none it is a first answer alone, or
    a draft that was over-long to refine."""
    first = step("solve", draft, index=index)
    steps = [first, *(step("refine", right, index=n, draft=0) for n, right in enumerate(refined))]
    strategy = "refine" if refined or overlong else "solve"
    notes = {"over-long prompts": 1} if overlong else {}
    finals = refined or (draft,)
    return made(name, strategy, finals, steps, repeat=index, suite=suite, notes=notes, question=question, tied=False)


def answers(pairs: Sequence[tuple[Right, Right]], suite: str = "s") -> list[Answer]:
    """One draft with one refinement per problem p0, p1, ..."""
    return [answer(f"p{n}", before, after, suite=suite) for n, (before, after) in enumerate(pairs)]


def drafts(name: str, *verdicts: Right, suite: str = "s") -> list[Answer]:
    """Drafts of one problem that were not refined, as with strategy = "solve"."""
    return [answer(name, right, index=n, suite=suite) for n, right in enumerate(verdicts)]


def pair(estimate: Estimate | None) -> tuple[float, int]:
    """Return an estimate's value and the number of answers that it comes from; fail for None."""
    assert estimate is not None
    return estimate.value, estimate.n


Case = tuple[Answer, Answer, Answer]


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
        made(problem, f"merge:{k}", merged, [*firsts[:k], *(step("merge", right) for right in merged)], repeat=repeat),
        made(problem, f"vote:{k}", vote, firsts[:k], repeat=repeat),
        made(problem, f"vote:{k + 1}", more, firsts, repeat=repeat),
    )


@dataclass
class SmallContextPolicy(PolicyWrapper):
    """A fake policy that skips the prompts for which `overlong` is true; `asked` lists (phase, problem) per call."""

    script: Callable[[Prompt, int, int], str]
    overlong: Callable[[Prompt], bool] = lambda _: False
    asked: list[list[tuple[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(FakePolicy(self.script))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.asked.append([(p.phase, p.problem.id) for p in prompts])
        for i, group in super().groups(prompts, n, sampling):
            yield i, () if self.overlong(prompts[i]) else group

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return None


def last_word(reply: str) -> str | None:
    """Return the answer of a reply in tests of votes: the last word, unless it is "?"."""
    word = reply.split()[-1] if reply.split() else "?"
    return None if word == "?" else word


def equal(a: str, b: str) -> bool:
    """Compare as numbers if both are, else as texts."""
    numbers = [x[0].isdigit() for x in (a, b)]
    return Fraction(a) == Fraction(b) if all(numbers) else a == b
