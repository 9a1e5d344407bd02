"""Critiques of answers in words: by the verifier, by the policy itself, or by a teacher that knows the gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rethink.methods.actors import Actors
from rethink.prompts import fill, refuse_unfilled
from rethink.types import Prompt, Sample

REQUEST = (
    "A student wrote this solution. The right answer is: {gold}\n\nGo through the solution step by step, name each mistake "
    "and say how to mend it. If there is none, say so. End with your conclusion: right or wrong."
)
"""Asks for a critique by a stronger model that knows the answer, as in arXiv 2506.03106; our own words."""


@dataclass(frozen=True)
class Critic:
    """Who criticizes answers, and how.

    - `source`: "verifier" writes `if_right` or `if_wrong`, "policy" is the policy, asked with `prompts.critique`, and
      "teacher" the teacher, asked with `request`.
    - `if_right`: the verifier's critique of a right answer; {gold} is the gold answer, {reason} the verdict's reason.
    - `if_wrong`: that of a wrong answer.
    - `request`: asks the teacher, after the answer; {gold} is the gold answer.
    """

    source: Literal["verifier", "policy", "teacher"] = "verifier"
    if_right: str = "This solution is right. The answer is {gold}."
    if_wrong: str = "This solution is wrong. The right answer is {gold}."
    request: str = REQUEST

    def __post_init__(self) -> None:
        refuse_unfilled("critic.if_right", self.if_right, ("gold", "reason"))
        refuse_unfilled("critic.if_wrong", self.if_wrong, ("gold", "reason"))
        refuse_unfilled("critic.request", self.request, ("gold",))

    def criticize(self, actors: Actors, drafts: Sequence[Sample]) -> list[Sample]:
        """Return critiques of drafts, as replies of the policy to `prompts.critique`. The policy sees no other request.

        There is none of a draft if the critique is blank, or if its prompt is too long."""
        asks = [actors.prompts.follow_up(draft, "critique", actors.prompts.critique) for draft in drafts]
        if self.source == "policy":
            return [group[0] for group in actors.policy.sample(asks, 1) if group]
        texts = self._of_teacher(actors, drafts) if self.source == "teacher" else self._of_verifier(drafts)
        found: list[Sample] = []
        for ask, text in zip(asks, texts, strict=True):
            if text.strip():
                found.append(actors.policy.transcribe(ask, text))
        return found

    def _of_teacher(self, actors: Actors, drafts: Sequence[Sample]) -> list[str]:
        requests: list[Prompt] = []
        for draft in drafts:
            request = fill(self.request, gold=draft.problem.gold)
            requests.append(actors.prompts.follow_up(draft, "critique", request))
        return [group[0].text if group else "" for group in actors.role("teacher").sample(requests, 1)]

    def _of_verifier(self, drafts: Sequence[Sample]) -> list[str]:
        texts: list[str] = []
        for draft in drafts:
            reason = draft.verdict.reason if draft.verdict else ""
            texts.append(fill(self.if_right if draft.right else self.if_wrong, gold=draft.problem.gold, reason=reason))
        return texts
