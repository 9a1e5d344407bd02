"""TON, Think or Not (Wang et al., arXiv 2505.16854): thoughts that are left empty at random in the cold start,
then GRPO that rewards the form of a reply and its answer. The policy learns when a thought is worth its tokens, without
a reward for short replies.

    L_cold = -mean log p(<think>T'</think><answer>S</answer> | q),   T' = empty with probability `dropout`, else T
    r      = r_format + r_outcome

Thoughts are made by `prepare`: the start model explains the known answer S ("reverse thinking"). Differences from the
release: S is graded by the problem's verifier; a mark that occurs twice breaks the form; the standard deviation has
1e-6 added to it, not 1e-4; the cold start and GRPO may share a run (`n_cold`), with one learning rate.
docs/methods/ton.md lists all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import NonNegativeInt

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.imitate import solutions, transcribed
from rethink.methods.ton_reverse_thinking import EXPLAIN, explained
from rethink.methods.ton_thoughts import ThoughtForm, describe_thoughts
from rethink.objectives import Imitate, Objective, Update
from rethink.objectives.advantages import check_group_size
from rethink.seeds import rng
from rethink.settings import Probability
from rethink.types import Problem, RewardTerm, Sample


@dataclass(frozen=True)
class TON:
    """Imitate replies whose thoughts are dropped at random, then GRPO on form and answer: one update per problem batch.

    - `n_solve`: the number of replies per problem.
    - `n_cold`: the number of problem batches of the cold start, before GRPO; with `updates` = n_cold it is the whole
      run. 0: the model has had its cold start.
    - `dropout`: the probability that a problem's thought is empty in the cold start; 0 is the ablation.
    - `format_reward`: "add" gives 1 for the form, besides the reward of the answer; "gate" gives the reward of the
      answer only to replies that have the form.
    - `form`: the marks around thought and answer.
    - `explain`: the text with which `prepare` asks for a thought; {answer} is the known answer.
    - `solve`: the objective.
    """

    n_solve: int = 8
    n_cold: NonNegativeInt = 0
    dropout: Probability = 0.5
    format_reward: Literal["add", "gate"] = "add"
    form: ThoughtForm = ThoughtForm()
    explain: str = EXPLAIN
    solve: Objective = Objective(
        "standardize", clip_low=0.2, clip_high=0.2, dual_clip=math.inf, loss_aggregation="sequence", kl_coef=0.04, n_steps=1
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_group_size("n_solve", self.n_solve)
        if self.n_cold and self.solve.kl_coef:
            raise ValueError(
                "solve.kl_coef would hold the policy to the weights before the cold start: with n_cold, set solve.kl_coef "
                "to 0; for a KL term, begin another run from the last checkpoint of the cold start, with n_cold = 0"
            )

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        batch = actors.state.get("n_batches", 0)
        actors.state["n_batches"] = batch + 1
        if batch < self.n_cold:
            yield self.cold_start(actors, problems)
            return
        groups = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        rewarded = [tuple(self.reward(sample) for sample in group) for group in groups]
        update = self.solve.update("solve", rewarded)
        yield replace(update, metrics=describe_thoughts(rewarded, self.form))

    def cold_start(self, actors: Actors, problems: Sequence[Problem]) -> Update:
        """Return an update that imitates the problems' replies, some of them with an empty thought."""
        samples: list[Sample] = []
        for problem in problems:
            samples += self.replies_with_thoughts(actors, problem)
        part = Imitate(tuple(samples), (1.0,) * len(samples))
        n_skipped = sum(self.form.is_skipped(sample.text) for sample in samples)
        return Update("cold_start", (part,), metrics={"skipped_frac": n_skipped / len(samples)})

    def replies_with_thoughts(self, actors: Actors, problem: Problem) -> list[Sample]:
        """Return the problem's replies that have the form. Which thoughts are dropped depends on the problem's id alone."""
        found: list[Sample] = []
        (ask,) = actors.prompts.ask([problem])
        for i, shown in enumerate(solutions(problem, ask.seed)):
            skipped = self.form.skip(shown.reply)
            if skipped is not None:
                is_dropped = rng(problem.id, i, "dropout").random() < self.dropout
                found.append(transcribed(actors, problem, replace(shown, reply=skipped) if is_dropped else shown, i))
        if not found:
            raise UserError(
                f"problem {problem.id} has no reply of the form {self.form.write('...', '...')} for the cold start: name "
                "the column that `rethink prepare` makes (problems.reply), or set method.n_cold = 0"
            )
        return found

    def reward(self, sample: Sample) -> Sample:
        """Return a graded sample with the reward of its form."""
        form = float(self.form.fits(sample.text))
        if sample.reward is None:
            return sample
        reward = sample.reward + form if self.format_reward == "add" else sample.reward * form
        return replace(sample, reward=reward, terms=(*sample.terms, RewardTerm("form", form)))

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield one row per problem: a reply whose thought is the explanation of the policy (the start weights)."""
        return explained(actors, problems, self.form, self.explain)
