"""Replies of a teacher that a check by program and an inspector accept. The teacher mends the others for some rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.imitate import known_answer
from rethink.policies.base import Policy
from rethink.prompts import fill, words_of
from rethink.types import Prompt, Sample

INSPECT = (
    "{question}\n\nThis is a right solution:\n\n{solution}\n\nA teacher wrote this for a student:\n\n{reply}\n\nCompare it "
    "with the problem and with the solution: is every step, every cause of a mistake and every correction in it true? List "
    "the faults. If there are none, write only: no faults"
)
MEND = "Your text has faults:\n\n{faults}\n\nWrite the whole text again without them, in the same form."
"""Ask an inspector for faults, and the teacher to mend them, as in SuperCorrect (arXiv 2410.09008); our own words."""


Check = Callable[[int, Sample], str]
"""Takes the number of a prompt and the reply to it. Returns a fault that a program finds in the reply, or ""."""


@dataclass(frozen=True)
class Inspection:
    """How replies of a teacher are inspected.

    - `by`: who looks for faults after the check by program: the recipe's "judge", the "teacher" itself, or "nobody".
    - `rounds`: the largest number of times that the teacher writes a reply; one that still has faults is left out.
    - `ask`: the text that asks the inspector for faults; {solution} is the known answer, {reply} the teacher's reply.
    - `passed`: the words with which the inspector's reply ends if there are no faults.
    - `mend`: the text that asks the teacher to mend its {faults}.
    """

    by: Literal["judge", "teacher", "nobody"] = "teacher"
    rounds: PositiveInt = 3
    ask: str = INSPECT
    passed: str = "no faults"
    mend: str = MEND

    def __post_init__(self) -> None:
        if not words_of(self.passed):
            raise ValueError("inspection.passed must contain words")

    def replies(self, actors: Actors, asks: Sequence[Prompt], check: Check) -> list[Sample | None]:
        """Return the teacher's graded reply to each prompt, or None if it still has faults after the last round.

        The inspector reads only replies without one."""
        teacher = actors.role("teacher")
        accepted: list[Sample | None] = [None] * len(asks)
        prompts = dict(enumerate(asks))  # of the replies that are still missing
        for _ in range(self.rounds):
            replies: dict[int, Sample] = {}
            for i, group in zip(prompts, actors.rollout(list(prompts.values()), 1, teacher), strict=True):
                for reply in group:
                    replies[i] = reply
            faults = self.faults(actors, replies, check)
            prompts = {}
            for i, reply in replies.items():
                if faults[i]:
                    prompts[i] = actors.prompts.follow_up(reply, asks[i].phase, fill(self.mend, faults=faults[i]))
                else:
                    accepted[i] = reply
        return accepted

    def faults(self, actors: Actors, replies: Mapping[int, Sample], check: Check) -> dict[int, str]:
        """Return the faults of each reply, by its number; "" if there are none."""
        faults: dict[int, str] = {}
        inspected: dict[int, Prompt] = {}
        for i, reply in replies.items():
            faults[i] = check(i, reply)
            if not faults[i] and self.by != "nobody":
                faults[i] = "It is too long."  # stays if the inspector's prompt has no room for it
                values = {"solution": known_answer(reply.problem), "reply": reply.text}
                inspected[i] = actors.prompts.compose(reply.problem, "inspect", self.ask, draft=reply, **values)
        if not inspected:
            return faults
        inspector: Policy = actors.role("judge" if self.by == "judge" else "teacher")
        for i, group in zip(inspected, inspector.sample(list(inspected.values()), 1), strict=True):
            for found in group:
                passes = words_of(found.text).endswith(words_of(self.passed))
                faults[i] = "" if passes else found.text or "It was not accepted."
        return faults
