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

BLIND = "Let me look at this again."
"""In place of a reflection, for the control that has none."""

RETRY = "Now solve the problem again, with that in mind."
"""Asks for the retry in the same conversation; the paper's wording is not known."""

MERGE = (
    "{question}\n\nHere are candidate solutions of this problem. Some of them, or all, may be wrong.\n\n{candidates}\n\n"
    "Compare them, find their mistakes, use what is right in them, and write one complete and better solution of your own."
)
"""One prompt with all candidates, as in Generative Self-Refinement (arXiv 2509.00084); its full text is not known."""

CANDIDATE = "Candidate {n}:\n{candidate}"
LEFT_OUT = "\n[... {n} characters left out ...]\n"
"""Stands in an over-long candidate for its middle."""

CRITIQUE = (
    "Give feedback on this solution: is each step right, and does it answer the question? Name every mistake and say how "
    "to mend it. If there is nothing to improve, write only: nothing to improve"
)
IMPROVE = "Use this feedback to write a complete, better solution with its final answer."
"""Feedback by the same model, then an answer that uses it, as in Self-Refine (arXiv 2303.17651); our own words."""

REMEMBER = "{task}\n\nEarlier tries at this problem failed. What you learned from them:\n{reflections}"
"""A new try with what was reflected on earlier ones in view, not these themselves, as in Reflexion (arXiv 2303.11366);
our own words."""

RATE = (
    "{question}\n\nHere is a solution of this problem:\n\n{candidate}\n\nIs its final answer right? Check it with care, "
    "then rate it from 0 (surely wrong) to 10 (surely right) and put the number in \\boxed{}."
)
"""Asks a judge for a number; our own words."""

SUB_QUESTION = (
    "{question}\n\nWhat has been found so far:\n{units}\n\nTo solve the problem, what should be found out next? Ask one "
    "question that can be understood and answered on its own and that has not been asked yet. Do not solve the problem. If "
    "no further question is needed, write only: no further question"
)
SUB_ANSWER = "{question}\n\nFor this problem, answer one question only, in a sentence or two: {sub_question}"
"""The two roles of Socratic-MCTS (arXiv 2506.08927), in our own words: who asks sees all that was found, who answers sees
the problem and the one question."""

EARLIER_REASONING = "Your earlier reasoning was:\n\n{reasoning}\n\nYour earlier answer was:\n\n{answer}\n\n"
"""Put before the refine instruction when the draft has a thinking part that its template would drop."""


@dataclass(frozen=True)
class PromptTexts:
    """The instruction texts. `solve` "" is the text that belongs to each problem's form of answer; `merge` holds a question
    and candidates, each written as `candidate`, with `between` between them. A candidate of more than `candidate_chars`
    characters is shown without its middle. `show_reasoning`: see `_refine_messages`. Feedback that ends with `satisfied`
    and a sub-question that is `enough` are the last ones. The control without reflections has `blind` in their place."""

    solve: str = ""
    refine: str = REFINE_REVIEW
    reflect: str = REFLECT
    blind: str = BLIND
    retry: str = RETRY
    merge: str = MERGE
    candidate: str = CANDIDATE
    between: str = "\n\n"
    candidate_chars: int = 8000
    critique: str = CRITIQUE
    improve: str = IMPROVE
    satisfied: str = "nothing to improve"
    remember: str = REMEMBER
    rate: str = RATE
    sub_question: str = SUB_QUESTION
    sub_answer: str = SUB_ANSWER
    enough: str = "no further question"
    system: str = ""
    show_reasoning: bool = True

    def __post_init__(self) -> None:
        for name, places in PLACES.items():
            text = getattr(self, name)
            for place in places:
                if f"{{{place}}}" not in text and (text or name != "solve"):
                    raise ValueError(f"prompts.{name} must contain {{{place}}}, a place that is filled in")
        if not words_of(self.satisfied):
            raise ValueError("prompts.satisfied must hold words: feedback that finds nothing to improve ends with them")
        if self.candidate_chars < 100:
            raise ValueError(f"prompts.candidate_chars must be at least 100, not {self.candidate_chars}")


PLACES = {
    "solve": ("question",),
    "merge": ("question", "candidates"),
    "candidate": ("candidate",),
    "remember": ("task", "reflections"),
    "rate": ("question", "candidate"),
    "sub_question": ("question", "units"),
    "sub_answer": ("sub_question",),
}
"""The places that each text must have."""


@dataclass(frozen=True)
class Prompts(PromptTexts):
    """Turns problems into solve prompts and drafts into refine prompts; `seed` is that of the run and the pass."""

    think_end: str = "</think>"
    seed: int = 0

    def ask(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Return one solve prompt per problem."""
        return [Prompt(p, "solve", self.messages(p), stable_hash(self.seed, p.id, "solve")) for p in problems]

    def ask_to_refine(self, drafts: Sequence[Sample]) -> list[Prompt]:
        """Return one refine prompt per draft: the problem, the draft's text without its end token, the instruction."""
        return [self._about(draft, "refine") for draft in drafts]

    def ask_to_reflect(self, failures: Sequence[Sample]) -> list[Prompt]:
        """Return one reflect prompt per failed try: the problem, the try, the request."""
        return [self._about(failure, "reflect") for failure in failures]

    def ask_to_retry(self, reflections: Sequence[Sample], shown: Sequence[Sample]) -> list[Prompt]:
        """Return one retry prompt per reflection: its conversation, with the text of the one shown, and the request."""
        prompts = []
        for reflection, other in zip(reflections, shown, strict=True):
            earlier = reflection.prompt
            turns = (Message("assistant", other.text), Message("user", self.retry))
            seed = stable_hash(earlier.seed, "retry", reflection.index)
            prompts.append(Prompt(reflection.problem, "retry", (*earlier.messages, *turns), seed, draft=earlier.draft))
        return prompts

    def follow_up(self, reply: Sample, phase: str, request: str) -> Prompt:
        """Return the conversation of a reply, with the reply and a further request."""
        turns = (Message("assistant", self._visible(reply.text)), Message("user", request))
        seed = stable_hash(reply.prompt.seed, phase, reply.index)
        return Prompt(reply.problem, phase, (*reply.prompt.messages, *turns), seed, draft=reply)

    def ask_with_reflections(self, reflection: Sample, learned: Sequence[str]) -> Prompt:
        """Return a prompt for a new try after a reflection, with all that was learned, without the tries."""
        task = self._first_turns(reflection.problem)[-1].content
        listed = "\n".join(f"- {text.strip()}" for text in learned)
        turn = Message("user", fill(self.remember, task=task, reflections=listed))
        seed = stable_hash(reflection.prompt.seed, "again", reflection.index)
        return Prompt(reflection.problem, "retry", (*self._system(), turn), seed, draft=reflection.prompt.draft)

    def ask_to_rate(self, reply: Sample) -> Prompt:
        """Return a prompt for a judge, about one candidate, without its thinking."""
        shown = self.shown(reply.text)
        turn = Message("user", fill(self.rate, question=reply.problem.question, candidate=shown))
        return Prompt(reply.problem, "rate", (turn,), stable_hash(reply.prompt.seed, "rate", reply.index), draft=reply)

    def ask_to_merge(self, problems: Sequence[Problem], candidates: Sequence[Sequence[str]]) -> list[Prompt]:
        """Return one prompt per problem, with all its candidates in the order given."""
        prompts = []
        for problem, some in zip(problems, candidates, strict=True):
            seed = stable_hash(self.seed, problem.id, "merge")
            prompts.append(Prompt(problem, "merge", self.messages(problem, "merge", some), seed))
        return prompts

    def messages(self, problem: Problem, phase: Phase = "solve", shown: Sequence[str] = ()) -> tuple[Message, ...]:
        """Return the conversation up to the reply of a phase; `shown` as in `types.Demonstration`."""
        if phase == "solve":
            return self._first_turns(problem)
        if phase == "refine":
            return self._refine_messages(problem, shown[0])
        if phase == "merge":
            return self._merge_messages(problem, shown)
        asked = (*self._first_turns(problem), Message("assistant", shown[0]), Message("user", self.reflect))
        if phase == "reflect":
            return asked
        return (*asked, Message("assistant", shown[1]), Message("user", self.retry))

    def _about(self, reply: Sample, phase: Phase) -> Prompt:
        messages = self.messages(reply.problem, phase, (reply.text,))
        seed = stable_hash(self.seed, reply.problem.id, phase, reply.index)
        return Prompt(reply.problem, phase, messages, seed, draft=reply)

    def _merge_messages(self, problem: Problem, candidates: Sequence[str]) -> tuple[Message, ...]:
        """Return one turn with the problem and all candidates, without their thinking."""
        shown = [fill(self.candidate, n=str(n), candidate=self.shown(c)) for n, c in enumerate(candidates, start=1)]
        text = fill(self.merge, candidates=self.between.join(shown), question=problem.question)
        return (*self._system(), Message("user", text))

    def _refine_messages(self, problem: Problem, draft: str) -> tuple[Message, ...]:
        """Return three turns. Of a thinking model's draft the second shows what follows the closing marker (nothing if the
        marker is missing), as templates strip earlier thinking; the third then opens with the earlier reasoning, if
        `show_reasoning` (the rule of the released ThinkTwice)."""
        answer, instruction = self._visible(draft), self.refine
        if answer != draft and self.show_reasoning:
            reasoning = draft.partition(self.think_end)[0].replace("<think>", "").strip()
            instruction = EARLIER_REASONING.format(reasoning=reasoning, answer=answer) + instruction
        return (*self._first_turns(problem), Message("assistant", answer), Message("user", instruction))

    def shown(self, candidate: str) -> str:
        """Return a candidate as a prompt shows it: without its thinking, and without its middle where it is over-long."""
        text, limit = self._visible(candidate).strip(), self.candidate_chars
        if len(text) <= limit:
            return text
        head, tail = text[: limit // 2], text[len(text) - limit // 2 :]
        return head + fill(LEFT_OUT, n=str(len(text) - len(head) - len(tail))) + tail

    def is_cut(self, candidate: str) -> bool:
        """Return whether `shown` leaves out the middle of a candidate."""
        return len(self._visible(candidate).strip()) > self.candidate_chars

    def _visible(self, reply: str) -> str:
        """Return a reply without its thinking; nothing is left of one that never closed it."""
        if self.think_end not in reply and "<think>" not in reply:
            return reply
        return reply.partition(self.think_end)[2].strip()

    def _system(self) -> tuple[Message, ...]:
        return (Message("system", self.system),) if self.system else ()

    def _first_turns(self, problem: Problem) -> tuple[Message, ...]:
        text = self.solve or problem.solve or "{question}"
        return (*self._system(), Message("user", text.replace("{question}", problem.question)))


def fill(text: str, **values: str) -> str:
    """Return the text with each {name} replaced; what comes in that way is left alone, whatever braces it holds."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def words_of(text: str) -> str:
    """Return the words of a text, without case and punctuation."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
