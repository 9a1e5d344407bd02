"""The instruction texts, and how problems and drafts become prompts. Every text can be replaced in a recipe.

The refine prompt never depends on whether the draft is right: its last turn is one constant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rethink.seeds import stable_hash
from rethink.types import Message, Phase, Problem, Prompt, Sample

REFINE_REVIEW = (
    "Please carefully review your previous solution. Go through every computation again in order and look for slips in "
    "arithmetic, in logic, or in reading the problem. If something is wrong, say what it is and work it out correctly. "
    "If it is right, confirm each step and explain it more clearly. Then give your refined solution and final answer."
)
"""A task-neutral review with the four requests of ThinkTwice's refine prompt (arXiv 2604.01591); our own words."""

REFLECT = (
    "You tried this and your answer was wrong. What went wrong? Explain it in a few words, so that you do better the next "
    "time."
)
"""Says that the try failed and asks for a short explanation, without gold answer or verifier message, as in Reflect,
Retry, Reward (arXiv 2505.24726); our own words."""

RETRY = "Now solve the problem again, with that in mind."
"""Asks for the retry in the same conversation; the paper's wording is not known."""

MERGE = (
    "{question}\n\nHere are candidate solutions of this problem. Some of them, or all, may be wrong.\n\n{candidates}\n\n"
    "Compare them, find their mistakes, use what is right in them, and write one complete and better solution of your own."
)
"""One prompt with all candidates, as in Generative Self-Refinement (arXiv 2509.00084); its full text is not known."""

CANDIDATE = "Candidate {n}:\n{candidate}"

EARLIER_REASONING = "Your earlier reasoning was:\n\n{reasoning}\n\nYour earlier answer was:\n\n{answer}\n\n"
"""Put before the refine instruction when the draft has a thinking part that its template would drop."""


@dataclass(frozen=True)
class PromptTexts:
    """The instruction texts. `solve` "" is the text that belongs to each problem's form of answer; `merge` holds a question
    and candidates, each written as `candidate`, with `between` between them. `show_reasoning`: see `_refine_messages`."""

    solve: str = ""
    refine: str = REFINE_REVIEW
    reflect: str = REFLECT
    retry: str = RETRY
    merge: str = MERGE
    candidate: str = CANDIDATE
    between: str = "\n\n"
    system: str = ""
    show_reasoning: bool = True

    def __post_init__(self) -> None:
        if "{question}" not in self.merge or "{candidates}" not in self.merge:
            raise ValueError("prompts.merge must contain {question} and {candidates}, the places where these go")
        if "{candidate}" not in self.candidate:
            raise ValueError("prompts.candidate must contain {candidate}, the place where one goes")
        if self.solve and "{question}" not in self.solve:
            raise ValueError("prompts.solve must contain {question}, the place where the problem goes")


@dataclass(frozen=True)
class Prompts(PromptTexts):
    """Turns problems into solve prompts and drafts into refine prompts; `seed` is that of the run and the pass."""

    think_end: str = "</think>"
    seed: int = 0

    def ask(self, problems: Sequence[Problem]) -> list[Prompt]:
        """One solve prompt per problem."""
        return [Prompt(p, "solve", self.messages(p), stable_hash(self.seed, p.id, "solve")) for p in problems]

    def ask_to_refine(self, drafts: Sequence[Sample]) -> list[Prompt]:
        """One refine prompt per draft: the problem, the draft's text without its end token, the instruction."""
        return [self._about(d, "refine") for d in drafts]

    def ask_to_reflect(self, failures: Sequence[Sample]) -> list[Prompt]:
        """One reflect prompt per failed try: the problem, the try, the request."""
        return [self._about(f, "reflect") for f in failures]

    def ask_to_retry(self, reflections: Sequence[Sample], shown: Sequence[Sample]) -> list[Prompt]:
        """One retry prompt per reflection: its conversation, with the text of the one shown, and the request."""
        return [
            Prompt(
                r.problem,
                "retry",
                (*r.prompt.messages, Message("assistant", other.text), Message("user", self.retry)),
                stable_hash(r.prompt.seed, "retry", r.index),
                draft=r.prompt.draft,
            )
            for r, other in zip(reflections, shown, strict=True)
        ]

    def ask_to_merge(self, problems: Sequence[Problem], candidates: Sequence[Sequence[str]]) -> list[Prompt]:
        """One prompt per problem, with all its candidates in the order given."""
        return [
            Prompt(p, "merge", self.messages(p, "merge", tuple(some)), stable_hash(self.seed, p.id, "merge"))
            for p, some in zip(problems, candidates, strict=True)
        ]

    def messages(self, problem: Problem, phase: Phase = "solve", shown: Sequence[str] = ()) -> tuple[Message, ...]:
        """The conversation up to the reply of a phase; `shown` as in `types.Demonstration`."""
        if phase == "solve":
            return self._first_turns(problem)
        if phase == "refine":
            return self._refine_messages(problem, shown[0])
        if phase == "merge":
            return self._merge_messages(problem, shown)
        asked = (*self._first_turns(problem), Message("assistant", shown[0]), Message("user", self.reflect))
        return asked if phase == "reflect" else (*asked, Message("assistant", shown[1]), Message("user", self.retry))

    def _about(self, reply: Sample, phase: Phase) -> Prompt:
        messages = self.messages(reply.problem, phase, (reply.text,))
        seed = stable_hash(self.seed, reply.problem.id, phase, reply.index)
        return Prompt(reply.problem, phase, messages, seed, draft=reply)

    def _merge_messages(self, problem: Problem, candidates: Sequence[str]) -> tuple[Message, ...]:
        """One turn with the problem and all candidates, without their thinking."""
        shown = [
            _fill(self.candidate, n=str(n), candidate=self._visible(c).strip())
            for n, c in enumerate(candidates, start=1)
        ]
        text = _fill(self.merge, candidates=self.between.join(shown), question=problem.question)
        return (*self._system(), Message("user", text))

    def _refine_messages(self, problem: Problem, draft: str) -> tuple[Message, ...]:
        """Three turns. Of a thinking model's draft the second shows what follows the closing marker (nothing if the
        marker is missing), as templates strip earlier thinking; the third then opens with the earlier reasoning, if
        `show_reasoning` (the rule of the released ThinkTwice)."""
        answer, instruction = self._visible(draft), self.refine
        if answer != draft and self.show_reasoning:
            reasoning = draft.partition(self.think_end)[0].replace("<think>", "").strip()
            instruction = EARLIER_REASONING.format(reasoning=reasoning, answer=answer) + instruction
        turns = (Message("assistant", answer), Message("user", instruction))
        return self._first_turns(problem) + turns

    def _visible(self, reply: str) -> str:
        """A reply without its thinking; nothing is left of one that never closed it."""
        thinks = self.think_end in reply or "<think>" in reply
        return reply.partition(self.think_end)[2].strip() if thinks else reply

    def _system(self) -> tuple[Message, ...]:
        return (Message("system", self.system),) if self.system else ()

    def _first_turns(self, problem: Problem) -> tuple[Message, ...]:
        text = self.solve or problem.solve or "{question}"
        return (*self._system(), Message("user", text.replace("{question}", problem.question)))


def _fill(text: str, **values: str) -> str:
    """The text with each {name} replaced; what comes in that way is left alone, whatever braces it holds."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)
