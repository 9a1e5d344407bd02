"""Thoughts that lead to an answer which is known: the model explains it ("reverse thinking", arXiv 2505.16854)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rethink.methods.actors import Actors
from rethink.methods.imitate import known_answer
from rethink.methods.ton_thoughts import ThoughtForm
from rethink.problems.conversation import problem_cells
from rethink.types import Problem, Sample

EXPLAIN = (
    "{question}\n\nThe right answer is:\n\n{answer}\n\nThink aloud about how to get from the question to this answer, one "
    "step after the other, as if you did not know it yet. Write down the reasoning alone and leave the answer itself out."
)
"""Asks for the thought that leads to a known answer, with the requests of the paper's prompt in our own words."""


def explained(actors: Actors, problems: Sequence[Problem], form: ThoughtForm, text: str) -> Iterator[dict[str, Any]]:
    """Yield one row per problem whose known answer the policy can explain: a reply with its thought and this answer.

    `text` asks for the thought. What is left out is counted in `actors.state`."""
    answers = [known_answer(problem) for problem in problems]
    asks = []
    for problem, answer in zip(problems, answers, strict=True):
        asks.append(actors.prompts.compose(problem, "explain", text, answer=answer))
    for problem, answer, group in zip(problems, answers, actors.policy.sample(asks, 1), strict=True):
        for thought in group:
            reply = form.write(thought.text.strip(), answer)
            fault = _fault(thought, reply, form)
            if fault:
                actors.leave_out(fault)
                continue
            yield {**problem_cells(problem), "reply": reply}


def _fault(thought: Sample, reply: str, form: ThoughtForm) -> str:
    """Return why a reply with this thought must not be imitated; "" if it may be."""
    if thought.stop != "stop":
        return "thoughts that were cut"
    if form.is_skipped(reply):
        return "empty thoughts"
    if not form.fits(reply):
        return "thoughts that contain a mark"
    if not thought.problem.grade(reply).right:
        return "known answers that the verifier does not accept"
    return ""
