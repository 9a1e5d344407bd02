"""Experiential Reinforcement Learning (Shi et al., arXiv 2602.13949): after a failure, reflect on the feedback and try
again. First try, reflection and second try are reinforced, and right second tries are imitated as first tries.

The settings follow the released code: 4 tries, standardized advantages, a clip of 0.2/0.28 and a KL term, one optimizer
step, second tries that see the reflection only. Unlike there, the imitation has its own denominator, and losses are means
over tokens. docs/methods/erl.md lists all differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat

from rethink.methods.actors import Actors
from rethink.methods.metrics import accuracy
from rethink.methods.turns import by_first_try, feedback_on, following, wrong_tries
from rethink.objectives import Imitate, Objective, Update
from rethink.prompts import fill, refuse_unfilled
from rethink.types import Group, Problem, Prompt, Sample

REQUEST = (
    "Your answer is wrong. Feedback on it: {feedback}\n\nThis reflection helped with an earlier problem: {memory}\n\n"
    "Explain what went wrong, and write down what to do better in the next try. It will see your explanation, but not this "
    "answer."
)
"""Asks for a reflection on the feedback, with the last one that helped in view; our own words."""


@dataclass(frozen=True)
class ERL:
    """First tries, reflections on failures, second tries: one update per problem batch, with two parts.

    - `n_solve`: the number of first tries per problem. Each wrong one has one reflection and one second try.
    - `request`: asks for a reflection. {feedback} is the reason of the verdict; {memory} is the last reflection before
      this problem batch after which a second try was right ("none" at first).
    - `second_try_sees`: only the "reflection" (`prompts.remember`), or the whole "conversation" (`prompts.retry`).
    - `imitation_coef`: the coefficient of the imitation of right second tries; 0 is off.
    - `solve`: the objective of first tries, reflections and second tries.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("reflect", "retry")

    n_solve: int = 4
    request: str = REQUEST
    second_try_sees: Literal["reflection", "conversation"] = "reflection"
    imitation_coef: NonNegativeFloat = 1.0
    solve: Objective = Objective("standardize", kl_coef=0.001, n_steps=1)

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve, others="second tries")
        refuse_unfilled("method.request", self.request, ("feedback", "memory"))

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        memory = actors.state.setdefault("memory", "none")
        asks = [self.ask_to_reflect(actors, first, memory) for first in wrong_tries(solved)]
        reflections = by_first_try(actors.policy.sample(asks, 1))
        again = [self.ask_again(actors, reflection) for reflection in reflections.values()]
        second_tries = by_first_try(actors.rollout(again, 1))
        for key, second in second_tries.items():
            reflections[key] = replace(reflections[key], reward=second.reward)
            if second.right:
                actors.state["memory"] = actors.prompts.shorten(reflections[key].text)

        groups: list[Group] = []
        for firsts in solved:
            groups += [firsts, following(firsts, reflections), following(firsts, second_tries)]
        update = self.solve.update("solve", groups)
        if self.imitation_coef:
            update = replace(update, parts=(*update.parts, self.imitation_of(actors, solved, second_tries)))
        seconds = tuple(second_tries.values())
        yield replace(update, metrics={"first_accuracy": accuracy(solved), "second_accuracy": accuracy([seconds])})

    def imitation_of(
        self, actors: Actors, solved: Sequence[Group], second_tries: Mapping[tuple[str, int], Sample]
    ) -> Imitate:
        """Return the part that imitates right second tries as replies to the plain prompts.

        Wrong ones have weight 0 and count in the denominator, for the mean estimates E[1(y2 right) log pi(y2 | x)]."""
        imitated: list[Sample] = []
        weights: list[float] = []
        for firsts in solved:
            for second in following(firsts, second_tries):
                if second.right is not None:
                    imitated.append(actors.policy.reprompt(second, firsts[0].prompt))
                    weights.append(float(second.right))
        return Imitate(tuple(imitated), tuple(weights), self.imitation_coef)

    def ask_to_reflect(self, actors: Actors, first: Sample, memory: str) -> Prompt:
        """Return a prompt that asks what went wrong, with the verdict's reason and the memory."""
        request = fill(self.request, feedback=feedback_on(first), memory=memory)
        return actors.prompts.follow_up(first, "reflect", request)

    def ask_again(self, actors: Actors, reflection: Sample) -> Prompt:
        """Return the prompt of the second try after a reflection."""
        if self.second_try_sees == "reflection":
            return actors.prompts.ask_with_reflections(reflection, [actors.prompts.shorten(reflection.text)])
        return actors.prompts.follow_up(reflection, "retry", actors.prompts.retry)
