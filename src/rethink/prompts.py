"""Prompt texts, and prompts for every phase: solve, refine, reflect, retry, merge, ... A recipe can replace every text.

The refine text never depends on whether the draft is right. A method that tells it has texts of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.images import as_words, one_mark_each
from rethink.seeds import stable_hash
from rethink.thinking import after_thinking, split_thinking
from rethink.types import Message, Problem, Prompt, Sample

REFINE_REVIEW = (
    "Please carefully review your previous solution. Go through every computation again in order and look for slips in "
    "arithmetic, in logic, or in reading the problem. If something is wrong, say what it is and work it out correctly. "
    "If it is right, confirm each step and explain it more clearly. Then give your refined solution and final answer."
)
"""Asks for a review, with the four requests of ThinkTwice's refine prompt (arXiv 2604.01591) in our own words."""

REFLECT = (
    "You tried this and your answer was wrong. What went wrong? Explain it in a few words, so that you do better the next "
    "time."
)
"""Says that the answer was wrong and asks for a short explanation. Shows neither gold answer nor verifier message, as in
Reflect, Retry, Reward (arXiv 2505.24726); our own words."""

BLIND = "Let me look at this again."
"""Replaces the reflection in the control without reflections."""

RETRY = "Now solve the problem again, with that in mind."
"""Asks for another answer in the same conversation; the paper's wording is not known."""

MERGE = (
    "{question}\n\nHere are candidate solutions of this problem. Some of them, or all, may be wrong.\n\n{candidates}\n\n"
    "Compare them, find their mistakes, use what is right in them, and write one complete and better solution of your own."
)
"""Shows all candidates, as in Generative Self-Refinement (arXiv 2509.00084); the full text of its prompt is not known."""

CANDIDATE = "Candidate {n}:\n{candidate}"
LEFT_OUT = "\n[... {n} characters left out ...]\n"
"""Replaces the middle of an over-long candidate."""

CRITIQUE = (
    "Give feedback on this solution: is each step right, and does it answer the question? Name every mistake and say how "
    "to mend it. If there is nothing to improve, write only: nothing to improve"
)
IMPROVE = "Use this feedback to write a complete, better solution with its final answer."
"""Ask for feedback, then for an answer that uses it, as in Self-Refine (arXiv 2303.17651); our own words."""

REMEMBER = "{task}\n\nEarlier tries at this problem failed. What you learned from them:\n{reflections}"
"""Asks for another answer. Shows earlier reflections but no earlier answer, as in Reflexion (arXiv 2303.11366); our own
words."""

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
"""The two roles of Socratic-MCTS (arXiv 2506.08927), in our own words. The one that asks sees everything found so far; the
one that answers sees the problem and one question."""

EARLIER_REASONING = "Your earlier reasoning was:\n\n{reasoning}\n\nYour earlier answer was:\n\n{answer}\n\n"
"""Comes before the refine instruction if the draft has a thinking part, which chat templates would drop."""


@dataclass(frozen=True)
class PromptTexts:
    """The texts of all prompts.

    - `solve`: asks for an answer; "" is the text that belongs to each problem's answer format.
    - `refine`: asks for a review of the draft.
    - `reflect`: asks what went wrong.
    - `blind`: replaces reflections in the control without them.
    - `retry`: asks for another answer after a reflection.
    - `merge`: shows the question and all candidates, each formatted as `candidate`, joined by `between`.
    - `candidate`: shows one candidate and its number.
    - `between`: the text between two candidates.
    - `candidate_chars`: the number of characters from which a candidate is shown without its middle.
    - `critique`: asks for feedback.
    - `improve`: asks for an answer that uses the feedback.
    - `satisfied`: feedback that ends with this text is the last.
    - `remember`: asks for another answer, and shows earlier reflections.
    - `rate`: asks a judge for a number.
    - `sub_question`: asks for the next sub-question.
    - `sub_answer`: asks for the answer to a sub-question.
    - `enough`: the reply that no further sub-question is needed.
    - `system`: the system message, if not "", for problems that have none.
    - `show_reasoning`: show a draft's thinking, which chat templates drop, in the request to refine it.
    """

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
        for name, placeholders in PLACEHOLDERS.items():
            text = getattr(self, name)
            for place in placeholders:
                if f"{{{place}}}" not in text and (text or name != "solve"):
                    raise ValueError(f"prompts.{name} must contain the placeholder {{{place}}}")
        for name in ("solve", "refine", "reflect", "retry", "critique", "improve", "system", *PLACEHOLDERS):
            filled = (*PLACEHOLDERS.get(name, ()), *ALSO_FILLED.get(name, ()))
            refuse_unfilled(f"prompts.{name}", getattr(self, name), filled)
        if not words_of(self.satisfied):
            raise ValueError(
                "prompts.satisfied must contain words: feedback that finds nothing to improve ends with them"
            )
        if self.candidate_chars < 100:
            raise ValueError(f"prompts.candidate_chars must be at least 100, not {self.candidate_chars}")


PLACEHOLDERS = {
    "solve": ("question",),
    "merge": ("question", "candidates"),
    "candidate": ("candidate",),
    "remember": ("task", "reflections"),
    "rate": ("question", "candidate"),
    "sub_question": ("question", "units"),
    "sub_answer": ("sub_question",),
}
"""The placeholders that each text must contain."""

ALSO_FILLED = {"candidate": ("n",), "sub_answer": ("question",)}
"""Placeholders that a text may contain."""

NEVER_MEANT = re.compile(
    r"(?<![\\\w{}])\{(question|problem|prompt|input|draft|reply|response|candidates?|reflections?|task|units|sub_question|"
    r"feedback|critique)\}(?!\})"
)
"""Placeholders of prompts, here or in other libraries. `\\boxed{response}` is none, because a command comes before it."""

REQUESTS = {
    "reflect": ("reflect",),
    "retry": ("reflect", "retry"),
    "critique": ("critique",),
    "improve": ("critique", "improve"),
}
"""The texts that ask for a reply of a phase, each after the replies before it."""

PHASES_WITH_TEXTS = frozenset({"solve", "refine", "merge", *REQUESTS})
"""The phases that `Prompts.messages` has texts for."""

FROM_CONVERSATION = "this text has no placeholders, because the turns before it show the problem and the draft"


@dataclass(frozen=True)
class Prompts(PromptTexts):
    """Build the prompts of every phase from problems and samples.

    The texts are the settings `[prompts]`, and `thinking` is the setting `model.thinking`. `seed` derives from the run's
    seed and the pass over the problems; together with the ids of problem and draft, it gives the seed of each prompt. Raise
    ValueError for a text without a placeholder that it needs, or with one that would be shown as it is.

    >>> import rethink
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=1))
    >>> (prompt,) = rethink.Prompts(seed=3).ask(problems)
    >>> prompt.phase, prompt.messages[-1].content
    ('solve', '1 1 1 -> 3')
    """

    thinking: tuple[str, ...] = ()
    seed: int = 0

    def ask(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Return one solve prompt per problem."""
        return [Prompt(p, "solve", self.messages(p), stable_hash(self.seed, p.id, "solve")) for p in problems]

    def ask_to_refine(self, drafts: Sequence[Sample]) -> list[Prompt]:
        """Return one refine prompt per draft: the problem, the draft's text (no end token), the instruction."""
        return [self._prompt_about(draft, "refine") for draft in drafts]

    def ask_afresh(self, replies: Sequence[Sample]) -> list[Prompt]:
        """Return the solve prompt again for each reply, with another seed. It shows nothing of the reply, which is its
        `draft`: the one that the new answer replaces.
        """
        prompts = []
        for reply in replies:
            seed = stable_hash(self.seed, reply.problem.id, "fresh", reply.index)
            prompts.append(Prompt(reply.problem, "fresh", self._solve_messages(reply.problem), seed, draft=reply))
        return prompts

    def ask_to_reflect(self, failures: Sequence[Sample]) -> list[Prompt]:
        """Return one reflect prompt per wrong answer: the problem, the answer, the request."""
        return [self._prompt_about(failure, "reflect") for failure in failures]

    def ask_to_retry(self, reflections: Sequence[Sample], shown: Sequence[Sample]) -> list[Prompt]:
        """Return one retry prompt per reflection: its conversation, the text of the sample in `shown`, the request."""
        prompts = []
        for reflection, other in zip(reflections, shown, strict=True):
            earlier = reflection.prompt
            turns = (Message("assistant", self.without_thinking(other.text)), Message("user", self.retry))
            seed = stable_hash(earlier.seed, "retry", reflection.index)
            prompts.append(Prompt(reflection.problem, "retry", (*earlier.messages, *turns), seed, draft=earlier.draft))
        return prompts

    def follow_up(self, reply: Sample, phase: str, request: str) -> Prompt:
        """Return a prompt with the conversation of a reply, the reply, and a further request."""
        turns = (Message("assistant", self.without_thinking(reply.text)), Message("user", request))
        seed = stable_hash(reply.prompt.seed, phase, reply.index)
        return Prompt(reply.problem, phase, (*reply.prompt.messages, *turns), seed, draft=reply)

    def ask_with_reflections(self, reflection: Sample, reflections: Sequence[str]) -> Prompt:
        """Return a prompt for another answer after a reflection. It shows `reflections`, but no earlier answer."""
        task = self._solve_messages(reflection.problem)[-1].content
        listed = "\n".join(f"- {text.strip()}" for text in reflections)
        listed = beside_images(reflection.problem, listed)
        turn = about(reflection.problem, fill(self.remember, task=task, reflections=listed))
        seed = stable_hash(reflection.prompt.seed, "again", reflection.index)
        opening = self._opening(reflection.problem)
        return Prompt(reflection.problem, "retry", (*opening, turn), seed, draft=reflection.prompt.draft)

    def ask_to_rate(self, reply: Sample) -> Prompt:
        """Return a prompt that asks a judge to rate one candidate, shown without its thinking."""
        shown = beside_images(reply.problem, self.shorten(reply.text))
        turn = about_all(reply.problem, fill(self.rate, question=reply.problem.transcript, candidate=shown))
        return Prompt(reply.problem, "rate", (turn,), stable_hash(reply.prompt.seed, "rate", reply.index), draft=reply)

    def ask_to_merge(self, problems: Sequence[Problem], candidates: Sequence[Sequence[str]]) -> list[Prompt]:
        """Return one merge prompt per problem, with all its candidates in the given order."""
        prompts = []
        for problem, texts in zip(problems, candidates, strict=True):
            seed = stable_hash(self.seed, problem.id, "merge")
            prompts.append(Prompt(problem, "merge", self.messages(problem, "merge", texts), seed))
        return prompts

    def compose(self, problem: Problem, phase: str, text: str, draft: Sample | None = None, **values: str) -> Prompt:
        """Return a prompt of any phase: one user turn with a text of the method's own, after the turns before the question.

        {question} in the text is the question, {task} the ordinary instruction with the question, and {name} the value of
        that name. Raise UserError if a placeholder of prompts would be shown as it is. `draft`: see `Prompt`. Prompts of
        the same phase about the same draft, or the same problem, are one group: give others another phase.

        >>> from rethink.types import Verdict
        >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
        >>> Prompts("Solve {question}").compose(problem, "check", "{task} Is it {reply}?", reply="4").messages[0].content
        'Solve 2 + 2? Is it 4?'
        """
        task = self._solve_messages(problem)[-1].content
        filled = {"question": problem.question, "task": task}
        for name, value in values.items():
            filled[name] = beside_images(problem, value)
        refuse_unfilled(f"the {phase} text", text, tuple(filled))
        key = () if draft is None else draft.key
        messages = (*self._opening(problem), about(problem, fill(text, **filled)))
        return Prompt(problem, phase, messages, stable_hash(self.seed, problem.id, phase, *key), draft=draft)

    def messages(
        self, problem: Problem, phase: str = "solve", shown: Sequence[str] = (), turns: Sequence[Message] = ()
    ) -> tuple[Message, ...]:
        """Return the messages before the reply of a phase; `shown` and `turns` as in `types.Demonstration`.

        Earlier replies in `shown` are shown without their thinking, which chat templates drop (but see `show_reasoning`).
        Raise ValueError for a phase that has no prompt text, unless `turns` are given."""
        opening = self._solve_messages(problem)
        if phase == "solve" or turns:
            return (*opening, *turns)
        if phase == "refine":
            return self._refine_messages(problem, shown[0])
        if phase == "merge":
            return self._merge_messages(problem, shown)
        if phase not in REQUESTS:
            raise ValueError(f"the phase {phase!r} has no prompt text: give the turns after the solve prompt")
        messages = list(opening)
        for reply, request in zip(shown, REQUESTS[phase], strict=False):
            messages += [Message("assistant", self.without_thinking(reply)), Message("user", getattr(self, request))]
        return tuple(messages)

    def _prompt_about(self, reply: Sample, phase: str) -> Prompt:
        messages = self.messages(reply.problem, phase, (reply.text,))
        # a reply to a prompt about another one needs more than its index: each of these prompts has a reply 0
        earlier = () if reply.prompt.draft is None else (reply.prompt.seed,)
        seed = stable_hash(self.seed, reply.problem.id, phase, reply.index, *earlier)
        return Prompt(reply.problem, phase, messages, seed, draft=reply)

    def _merge_messages(self, problem: Problem, candidates: Sequence[str]) -> tuple[Message, ...]:
        """Return one turn with the problem and all candidates, shown without their thinking."""
        shown = [fill(self.candidate, n=str(n), candidate=self.shorten(c)) for n, c in enumerate(candidates, start=1)]
        listed = beside_images(problem, self.between.join(shown))
        text = fill(self.merge, candidates=listed, question=problem.question)
        return (*self._opening(problem), about(problem, text))

    def _refine_messages(self, problem: Problem, draft: str) -> tuple[Message, ...]:
        """Return the problem (with the turns before its question), the draft and the instruction.

        Chat templates strip earlier thinking, so a thinking draft is shown from the closing mark on (empty without one).
        With `show_reasoning`, the instruction then begins with the earlier reasoning, as in the released ThinkTwice.
        """
        answer, instruction = self.without_thinking(draft), self.refine
        if answer != draft and self.show_reasoning:
            reasoning = split_thinking(draft, self.thinking)[0].strip()
            instruction = EARLIER_REASONING.format(reasoning=reasoning, answer=answer) + instruction
        return (*self._solve_messages(problem), Message("assistant", answer), Message("user", instruction))

    def shorten(self, candidate: str) -> str:
        """Return a candidate without its thinking, and without its middle if it is over-long."""
        text, limit = self.without_thinking(candidate).strip(), self.candidate_chars
        if len(text) <= limit:
            return text
        head, tail = text[: limit // 2], text[len(text) - limit // 2 :]
        return head + fill(LEFT_OUT, n=str(len(text) - len(head) - len(tail))) + tail

    def is_cut(self, candidate: str) -> bool:
        """Return whether `shorten` leaves out the middle of a candidate."""
        return len(self.without_thinking(candidate).strip()) > self.candidate_chars

    def is_satisfied(self, critique: str) -> bool:
        """Return whether a critique ends with `satisfied`: it finds nothing to improve."""
        return f" {words_of(self.shorten(critique))}".endswith(f" {words_of(self.satisfied)}")

    def without_thinking(self, reply: str) -> str:
        """Return a reply without its thinking, as verifiers read it; "" if the thinking never ends."""
        answer = after_thinking(reply, self.thinking)
        return reply if answer == reply else answer.strip()

    def _opening(self, problem: Problem) -> tuple[Message, ...]:
        """Return the turns before the question: the problem's own, and a system message if they have none."""
        has_system = any(turn.role == "system" for turn in problem.earlier)
        return problem.earlier if has_system or not self.system else (Message("system", self.system), *problem.earlier)

    def _solve_messages(self, problem: Problem) -> tuple[Message, ...]:
        text = self.solve or problem.solve or "{question}"
        return (*self._opening(problem), about(problem, text.replace("{question}", problem.question)))


def about(problem: Problem, text: str) -> Message:
    """Return a turn of the user with a text that shows the problem's question, and its images."""
    return Message("user", one_mark_each(text, len(problem.images)), problem.images)


def about_all(problem: Problem, text: str) -> Message:
    """Return a turn of the user with a text that shows the problem's whole transcript, and all its images."""
    return Message("user", one_mark_each(text, len(problem.all_images)), problem.all_images)


def beside_images(problem: Problem, text: str) -> str:
    """Return a text, such as a reply, to show beside the problem's question. Marks in it stand for no image."""
    return as_words(text) if problem.all_images else text


def refuse_unfilled(name: str, text: str, filled: Sequence[str]) -> None:
    """Raise UserError if a text contains a placeholder of prompts that is not among those that are filled in."""
    for place in NEVER_MEANT.findall(text):
        if place not in filled:
            others = f"only {', '.join(f'{{{p}}}' for p in filled)} is filled in" if filled else FROM_CONVERSATION
            raise UserError(f"{name} would show {{{place}}} as it is: {others}")


def fill(text: str, **values: str) -> str:
    """Return the text with each {name} replaced. Braces in inserted values are left alone."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def words_of(text: str) -> str:
    """Return the words of a text in lower case, without punctuation."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
