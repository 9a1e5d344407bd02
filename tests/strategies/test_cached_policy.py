"""Samples that several strategies share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.strategies import Attempt, CachedPolicy, Setup, parse
from rethink.types import Group, Prompt, Sampling
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, problem


@dataclass
class RestlessPolicy(PolicyWrapper):
    """Never gives the same reply twice, as an endpoint may; `calls` lists (number of prompts, samples of each)."""

    overlong: Callable[[Prompt], bool] = lambda _: False
    calls: list[tuple[int, int]] = field(default_factory=list)
    asked: list[Prompt] = field(default_factory=list)

    version = 7

    def __post_init__(self) -> None:
        numbers = count()
        super().__init__(SmallContextPolicy(lambda p, i, v: f"reply {next(numbers)}", self.overlong))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.calls.append((len(prompts), n))
        self.asked += prompts
        yield from super().groups(prompts, n, sampling)


def first_answers(attempt: Attempt) -> list[str]:
    return [s.text for s in attempt.samples if s.prompt.phase == "solve"]


def test_all_strategies_start_from_the_same_candidates() -> None:
    """Guards against a difference between strategies that is one between candidates. Five are drawn at once, each strategy
    sees as many as it asks for, and none is drawn twice."""
    policy = RestlessPolicy()
    setup = Setup(CachedPolicy(policy, 5), PROMPTS)
    problems = [problem("p"), problem("q"), problem("r")]
    found = {text: parse(text).run(setup, problems) for text in ("refine", "merge:3", "vote:5", "solve:2", "vote:3")}
    assert policy.calls[0] == (3, 5)
    assert sum(p.phase == "solve" for p in policy.asked) == 3
    for n in range(3):
        drawn = first_answers(found["vote:5"][n])
        assert len(set(drawn)) == 5
        assert [first_answers(found[text][n]) for text in found] == [drawn[:1], drawn[:3], drawn, drawn[:2], drawn[:3]]
    # A strategy pays for what it was given, not for what was drawn: 3 tokens a reply, 2 of a question.
    assert [(a.n_tokens, a.n_prompt_tokens) for a in found["solve:2"]] == [(6, 2)] * 3
    assert all(len({s.prompt.group for s in a.samples}) == 1 for a in found["vote:5"])


def test_refinements_of_the_same_answer_are_shared() -> None:
    """Guards against strategies that differ in the second round although they share the first; and only first answers are
    drawn in advance: three first answers, a refinement, a second of it, and one of each other answer."""
    setup = Setup(CachedPolicy(policy := RestlessPolicy(), 3), PROMPTS)
    once, twice, voted = (parse(t).run(setup, [problem()])[0] for t in ("refine", "refine:2", "solve:3+refine+vote"))
    assert twice.samples[:2] == once.samples
    assert once.samples[1] in voted.samples
    assert policy.calls == [(1, 3), (1, 1), (1, 1), (2, 1)]


def test_different_messages_with_the_same_seed_are_not_shared() -> None:
    """Guards against an answer merged from two candidates that is used for one from four: their prompts share a seed."""
    setup = Setup(CachedPolicy(policy := RestlessPolicy(), 4), PROMPTS)
    (two,), (four,) = (parse(text).run(setup, [problem()]) for text in ("merge:2", "merge:4"))
    assert policy.calls == [(1, 4), (1, 1), (1, 1)]
    assert two.answers[0].text != four.answers[0].text


def test_only_missing_samples_are_drawn() -> None:
    """By hand: 2, then 3 more for the problem that has them, 5 for the other. Order and indices continue. The later
    ones have another seed, or a policy that repeats itself would return the first ones again. All count as one prompt."""
    policy = RestlessPolicy()
    cached = CachedPolicy(policy)
    p, q = PROMPTS.ask([problem("p"), problem("q")])
    (two,) = cached.sample([p], 2)
    (five, others), (three,) = cached.sample([p, q], 5), cached.sample([p], 3)
    assert policy.calls == [(1, 2), (1, 3), (1, 5)]
    assert five[:2] == two
    assert three == five[:3]
    assert [s.index for s in five] == [s.index for s in others] == [0, 1, 2, 3, 4]
    assert len({s.text for s in (*five, *others)}) == 10
    assert [asked.seed == p.seed for asked in policy.asked] == [True, False, False]
    assert policy.asked[2].seed == q.seed
    assert Attempt(p.problem, samples=five).n_prompt_tokens == 2
    repeating = CachedPolicy(FakePolicy(lambda p, i, v: f"{p.seed} {i}"))
    (few,), (more,) = repeating.sample([p], 2), repeating.sample([p], 5)
    assert (more[:2], len({s.text for s in more})) == (few, 5)


def test_sampling_and_seed_are_part_of_the_key() -> None:
    """Guards against greedy replies where sampled ones were asked for."""
    cached, (ask,) = CachedPolicy(RestlessPolicy()), PROMPTS.ask([problem()])
    drawn = [cached.sample([ask], 1, sampling)[0][0].text for sampling in (None, Sampling(0.0), Sampling(0.5), None)]
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]
    assert cached.sample([replace(ask, seed=3)], 1)[0][0].text not in drawn


def test_skipped_prompts_stay_skipped() -> None:
    """Guards against a prompt that is over-long for one strategy and not for the next, or is sent again."""
    policy = RestlessPolicy(lambda p: p.problem.id == "q")
    setup = Setup(CachedPolicy(policy, 3), PROMPTS)
    problems = [problem("p"), problem("q"), problem("r")]
    found = [parse(text).run(setup, problems) for text in ("vote:3", "solve:5", "refine")]
    assert [[len(first_answers(a)) for a in some] for some in found] == [[3, 0, 3], [5, 0, 5], [1, 0, 1]]
    assert [some[1].notes for some in found] == [{"over-long prompts": 1}] * 3
    assert sum(p.problem.id == "q" for p in policy.asked) == 1


def test_everything_else_is_the_wrapped_policy() -> None:
    """Guards against a wrapper that hides version or splice; a prompt that occurs twice in a call is drawn once."""
    policy = RestlessPolicy()
    cached, (ask,) = CachedPolicy(policy), PROMPTS.ask([problem()])
    assert cached.version == 7
    assert cached.transcribe(ask, "a b").text == "a b"
    assert cached.splice(cached.transcribe(ask, "a"), "b") is None
    first, second = cached.sample([ask, ask], 3)
    assert first == second
    assert policy.calls == [(1, 3)]
    assert cached.sample([], 3) == []
