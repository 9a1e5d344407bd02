"""The instruction texts, and how problems and drafts become prompts. Every text can be replaced in a recipe.

The refine prompt never depends on whether the draft is right: its last turn is one constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.seeds import stable_hash
from rethink.types import Message, Problem, Prompt, Sample

REFINE_REVIEW = (
    "Please carefully review your previous solution. Go through every computation again in order and look for slips in "
    "arithmetic, in logic, or in reading the problem. If something is wrong, say what it is and work it out correctly. "
    "If it is right, confirm each step and explain it more clearly. Then give your refined solution and final answer."
)
"""A task-neutral review with the four requests of ThinkTwice's refine prompt (arXiv 2604.01591); our own words."""

EARLIER_REASONING = "Your earlier reasoning was:\n\n{reasoning}\n\nYour earlier answer was:\n\n{answer}\n\n"
"""Put before the refine instruction when the draft has a thinking part that its template would drop."""


@dataclass(frozen=True)
class Prompts:
    """Turns problems into solve prompts and drafts into refine prompts; `seed` is that of the run and the pass.

    `solve` "" is the text that belongs to each problem's form of answer.
    """

    solve: str = ""
    refine: str = REFINE_REVIEW
    system: str = ""
    show_reasoning: bool = True
    think_end: str = "</think>"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solve and "{question}" not in self.solve:
            raise ValueError("prompts.solve must contain {question}, the place where the problem goes")

    def ask(self, problems: Sequence[Problem]) -> list[Prompt]:
        """One solve prompt per problem."""
        return [Prompt(p, "solve", self._first_turns(p), stable_hash(self.seed, p.id, "solve")) for p in problems]

    def ask_to_refine(self, drafts: Sequence[Sample]) -> list[Prompt]:
        """One refine prompt per draft: the problem, the draft's text without its end token, the instruction."""
        return [
            Prompt(
                d.problem,
                "refine",
                self.refine_messages(d.problem, d.text),
                stable_hash(self.seed, d.problem.id, "refine", d.index),
                draft=d,
            )
            for d in drafts
        ]

    def refine_messages(self, problem: Problem, draft: str) -> tuple[Message, ...]:
        """Three turns. Of a thinking model's draft the second shows what follows the closing marker (nothing if the
        marker is missing), as templates strip earlier thinking; the third then opens with the earlier reasoning, if
        `show_reasoning` (the rule of the released ThinkTwice)."""
        answer, instruction = draft, self.refine
        if self.think_end in draft or "<think>" in draft:
            reasoning, _, answer = draft.partition(self.think_end)
            if self.show_reasoning:
                reasoning = reasoning.replace("<think>", "").strip()
                earlier = EARLIER_REASONING.format(reasoning=reasoning, answer=answer.strip())
                instruction = earlier + instruction
            answer = answer.strip()
        turns = (Message("assistant", answer), Message("user", instruction))
        return self._first_turns(problem) + turns

    def _first_turns(self, problem: Problem) -> tuple[Message, ...]:
        system = (Message("system", self.system),) if self.system else ()
        text = self.solve or problem.solve or "{question}"
        return (*system, Message("user", text.replace("{question}", problem.question)))
