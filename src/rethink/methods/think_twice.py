"""ThinkTwice (Jiao et al., arXiv 2604.01591): solve, then refine one of these drafts, with the same binary reward.

Where the released code differs from the paper, the defaults follow the code: the advantage is centered, not
standardized; the clip is 0.2/0.28 with a dual clip of 3; there is no KL term. Unlike the release, optimizer steps split
the samples by whole groups, the token mean is over the optimizer step, decoding stops at max_tokens, and each problem has
exactly one draft, without its end token. docs/methods/think-twice.md lists all differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rethink.methods.actors import Actors
from rethink.objectives import Objective, Update
from rethink.prompts import Prompts, refuse_unfilled
from rethink.seeds import rng
from rethink.types import Group, Problem, Prompt, Sample

Pick = Literal["any", "wrong_first", "right_first"]


@dataclass(frozen=True)
class ThinkTwice:
    """Two updates per problem batch: first answers, then refinements of one draft per problem.

    The drafts come from the weights before the first update, the refinements from those after it.

    - `n_solve`: the number of first answers per problem.
    - `n_refine`: the number of refinements of each draft.
    - `solve`, `refine`: the objectives of the two updates.
    - `pick`: the draft to refine: "any" is a random one, "wrong_first" a random wrong one if there is one, and
      "right_first" a random right one if there is one.
    - `if_right`: asks for a refinement of a right draft, in place of `prompts.refine`, so that the prompt states the
      verdict; "" keeps `prompts.refine`.
    - `if_wrong`: the same for a wrong draft.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "4" if index == 0 else "5")  # scripted replies, no model
    >>> method = ThinkTwice(n_solve=4, n_refine=2)
    >>> for update in method.updates(Actors(policy, Prompts("{question}", "again"), grade), [problem]):
    ...     print(update.name, update.parts[0].advantages)
    solve (0.75, -0.25, -0.25, -0.25)
    refine (0.5, -0.5)
    """

    later_phases: ClassVar[tuple[str, ...]] = ("refine",)

    n_solve: int = 8
    n_refine: int = 8
    solve: Objective = Objective()
    refine: Objective = Objective()
    pick: Pick = "any"
    if_right: str = ""
    if_wrong: str = ""

    def __post_init__(self) -> None:
        refuse_unfilled("if_right", self.if_right, ())
        refuse_unfilled("if_wrong", self.if_wrong, ())
        self.solve.check_group_size("n_solve", self.n_solve)
        self.refine.check_group_size("n_refine", self.n_refine)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        drafts = pick_drafts(solved, self.pick)  # before the update
        yield self.solve.update("solve", solved)
        # from here on the policy has new weights
        asks = [self.ask_to_refine(actors.prompts, draft) for draft in drafts]
        refined = actors.rollout(asks, self.n_refine)
        yield self.refine.update("refine", refined)

    def ask_to_refine(self, prompts: Prompts, draft: Sample) -> Prompt:
        """Return the refine prompt of a draft, with the text for its verdict if there is one."""
        text = ""
        if draft.right is not None:
            text = self.if_right if draft.right else self.if_wrong
        (prompt,) = replace(prompts, refine=text or prompts.refine).ask_to_refine([draft])
        return prompt


def pick_drafts(groups: Sequence[Group], pick: Pick = "any") -> list[Sample]:
    """Return one random sample of each group, of all or of those that come first; no sample of an empty group.

    With "any", the sample may be right, wrong or cut. The choice derives from the group's seed and the policy's version."""
    drafts: list[Sample] = []
    for group in groups:
        wanted = [sample for sample in group if pick == "any" or sample.right is (pick == "right_first")]
        if group:
            drafts.append(rng(group[0].prompt.seed, group[0].version, "draft").choice(wanted or group))
    return drafts
