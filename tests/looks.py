"""Hand-made problems, replies and answers for the tests of the evaluation, and a policy with a narrow window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from rethink.evaluate.answers import Answer, Reply
from rethink.policies.fake import FakePolicy
from rethink.types import Group, Problem, Prompt, Sample, Sampling, Verdict

WORDS = {True: "right", False: "wrong", None: "not judged"}


def judge_marks(reply: str, _gold: str) -> Verdict:
    """By the first word: right, wrong, lucky (right by lenient extraction) or blank (no answer); else not judged."""
    mark = reply.split()[0] if reply.split() else ""
    if mark == "blank":
        return Verdict(False, "no answer", None)
    return Verdict({"right": True, "lucky": True, "wrong": False}.get(mark), "by its first word", mark, mark == "lucky")


def problem(name: str, suite: str = "s") -> Problem:
    return Problem(name, f"question {name}", f"gold {name}", judge_marks, suite=suite)


def reply(
    right: bool | None, n_tokens: int | None = 3, stop: str | None = "stop", shown: int | None = 5, **changes: object
) -> Reply:
    """A judged reply of so many tokens, to a prompt of `shown` tokens."""
    values = {
        "prompt": (("user", "q"),),
        "text": WORDS[right],
        "verdict": WORDS[right],
        "extracted": "x",
        "reason": "",
        "lenient": False,
        "stop": stop,
        "n_prompt_tokens": shown,
        "n_tokens": n_tokens,
        "seed": "0" * 16,
    }
    return Reply(**{**values, **changes})  # type: ignore[arg-type]


def answer(
    name: str, draft: bool | None, *refined: bool | None, index: int = 0, suite: str = "s", question: str = ""
) -> Answer:
    """An answer to the problem of this name, refined once for each further verdict."""
    return Answer(suite, name, index, question or f"question {name}", "g", reply(draft), tuple(map(reply, refined)))


def answers(pairs: Sequence[tuple[bool | None, bool | None]], suite: str = "s") -> list[Answer]:
    """One draft with one refinement per problem p0, p1, ..."""
    return [answer(f"p{n}", before, after, suite=suite) for n, (before, after) in enumerate(pairs)]


@dataclass
class Narrow:
    """A fake policy to which the prompts that `overlong` picks are too long; `asked` lists (phase, problem) per call."""

    script: Callable[[Prompt, int, int], str]
    overlong: Callable[[Prompt], bool] = lambda _: False
    asked: list[list[tuple[str, str]]] = field(default_factory=list)

    version = 0

    def __post_init__(self) -> None:
        self.fake = FakePolicy(self.script)

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        self.asked.append([(p.phase, p.problem.id) for p in prompts])
        groups = self.fake.sample(prompts, n, sampling)
        return [() if self.overlong(p) else group for p, group in zip(prompts, groups, strict=True)]

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return self.fake.transcribe(prompt, reply)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return None


def last_word(reply: str) -> str | None:
    """The final answer of replies in tests of votes: the last word, unless that is "?"."""
    word = reply.split()[-1] if reply.split() else "?"
    return None if word == "?" else word


def equal(a: str, b: str) -> bool:
    """As numbers where both are, else as texts."""
    numbers = [x[0].isdigit() for x in (a, b)]
    return Fraction(a) == Fraction(b) if all(numbers) else a == b
