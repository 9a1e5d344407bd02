"""The hints of self-distillation: what the policy is shown when it judges its own replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rethink.methods.imitate import known_answer
from rethink.prompts import Prompts, fill
from rethink.types import Group, Prompt, Sample


@dataclass(frozen=True)
class Hints:
    """What the prompt with a hint shows, and its texts.

    - `shows`: "sibling" is another reply of the group that is right, the first one; "feedback" is the verifier's message
      about a wrong reply; "sibling_or_feedback" shows feedback only where there is no sibling; "sibling_and_feedback" shows
      all that there is. "solution" is the reply that the problem shows for imitation, or its gold answer.
    - `ask`: the prompt; {task} is the ordinary prompt.
    - `sibling`: the text that replaces {hint} for another reply of the group, {reply}.
    - `feedback`: the text that replaces {hint} for the verifier's {message}.
    - `solution`: the text that replaces {hint} for the solution, {reply}.

    >>> Hints(sibling=" ? {reply}", ask="{question}{hint} again").shows
    'sibling_or_feedback'
    """

    shows: Literal["sibling", "feedback", "sibling_or_feedback", "sibling_and_feedback", "solution"] = (
        "sibling_or_feedback"
    )
    ask: str = "{task}{hint}\n\nNow give your own correct solution."
    sibling: str = "\n\nThis solution is correct:\n\n{reply}"
    feedback: str = "\n\nAn earlier attempt was wrong. Feedback on it:\n\n{message}"
    solution: str = "\n\nThe correct solution:\n\n{reply}"

    def __post_init__(self) -> None:
        for name, place in (("ask", "hint"), ("sibling", "reply"), ("feedback", "message"), ("solution", "reply")):
            if f"{{{place}}}" not in getattr(self, name):
                raise ValueError(f"{name} must contain the placeholder {{{place}}}")

    def prompts(self, prompts: Prompts, groups: Sequence[Group]) -> list[tuple[Sample, Prompt]]:
        """Return the replies for which there is a hint, each with the prompt that shows it."""
        found = []
        for group in groups:
            for sample in group:
                hint = self.hint(prompts, sample, group)
                if hint:
                    found.append((sample, prompts.compose(sample.problem, "hint", self.ask, sample, hint=hint)))
        return found

    def hint(self, prompts: Prompts, sample: Sample, group: Group) -> str:
        """Return the hint for a reply, "" if there is none."""
        if self.shows == "solution":
            return fill(self.solution, reply=known_answer(sample.problem, sample.prompt.seed))
        hint = ""
        siblings = [other for other in group if other.right and other.index != sample.index]
        if siblings and self.shows != "feedback":
            hint = fill(self.sibling, reply=prompts.shorten(siblings[0].text))
        if self.shows == "sibling" or (hint and self.shows == "sibling_or_feedback"):
            return hint
        if sample.right is False and sample.verdict is not None and sample.verdict.reason:
            hint += fill(self.feedback, message=sample.verdict.reason)
        return hint
