"""The tokens of one problem batch, counted by running the recipe's method with dummy replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.run_method import run_method
from rethink.objectives import Update
from rethink.policies.edits import n_sampled
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
    """Tokens of a made-up question, and the mean length of a reply as a share of `max_tokens`."""

    question: int = 200
    reply_share: float = 0.5


@dataclass(frozen=True)
class SampleRequest:
    """One call of a policy: `n` replies to each prompt.

    `prompts` are the lengths of the prompts, `n_sampled` is the number of tokens in all replies, `role` names the policy.
    """

    phase: str
    prompts: tuple[int, ...]
    n: int
    sampling: Sampling
    n_sampled: int
    role: str = "policy"


@dataclass
class BatchCounts:
    """The sampling calls and the updates of one problem batch."""

    requests: list[SampleRequest] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)

    @property
    def samples(self) -> Iterator[Sample]:
        """All samples of all updates."""
        for update in self.updates:
            for part in update.parts:
                yield from part.samples


class CountingPolicy(FakePolicy):
    """A policy that records its calls and returns dummy replies of a given length. A word is a token."""

    def __init__(self, recipe: Recipe, reply_share: float, counted: BatchCounts, role: str = "policy") -> None:
        super().__init__(self._reply, recipe.sampling)
        self.reply_share, self.counted, self.role = reply_share, counted, role
        self.max_prompt_tokens = recipe.sampler.max_prompt_tokens
        self._cap = recipe.sampling.max_tokens
        self._encoded: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text. Most replies are equal, so they are cached."""
        if text not in self._encoded:
            self._encoded[text] = super()._encode(text)
        return self._encoded[text]

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        sampling = sampling or self.sampling
        self._cap = sampling.max_tokens
        lengths: list[int] = []
        n_sampled = 0
        for i, group in super().groups(prompts, n, sampling):
            if group:
                lengths.append(min(self.max_prompt_tokens, len(group[0].prompt_ids)))
            n_sampled += sum(len(s.ids) for s in group)
            yield i, tuple(self._truncate_prompt(s) for s in group)
        if lengths:
            request = SampleRequest(prompts[0].phase, tuple(lengths), n, sampling, n_sampled, self.role)
            self.counted.requests.append(request)

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        found = super().extend(samples, texts, sampling)
        how = sampling or self.sampling
        lengths: list[int] = []
        n_new = most = 0
        for before, after in zip(samples, found, strict=True):
            if after is not None:
                n = n_sampled(after) - n_sampled(before) + (after.stop == "stop")
                lengths.append(len(after.prompt_ids) + len(after.ids) - n)
                most = max(most, after.sampling.max_tokens - len(after.ids) + n)
                n_new += n
        if lengths:
            room = replace(how, max_tokens=most)
            self.counted.requests.append(SampleRequest("extend", tuple(lengths), 1, room, n_new, self.role))
        return found

    def _truncate_prompt(self, sample: Sample) -> Sample:
        return replace(sample, prompt_ids=sample.prompt_ids[: self.max_prompt_tokens])

    def _reply(self, prompt: Prompt, index: int, version: int) -> str:
        is_right = rng(prompt.seed, index, version, "plan").random() < P_RIGHT
        return _words(RIGHT if is_right else WRONG, max(1, round(self._cap * self.reply_share) - 1))


def _words(first: str, n: int) -> str:
    return " ".join([first, *(f"w{k % 50}" for k in range(n - 1))])


def count_batch(recipe: Recipe, lengths: Lengths) -> tuple[BatchCounts, str]:
    """Run the recipe's method on one problem batch with dummy replies. Return the counts and a description of the problems.

    The problems are the recipe's if they need no download; otherwise they are made up.
    """
    counted = BatchCounts()
    problems, description = problems_for(recipe, lengths)
    policy = CountingPolicy(recipe, lengths.reply_share, counted)
    names = ("teacher", "judge", "initial", "reference")
    roles = {name: CountingPolicy(recipe, lengths.reply_share, counted, name) for name in names}
    prompts = Prompts(**asdict(recipe.prompts), seed=recipe.seed)
    actors = Actors(policy, prompts, grade, lambda name: roles[name])
    for update in run_method(recipe.build_method(), actors, problems):
        counted.updates.append(update)
        policy.publish(policy.version + 1)
    return counted, description


def problems_for(recipe: Recipe, lengths: Lengths) -> tuple[list[Problem], str]:
    """Return a batch of problems that are graded by the reply's first word, and a description of them."""
    real: list[Problem] = []
    why = ""
    if not needs_hub(recipe.problems):
        try:
            real = load_problems(recipe.problems, recipe.seed)[: recipe.problems_per_batch]
        except UserError as err:
            why = f", because the problems cannot be read here: {err}"
    if real and len(real) < recipe.problems_per_batch:
        raise UserError(
            f"problems_per_batch is {recipe.problems_per_batch}, but there are only {len(real)} training problems"
        )
    if real:
        return [replace(p, verify=_verify) for p in real], f"the first {len(real)} problems of {recipe.problems.source}"
    made_up = [_made_up_problem(i, lengths, recipe) for i in range(recipe.problems_per_batch)]
    return made_up, f"made-up questions of {lengths.question} tokens{why}"


def _made_up_problem(i: int, lengths: Lengths, recipe: Recipe) -> Problem:
    reply = _words(RIGHT, max(1, round(recipe.sampling.max_tokens * lengths.reply_share) - 1))
    candidates = (reply,) * int(recipe.method.get("k", 4))
    demonstrations = (Demonstration(reply), Demonstration(reply, "merge", candidates))
    return Problem(f"problem-{i}", _words("q", lengths.question), RIGHT, _verify, lambda seed: demonstrations)


def _verify(reply: str, gold: str) -> Verdict:
    return Verdict(reply.startswith(RIGHT), extracted=reply[:5])
