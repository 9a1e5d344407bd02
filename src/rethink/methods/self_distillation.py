"""Self-distillation: the policy learns from its own distributions after a prompt that also shows a hint (SDPO, arXiv
2601.20802; OPSD, arXiv 2601.18734; SDFT, arXiv 2601.19897).

`form` "full" compares the distributions of every token (`objectives.Distill`). "sampled" gives each token the advantage
log pi(token | with hint) - log pi(token | without): on average, the gradient is that of the reverse divergence.

Differences: the texts are ours; SDPO shows a random right reply of the group, here it is the first other one; SDPO's
trust-region teacher and OPSD's bound on single terms of the divergence are left out. docs/methods/self-distillation.md
has the details.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.self_distillation_hints import Hints
from rethink.objectives import Distill, Divergence, Objective, Part, PolicyGradient, Update
from rethink.objectives.advantages import check_group_size
from rethink.settings import Probability
from rethink.types import Group, Problem, Prompt, Sample

Hinted = Sequence[tuple[Sample, Prompt]]
"""Replies, each with a prompt that shows a hint."""


@dataclass(frozen=True)
class SelfDistillation:
    """One update per problem batch: move replies towards what the policy would say with a hint.

    Replies without a hint are not distilled. The update logs the share of those with one.

    - `n_solve`: the number of replies per problem.
    - `hints`: what is shown.
    - `form`: "full" is a divergence between the policy's distributions without and with the hint; "sampled" is a policy
      gradient whose advantage is the difference of the two log-probs of the sampled token.
    - `divergence`: the settings of the "full" form.
    - `teacher`: who reads the hint: the "reference", which is the start model or the one that follows the policy
      (`training.reference_every`), or the "policy" with its present weights, which may drift away with itself.
    - `lam`: the share of GRPO: the advantage is lam A_GRPO + (1 - lam) A_teacher, or the loss a mixture of both losses.
    - `solve`: the objective of policy gradients. Its `n_steps` counts in both forms.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "4" if index == 0 else "5")  # scripted replies, no model
    >>> method = SelfDistillation(n_solve=3, hints=Hints(sibling=" Right: {reply}", ask="{question}{hint}"))
    >>> (update,) = method.updates(Actors(policy, Prompts("{question}"), grade), [problem])
    >>> [(sample.text, sample.prompt.messages[-1].content) for sample in update.parts[0].teacher_samples]
    [('5', '2 + 2? Right: 4'), ('5', '2 + 2? Right: 4')]
    """

    later_phases: ClassVar[tuple[str, ...]] = ("hint",)
    needs_reference: ClassVar[bool] = True
    uses_objective: ClassVar[bool] = False

    n_solve: PositiveInt = 8
    hints: Hints = Hints()
    form: Literal["full", "sampled"] = "full"
    divergence: Divergence = Divergence()
    teacher: Literal["policy", "reference"] = "reference"
    lam: Probability = 0.0
    solve: Objective = Objective(n_steps=1)

    def __post_init__(self) -> None:
        if self.lam or self.hints.shows == "sibling":
            check_group_size("n_solve", self.n_solve)
        if self.form == "sampled" and self.divergence != Divergence():
            raise ValueError('divergence has no effect with form = "sampled"')
        if self.form == "sampled" and self.solve.surrogate == "gmpo":
            raise ValueError(
                'form = "sampled" gives each token its own advantage, but solve.surrogate = "gmpo" has one ratio for all '
                "tokens of a reply; choose another surrogate"
            )
        if self.form == "full" and not self.lam and replace(self.solve, n_steps=1) != Objective(n_steps=1):
            raise ValueError('solve has no effect, but for n_steps, with form = "full" and lam = 0; set lam')

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        hinted = self.hints.prompts(actors.prompts, solved)
        update = self.full(actors, solved, hinted) if self.form == "full" else self.sampled(actors, solved, hinted)
        n_replies = sum(map(len, solved))
        yield replace(update, metrics={"hinted_frac": len(hinted) / n_replies} if n_replies else {})

    def full(self, actors: Actors, solved: Sequence[Group], hinted: Hinted) -> Update:
        """Return an update that compares distributions, with a part of GRPO's if it has a share."""
        samples = tuple(sample for sample, _ in hinted)
        read = tuple(actors.policy.reprompt(sample, prompt) for sample, prompt in hinted)
        parts: list[Part] = [Distill(samples, read, self.divergence, self.teacher, 1 - self.lam)]
        rewards: tuple[tuple[float, ...], ...] = ()
        if self.lam:
            update = self.solve.update("solve", solved)
            (reinforced,), rewards = update.parts, update.rewards
            assert isinstance(reinforced, PolicyGradient)
            parts.append(replace(reinforced, coefficient=self.lam))
        return Update("solve", tuple(parts), self.solve.n_steps, groups=tuple(solved), rewards=rewards)

    def sampled(self, actors: Actors, solved: Sequence[Group], hinted: Hinted) -> Update:
        """Return an update with one advantage per token."""
        teacher = actors.role("reference") if self.teacher == "reference" else actors.policy
        scores = actors.score([sample for sample, _ in hinted], teacher, [prompt for _, prompt in hinted])
        pairs: dict[tuple[str, int], tuple[Sample, tuple[float, ...]]] = {}
        for sample, advantage in self.solve.pairs(solved) if self.lam else ():
            pairs[sample.key] = sample, (self.lam * advantage,) * len(sample.ids)
        for (sample, _), teacher_T in zip(hinted, scores, strict=True):
            _, grpo_T = pairs.get(sample.key, (sample, (0.0,) * len(sample.ids)))
            mixed: list[float] = []
            for grpo, with_hint, without_hint in zip(grpo_T, teacher_T, sample.log_probs, strict=True):
                mixed.append(grpo + (1 - self.lam) * (with_hint - without_hint))
            pairs[sample.key] = sample, tuple(mixed)
        return self.solve.update_from_pairs("solve", list(pairs.values()), solved)
