"""The tokens of one problem batch, counted by running the recipe's method with dummy replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Update
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.problems.source import load_problems, needs_hub
from rethink.prompts import Prompts
from rethink.recipe import Recipe
from rethink.seeds import rng
from rethink.types import Demonstration, Group, Problem, Prompt, Sample, Sampling, Verdict

RIGHT, WRONG = "right", "wrong"
P_RIGHT = 0.5


@dataclass(frozen=True)
class Lengths:
    """Tokens of a question, and of a reply as a share of its cap."""

    question: int = 200
    share: float = 0.5


@dataclass(frozen=True)
class SampleRequest:
    """What a method asks a policy for at once: `n` replies to each prompt of these lengths; how many tokens the replies
    have together; and which policy it asks."""

    phase: str
    prompts: tuple[int, ...]
    n: int
    sampling: Sampling
    n_sampled: int
    role: str = "policy"


@dataclass
class BatchCounts:
    """What one problem batch asks for, and its updates."""

    requests: list[SampleRequest] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)

    @property
    def samples(self) -> Iterator[Sample]:
        """All that is trained on."""
        for update in self.updates:
            for part in update.parts:
                yield from part.samples


class CountingPolicy(FakePolicy):
    """A policy whose replies have a length, and that notes what it is asked for. A word is a token."""

    def __init__(self, recipe: Recipe, share: float, counted: BatchCounts, role: str = "policy") -> None:
        super().__init__(self._reply, recipe.sampling)
        self.share, self.counted, self.role = share, counted, role
        self.max_prompt_tokens = recipe.sampler.max_prompt_tokens
        self._cap = recipe.sampling.max_tokens
        self._encoded: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> tuple[int, ...]:
        """Most replies are the same text."""
        if text not in self._encoded:
            self._encoded[text] = super()._encode(text)
        return self._encoded[text]

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        how = sampling or self.sampling
        self._cap = how.max_tokens
        lengths: list[int] = []
        n_sampled = 0
        for i, group in super().groups(prompts, n, sampling):
            if group:
                lengths.append(min(self.max_prompt_tokens, len(group[0].prompt_ids)))
            n_sampled += sum(len(s.ids) for s in group)
            yield i, tuple(self._within(s) for s in group)
        if lengths:
            self.counted.requests.append(SampleRequest(prompts[0].phase, tuple(lengths), n, how, n_sampled, self.role))

    def _within(self, sample: Sample) -> Sample:
        return replace(sample, prompt_ids=sample.prompt_ids[: self.max_prompt_tokens])

    def _reply(self, prompt: Prompt, index: int, version: int) -> str:
        lucky = rng(prompt.seed, index, version, "plan").random() < P_RIGHT
        return _words(RIGHT if lucky else WRONG, max(1, round(self._cap * self.share) - 1))


def _words(first: str, n: int) -> str:
    return " ".join([first, *(f"w{k % 50}" for k in range(n - 1))])


def count_batch(recipe: Recipe, lengths: Lengths) -> tuple[BatchCounts, str]:
    """One problem batch, and what its problems are: those of the recipe where they are at hand, else made-up ones."""
    counted = BatchCounts()
    problems, named = problems_for(recipe, lengths)
    policy = CountingPolicy(recipe, lengths.share, counted)
    roles = {name: CountingPolicy(recipe, lengths.share, counted, name) for name in ("teacher", "initial")}
    prompts = Prompts(**asdict(recipe.prompts), seed=recipe.seed)
    actors = Actors(policy, prompts, grade, lambda name: roles[name])
    for update in recipe.build_method().updates(actors, problems):
        counted.updates.append(update)
        policy.publish(policy.version + 1)
    return counted, named


def problems_for(recipe: Recipe, lengths: Lengths) -> tuple[list[Problem], str]:
    """A batch of problems whose verdict is read off the reply, and words for the table of assumptions."""
    own: list[Problem] = []
    if not needs_hub(recipe.problems):
        try:
            own = load_problems(recipe.problems, recipe.seed)[: recipe.problems_per_batch]
        except UserError:
            own = []
    if own:
        return [replace(p, verify=_verify) for p in own], f"the first {len(own)} problems of {recipe.problems.source}"
    made = [_problem(i, lengths, recipe) for i in range(recipe.problems_per_batch)]
    return made, f"questions of {lengths.question} tokens"


def _problem(i: int, lengths: Lengths, recipe: Recipe) -> Problem:
    reply = _words(RIGHT, max(1, round(recipe.sampling.max_tokens * lengths.share) - 1))
    shown = (reply,) * int(recipe.method.get("k", 4))
    found = (Demonstration(reply), Demonstration(reply, "merge", shown))
    return Problem(f"problem-{i}", _words("q", lengths.question), RIGHT, _verify, lambda seed: found)


def _verify(reply: str, gold: str) -> Verdict:
    return Verdict(reply.startswith(RIGHT), extracted=reply[:5])
