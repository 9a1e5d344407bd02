"""Reflect, Retry, Reward: only reflections are trained, each by its own retry, against others on the same failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.methods.actors import Actors
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.monitor import describe_groups
from rethink.types import Group, Problem, Prompt, Sample, Sampling, Verdict
from support.samples import copied, factors, gradient_of, make_trainer, reference_policy_gradient

TEXTS = Prompts("{question}", reflect="why?", retry="again!", seed=5)
Script = Callable[[Prompt, int, int], str]


def verify(reply: str, gold: str) -> Verdict:
    """Replies end with the answer; "?" cannot be graded."""
    return Verdict(None if reply == "?" else reply.split()[-1] == gold)


def make_problem(n: int, failure: str | None = None) -> Problem:
    return Problem(f"p{n}", f"{n} + 0", str(n), verify, failure=failure)


PROBLEMS = [make_problem(n) for n in range(7)]


def scripted(right: Callable[[str], bool], first: Callable[[Prompt, int], str] = lambda p, i: f"try {i} no") -> Script:
    """First tries as told, reflections that name themselves, and retries that are right where their reflection says so."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "solve":
            return first(prompt, index)
        if prompt.phase == "reflect":
            return f"thought {prompt.problem.id} {index}"
        return f"retry {index} {prompt.problem.gold if right(prompt.messages[-2].content) else 'no'}"

    return script


def only(update: Update) -> PolicyGradient:
    (part,) = update.parts
    assert isinstance(part, PolicyGradient)
    return part


def run(
    script: Script, problems: Sequence[Problem] = PROBLEMS, grading: Callable[[Sequence[Group]], list[Group]] = grade,
    **settings: Any,
) -> tuple[Update, FakePolicy]:  # fmt: skip
    policy = FakePolicy(script)
    (update,) = ReflectRetryReward(**settings).updates(Actors(policy, TEXTS, grade), problems)
    return update, policy


def by_text(part: PolicyGradient) -> dict[str, float]:
    return {s.text: w for s, w in zip(part.samples, factors(part), strict=True)}


def test_only_reflections_are_trained_and_in_full() -> None:
    """Guards against first tries, retries or requests among the trained tokens."""
    update, policy = run(scripted(lambda r: r.endswith("2")), n_reflect=5)
    part = only(update)
    assert (update.name, update.n_steps, update.on_policy) == ("reflect", 1, True)
    assert len(part.samples) == 7 * 5
    assert {s.prompt.phase for s in part.samples} == {"reflect"}
    assert all(s.text == f"thought {s.problem.id} {s.index}" for s in part.samples)
    assert all(s.n_trained == len(s.ids) == 4 for s in part.samples), "three words and the end token"
    assert [p.phase for p in policy.shown] == 7 * ["solve"] + 7 * ["reflect"] + 35 * ["retry"]
    assert part.surrogate == Clip(0.2, 0.2, None)
    assert (part.kl_coef, part.loss_aggregation) == (0.001, "token")


def test_each_reflection_is_paid_for_its_own_retry() -> None:
    """Guards against rewards that are permuted among reflections. One of eight succeeds: its reward is 1, the mean 1/8,
    the deviation sqrt(7/8 * 1/8 * 8/7) = 0.353553; advantages (7/8) / 0.353553 = 2.4749 and -0.3536."""
    lucky = {f"thought p{n} {(3 * n + 1) % 8}" for n in range(7)}
    found = by_text(only(run(scripted(lambda r: r in lucky))[0]))
    assert len(found) == 56
    for text, weight in found.items():
        assert weight == pytest.approx(2.4749 if text in lucky else -0.3536, abs=1e-4)


def test_retries_that_are_permuted_are_noticed() -> None:
    """The test above can fail: a policy that answers the retry prompts in another order gives other weights."""

    class Permuted(FakePolicy):
        def groups(
            self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
        ) -> Iterator[tuple[int, Group]]:
            for i, group in super().groups(prompts, n, sampling):
                yield (i - 1) % len(prompts) if prompts[0].phase == "retry" else i, group

    script = scripted(lambda r: r.endswith(" 3"))
    weights = []
    for policy in (FakePolicy(script), Permuted(script)):
        (update,) = ReflectRetryReward().updates(Actors(policy, TEXTS, grade), PROBLEMS)
        weights.append(by_text(only(update)))
    assert weights[0]["thought p2 3"] == pytest.approx(2.4749, abs=1e-4)
    assert weights[0] != weights[1]
    assert weights[1]["thought p2 2"] == pytest.approx(2.4749, abs=1e-4)


def test_the_retry_is_asked_in_its_reflections_conversation() -> None:
    """Guards against a retry that sees another reflection, or not the failure."""
    update, policy = run(scripted(lambda r: False), n_reflect=3)
    retries = [p for p in policy.shown if p.phase == "retry"]
    for reflection, asked in zip((s for g in update.groups for s in g), retries, strict=True):
        assert [m.content for m in asked.messages] == [
            reflection.problem.question, "try 0 no", "why?", reflection.text, "again!"
        ]  # fmt: skip
        assert [m.role for m in asked.messages] == ["user", "assistant", "user", "assistant", "user"]


def test_the_baseline_is_within_one_failed_attempt() -> None:
    """Guards against a baseline over problems, over two failures of one problem, or over first tries.

    Two failures of p2: all reflections on the first lead to success (silent), of those on the second the first one only:
    with two members +-0.7071.
    """

    def right(reflection: str) -> bool:
        return reflection.endswith("0")

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "retry" and prompt.draft is not None and prompt.draft.index == 0:
            return prompt.problem.gold
        return scripted(right)(prompt, index, version)

    update, _ = run(script, [make_problem(2)], n_reflect=2, n_tries=3, max_failures=2)
    part = only(update)
    assert [(s.prompt.draft.index if s.prompt.draft else None, s.index) for s in part.samples] == [
        (0, 0), (0, 1), (1, 0), (1, 1)
    ]  # fmt: skip
    assert part.advantages == pytest.approx((0.0, 0.0, 0.7071, -0.7071), abs=1e-4)
    assert len({s.prompt.group for s in part.samples}) == 2


@pytest.mark.parametrize("succeeds", [True, False])
def test_equal_retries_give_no_signal(succeeds: bool) -> None:
    """Guards against NaN, and against a group of failures that is punished."""
    part = only(run(scripted(lambda r: succeeds), n_reflect=3)[0])
    assert set(part.advantages) == {0.0}
    assert len(part.advantages) == 21


def test_only_failures_are_reflected_on() -> None:
    """Guards against reflections on right tries and on tries that were not graded, and more than `max_failures`."""

    def first(prompt: Prompt, index: int) -> str:
        return {"p1": "so 1", "p2": "?"}.get(prompt.problem.id, "so no" if index else f"so {prompt.problem.gold}")

    update, policy = run(scripted(lambda r: False, first), n_tries=4, max_failures=2, n_reflect=2)
    reflected = [p for p in policy.shown if p.phase == "reflect"]
    assert [(p.problem.id, p.draft.index if p.draft else None) for p in reflected] == [
        (f"p{n}", index) for n in (0, 3, 4, 5, 6) for index in (1, 2)
    ]
    assert len(update.groups) == 10


def test_no_failures_at_all_are_a_legal_empty_update(qwen: LanguageModel) -> None:
    """Guards against 0/0, against weight decay, and against a version that stands still so that the run never ends."""
    update, policy = run(scripted(lambda r: False, lambda p, i: f"so {p.problem.gold}"))
    assert only(update).samples == ()
    assert update.groups == ()
    assert {p.phase for p in policy.shown} == {"solve"}
    trainer = make_trainer(qwen, weight_decay=0.5, lr=0.1)
    before = [p.detach().clone() for p in trainer.parameters]
    assert trainer.apply(update)["loss"] == 0.0
    assert trainer.version == 1
    assert all(map(torch.equal, before, trainer.parameters))


class Skipping(FakePolicy):
    """Finds the prompts of some problems in some phases too long."""

    over = (("solve", "p0"), ("reflect", "p1"), ("retry", "thought p2 0"))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i, group in super().groups(prompts, n, sampling):
            prompt = prompts[i]
            name = prompt.messages[-2].content if prompt.phase == "retry" else prompt.problem.id
            yield i, () if (prompt.phase, name) in self.over else group


def test_skipped_prompts_leave_the_others_alone() -> None:
    """Guards against retries that slide to another reflection when a prompt was over-long.

    p2's first reflection was never retried and so not graded; of the other two one is right. Of p3's, one of three is:
    mean 1/3, deviation 0.57735.
    """
    policy = Skipping(scripted(lambda r: r.endswith("1")))
    (update,) = ReflectRetryReward(n_reflect=3).updates(Actors(policy, TEXTS, grade), PROBLEMS[:4])
    assert by_text(only(update)) == pytest.approx(
        {
            **{"thought p2 1": 0.7071, "thought p2 2": -0.7071},
            **{"thought p3 0": -0.57735, "thought p3 1": 1.1547, "thought p3 2": -0.57735},
        },
        abs=1e-4,
    )


def test_several_retries_are_averaged() -> None:
    """K = 4 retries with verdicts 1, 1, 0, 0 give 0.5; one that was not graded does not count: 1, 0, 0 give 1/3."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase != "retry":
            return scripted(lambda r: False)(prompt, index, version)
        first = prompt.messages[-2].content.endswith("0")
        return [prompt.problem.gold, prompt.problem.gold if first else "?", "no", "no"][index]

    part = only(run(script, PROBLEMS[2:3], n_reflect=2, n_retries=4)[0])
    # 1/2 and 1/3: mean 5/12, deviation sqrt(2) / 12; with two members +-0.7071, less 1e-6 / 0.118 of it.
    assert part.advantages == pytest.approx((0.7071, -0.7071), abs=1e-4)
    sevenths = only(run(script, PROBLEMS[2:3], n_reflect=2, n_retries=4, reflect=centered())[0])
    assert sevenths.advantages == pytest.approx((1 / 12, -1 / 12))


def centered() -> Any:
    return replace(ReflectRetryReward().reflect, advantage="center")


def test_shuffled_reflections_are_seen_by_another_failures_retry() -> None:
    """Guards against an ablation that changes nothing: retries see the next failure's reflections, with the same index,
    and the reflection that is paid is the one in whose place they stood."""
    update, policy = run(scripted(lambda r: r == "thought p3 1"), n_reflect=3, shuffle=True)
    retries = [p for p in policy.shown if p.phase == "retry"]
    assert [(p.problem.id, p.messages[-2].content) for p in retries] == [
        (f"p{n}", f"thought p{(n + 1) % 7} {index}") for n in range(7) for index in range(3)
    ]
    found = by_text(only(update))
    assert {text for text, weight in found.items() if weight > 0} == {"thought p2 1"}


def test_rewarded_retries_get_their_reflections_advantage() -> None:
    """Guards against an ablation that changes nothing, and against retries weighed among themselves."""
    script = scripted(lambda r: r.endswith(" 1"))
    alone = only(run(script, n_reflect=3, n_retries=2)[0])
    part = only(run(script, n_reflect=3, n_retries=2, reward_retry=True)[0])
    assert part.samples[:21] == alone.samples
    assert part.advantages[:21] == alone.advantages
    assert len(part.samples) == 21 + 42
    own = by_text(alone)
    for s, w in zip(part.samples[21:], part.advantages[21:], strict=True):
        assert s.prompt.phase == "retry"
        assert w == own[s.prompt.messages[-2].content]


def test_prepared_failures_are_used_instead_of_tries() -> None:
    """Guards against fresh tries of problems whose failures were prepared, and a failure that is retried unseen."""
    problems = [make_problem(1, "stale no"), make_problem(2), make_problem(3, "also no")]
    update, policy = run(scripted(lambda r: r.endswith("0")), problems, n_reflect=2)
    assert [p.problem.id for p in policy.shown if p.phase == "solve"] == ["p2"]
    asked = [p for p in policy.shown if p.phase == "reflect"]
    assert [(p.problem.id, p.messages[1].content) for p in asked] == [
        ("p1", "stale no"), ("p3", "also no"), ("p2", "try 0 no")
    ]  # fmt: skip
    assert [p.draft.right for p in asked if p.draft] == [False] * 3
    assert describe_groups(update.groups)["reward"] == 0.5


def test_a_prepared_failure_is_of_the_start_weights() -> None:
    """Guards against a failure that claims to be the present policy's; its reflections are."""
    policy = FakePolicy(scripted(lambda r: False))
    policy.publish(7)
    (update,) = ReflectRetryReward().updates(Actors(policy, TEXTS, grade), [make_problem(1, "stale no")])
    assert {s.prompt.draft.version for s in only(update).samples if s.prompt.draft} == {0}
    assert {s.version for s in only(update).samples} == {7}


def test_prepare_keeps_failures_only() -> None:
    """Guards against right or ungraded tries in the failure set, and against one that is new each time."""

    def first(prompt: Prompt, index: int) -> str:
        return {"p1": "so 1", "p2": "?"}.get(prompt.problem.id, "no" if index % 2 else f"so {prompt.problem.gold}")

    method = ReflectRetryReward(n_tries=6, max_failures=2)
    rows, again = (
        list(method.prepare(Actors(FakePolicy(scripted(lambda r: False, first)), TEXTS, grade), PROBLEMS[:4]))
        for _ in range(2)
    )
    assert rows == again
    assert [(row["id"], row["problem"], row["question"], row["gold"], row["failure"]) for row in rows] == [
        (f"p{n}#{index}", f"p{n}", f"{n} + 0", str(n), "no") for n in (0, 3) for index in (1, 3)
    ]
    assert list(method.prepare(Actors(FakePolicy(scripted(lambda r: False, first)), TEXTS, grade), PROBLEMS[1:2])) == []


def test_a_group_of_one_is_refused() -> None:
    """Guards against a baseline of nothing."""
    with pytest.raises(ValueError, match="n_reflect must be at least 2"):
        ReflectRetryReward(n_reflect=1)


def test_the_gradient_is_that_of_the_reflections_tokens(qwen: LanguageModel) -> None:
    """Guards against a gradient on tries, requests or retries: the trainer's equals brute force over the reflections'
    ids alone, whatever the KL term adds (nothing at the start)."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=7))
    texts = Prompts("{question}", "again", reflect="again ?", retry="again", seed=3)
    problems = [Problem(f"p{n}", f"{n} 7 5 -> 26", "26", lambda r, g: Verdict(len(r) % 2 == 0)) for n in range(5)]
    method = ReflectRetryReward(n_reflect=4)
    (update,) = method.updates(Actors(policy, texts, grade), problems)
    part = only(update)
    assert any(part.advantages)
    for s in part.samples:
        assert s.prompt_ids == qwen.chat.encode(s.prompt.messages)
        assert sum(s.mask) == len(s.ids)
    trainer = make_trainer(qwen, lambda: copied(qwen))
    numbers = trainer.apply(update)
    assert numbers["kl_to_initial_nats"] == 0.0
    module = copied(qwen).module.double()
    loss = reference_policy_gradient(module, replace(part, kl_coef=0.0))
    loss.backward()
    expected = gradient_of(module)
    for name, got in gradient_of(trainer.model.module).items():
        torch.testing.assert_close(got.double(), expected[name], rtol=1e-3, atol=1e-5)


class Toy:
    """Two reflections, useful or useless, by one number; first tries have a number of their own."""

    def __init__(self) -> None:
        self.reflect = torch.zeros(2, requires_grad=True)
        self.first = torch.zeros(2, requires_grad=True)

    @property
    def useful(self) -> float:
        return float(self.reflect.detach().softmax(0)[0])


def test_a_toy_policy_learns_the_useful_reflection() -> None:
    """Guards against a sign, and against credit for tokens other than the reflection's: P(useful) rises over 0.9 within
    200 updates, and what first tries are drawn from has no gradient at all."""
    toy, n_updates = Toy(), 0
    optimizer = torch.optim.SGD([toy.reflect, toy.first], lr=0.3)
    random = torch.Generator().manual_seed(11)

    def script(prompt: Prompt, index: int, _version: int) -> str:
        if prompt.phase == "solve":
            return "no"
        if prompt.phase == "reflect":
            return ["useful", "useless"][int(torch.multinomial(toy.reflect.detach().softmax(0), 1, generator=random))]
        return prompt.problem.gold if prompt.messages[-2].content == "useful" else "no"

    while n_updates < 200 and toy.useful < 0.9:
        update, _ = run(script, PROBLEMS[2:3])
        part = only(update)
        chosen = {"useful": 0, "useless": 1}
        log_probs = toy.reflect.log_softmax(0)
        loss = -torch.stack([w * log_probs[chosen[s.text]] for s, w in pairs(part)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        n_updates += 1
    assert toy.useful >= 0.9
    assert 5 < n_updates < 200
    assert toy.first.grad is None


def pairs(part: PolicyGradient) -> list[tuple[Sample, float]]:
    return list(zip(part.samples, factors(part), strict=True))
