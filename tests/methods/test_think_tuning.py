"""ThinkTuning: who is commented on and when, what is trained, and that without shaping it is GRPO, bit for bit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from rethink.methods.actors import Actors, Method
from rethink.methods.groups import Objective
from rethink.methods.grpo import GRPO
from rethink.methods.think_tuning import ThinkTuning
from rethink.models.language_model import LanguageModel
from rethink.objectives import AdvantageAwareShaping, Clip, PolicyGradient, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.training.trainer import Trainer
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, StopReason, Verdict
from support.samples import copied, factors, make_trainer

TEXTS = Prompts("{question}", "again", seed=5)
RELEASED = ThinkTuning(
    fraction=0.1, last_fraction=0.01, n_guided=17, stop_at=0.06, shaping=AdvantageAwareShaping("released")
)
NOTE = "<opinion>correct</opinion><reason>hm</reason><phrase>so {}</phrase>"


def verify(reply: str, gold: str) -> Verdict:
    return Verdict(reply.split()[-1] == gold)


PROBLEMS = [Problem(f"p{n}", f"{n} + 0", str(n), verify) for n in range(5)]


def forbidden(_name: str) -> Policy:
    raise AssertionError("the teacher was asked")


def student(prompt: Prompt, index: int, version: int) -> str:
    """Every third reply is right."""
    return f"it is {prompt.problem.gold if index % 3 == 0 else 'no'}"


def teaching(prompt: Prompt, index: int, version: int) -> str:
    return NOTE.format(prompt.problem.gold)


def run(
    method: Method, problems: Sequence[Problem] = PROBLEMS, script: Callable[[Prompt, int, int], str] = student,
    teach: Callable[[Prompt, int, int], str] = teaching, state: dict[str, Any] | None = None, cap: int = 1024,
) -> tuple[Update, FakePolicy]:  # fmt: skip
    policy, teacher = FakePolicy(script, Sampling(max_tokens=cap)), FakePolicy(teach)
    actors = Actors(policy, TEXTS, grade, lambda name: {"teacher": teacher}[name], {} if state is None else state)
    (update,) = method.updates(actors, problems)
    return update, teacher


def only(update: Update) -> PolicyGradient:
    (part,) = update.parts
    assert isinstance(part, PolicyGradient)
    return part


# What is trained


def test_spliced_replies_replace_their_originals() -> None:
    """Guards against guided replies that are added to their group, graded as they were, or trained without their mark."""
    update, teacher = run(ThinkTuning(n_solve=8, fraction=0.25))
    assert [len(g) for g in update.groups] == [8] * 5
    for group in update.groups:
        guided = [s for s in group if any(s.forced)]
        assert len(guided) == 2
        assert [s.index for s in group] == list(range(8))
        for s in guided:
            assert s.text.endswith(f"\n\nhm\n\nso {s.problem.gold}")
            assert s.right
            assert "<" not in s.text
            assert [not f for f in s.forced] == [True] * 3 + [False] * 4
    assert len(teacher.shown) == 10
    assert {p.phase for p in teacher.shown} == {"teach"}
    assert only(update).samples == tuple(s for g in update.groups for s in g)


def test_the_baseline_is_over_guided_and_unguided_replies() -> None:
    """A guided success lowers its siblings. Rewards 1,0,0,0,0: mean 0.2, deviation 0.447214; A = 1.7889 and -0.4472."""
    update, _ = run(ThinkTuning(n_solve=5, fraction=0.0), script=lambda p, i, v: "no")
    for group in update.groups:
        weights = dict(zip(map(id, only(update).samples), factors(only(update)), strict=True))
        assert sorted(weights[id(s)] for s in group) == pytest.approx([-0.4472] * 4 + [1.7889], abs=1e-4)
        assert [weights[id(s)] > 0 for s in group] == [any(s.forced) for s in group]


def test_one_part_with_the_shaped_loss() -> None:
    """Guards against guided and other tokens in parts, and so denominators, of their own, and a clip that is not theirs."""
    how = AdvantageAwareShaping("constant", 0.5, 7.0, 0.25)
    objective = Objective("standardize", 0.1, 0.3, 5.0, n_steps=3)
    update, _ = run(ThinkTuning(shaping=how, solve=objective))
    assert only(update).surrogate == replace(how, clip=Clip(0.1, 0.3, 5.0))
    assert (update.name, update.n_steps, update.on_policy) == ("solve", 3, True)
    usual = only(run(ThinkTuning())[0])
    assert usual.surrogate == AdvantageAwareShaping("aware", 0.001, 2.0, 0.01, Clip(0.2, 0.2, 3.0))
    assert (usual.kl_coef, usual.loss_aggregation) == (0.0, "token")


REFUSALS: dict[str, Callable[[Prompt, int, int], str]] = {
    "not of the form": lambda p, i, v: f"{NOTE} really",
    "over the cap": lambda p, i, v: NOTE.format("7 " * 11),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refused_feedback_leaves_the_reply_as_it_was(kind: str) -> None:
    """Guards against a reply that is dropped, cut or half spliced; the update is that of GRPO."""
    update, teacher = run(ThinkTuning(), teach=REFUSALS[kind], cap=11)
    plain, _ = run(GRPO(solve=ThinkTuning().solve), cap=11)
    assert teacher.shown
    assert update.groups == plain.groups
    assert only(update).advantages == only(plain).advantages


def test_the_teacher_answers_greedily_and_within_its_own_cap() -> None:
    """Guards against feedback that is cut at the student's cap, and feedback that is new in a resumed run."""
    asked: list[Sampling | None] = []

    class Teacher(FakePolicy):
        def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
            asked.append(sampling)
            return super().sample(prompts, n, sampling)

    actors = Actors(FakePolicy(student), TEXTS, grade, lambda _: Teacher(teaching))
    list(ThinkTuning(max_feedback_tokens=77).updates(actors, PROBLEMS))
    assert asked == [Sampling(temperature=0.0, max_tokens=77)]


# Who is chosen


def group_of(stops: Sequence[StopReason], seed: int = 3, version: int = 0) -> Group:
    asked = Prompt(PROBLEMS[2], "solve", (Message("user", "?"),), seed)
    return tuple(
        Sample(asked, i, (2,), (5, 1), (True,) * 2, (-1.0,) * 2, f"reply {i}", stop, Sampling(), version)
        for i, stop in enumerate(stops)
    )


def actors() -> Actors:
    return Actors(FakePolicy(student), TEXTS, grade)


@pytest.mark.parametrize("least", [0, 1, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("n", range(1, 17))
def test_how_many_are_chosen(n: int, share: float, least: int) -> None:
    """Guards against a fraction of all replies, of which cut ones are some: max(least, floor(e f)), at most e."""
    method = ThinkTuning(min_per_group=least)
    for e in range(n + 1):
        stops: list[StopReason] = ["stop" if (5 * i + 2) % n < e else "length" for i in range(n)]
        e = stops.count("stop")
        chosen = method.choose_replies(actors(), group_of(stops), share)
        assert len(chosen) == min(e, max(least, math.floor(e * share)))
        assert len({s.index for s in chosen}) == len(chosen)
        assert all(s.stop == "stop" for s in chosen)


def test_each_eligible_reply_is_as_likely() -> None:
    """Guards against the first, or right ones, being preferred: each of 5 in 8,000 has 1,600 +- 35.8; 4 deviations."""
    stops: tuple[StopReason, ...] = ("stop", "length", "stop", "stop", "length", "stop", "stop")
    counts = Counter(
        s.index for seed in range(8000) for s in ThinkTuning().choose_replies(actors(), group_of(stops, seed), 0.1)
    )
    assert set(counts) == {0, 2, 3, 5, 6}
    assert all(abs(count - 1600) < 144 for count in counts.values())


def test_choices_derive_from_seed_and_version() -> None:
    """Guards against a choice that is new in a resumed run, or the same in each pass over the data."""

    def chosen(version: int) -> list[int]:
        groups = [group_of(["stop"] * 11, seed, version) for seed in range(31)]
        return [ThinkTuning().choose_replies(actors(), g, 0.1)[0].index for g in groups]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)


def test_wrong_replies_only() -> None:
    """With `pick = "wrong"` nothing was ever guided: the graded copies were not found again in their groups."""
    update, _ = run(ThinkTuning(n_solve=6, pick="wrong", fraction=1.0))
    for group in update.groups:
        assert [any(s.forced) for s in group] == [i % 3 != 0 for i in range(6)]
        assert all(s.right for s in group)


# When


@pytest.mark.parametrize(
    ("method", "shares"),
    [
        # 0.1 - 0.09 t / 16 is 0.060625 at t = 7 and 0.055 at t = 8.
        (RELEASED, {0: 0.1, 7: 0.060625, 8: None, 16: None, 17: None, 1000: None}),
        (ThinkTuning(), {0: 0.25, 49: 0.05, 50: None, 1000: None}),
        (ThinkTuning(n_guided=1), {0: 0.25, 1: None}),
        (ThinkTuning(n_guided=0), {0: None}),
        (ThinkTuning(fraction=0.0, min_per_group=0), {0: None, 30: None}),
        # One per group, whatever the fraction; it once began with the second batch, at a fraction that rose.
        (ThinkTuning(fraction=0.0), {0: 0.0, 30: 0.0, 50: None}),
        (ThinkTuning(fraction=0.5, last_fraction=0.5, min_per_group=0), {0: 0.5, 49: 0.5, 50: None}),
    ],
)
def test_the_schedule(method: ThinkTuning, shares: dict[int, float | None]) -> None:
    """Guards against shaping that ends a batch early or late."""
    found = {t: method.guided_fraction(t) for t in shares}
    assert found == {t: pytest.approx(share) if share is not None else None for t, share in shares.items()}


def test_the_released_schedule_guides_eight_batches() -> None:
    """Guards against a schedule by the policy's version, and state that is not counted on when guidance is over."""
    state: dict[str, Any] = {}
    guided = [bool(run(RELEASED, state=state)[1].shown) for _ in range(20)]
    assert guided == [True] * 8 + [False] * 12
    assert state == {"n_batches": 20}


def test_the_schedule_goes_on_from_a_restored_state() -> None:
    """Guards against a resumed run that is guided anew: batch 7 is the last."""
    state: dict[str, Any] = {"n_batches": 7}
    assert run(RELEASED, state=state)[1].shown
    assert not run(RELEASED, state=state)[1].shown


# Without shaping


def coin(reply: str, _gold: str) -> Verdict:
    return Verdict(stable_hash(reply) % 2 == 1)


MODEL_PROBLEMS = [Problem(f"p{n}", f"{n} 7 5 -> 26", "26", coin) for n in range(3)]


def trained(
    model: LanguageModel, method: Method, state: dict[str, Any], role: Callable[[Literal["teacher", "initial"]], Policy]
) -> tuple[Trainer, int]:
    """After three problem batches; and how many tokens of them were forced."""
    trainer, n_forced = make_trainer(copied(model), lr=0.01), 0
    policy = LocalPolicy(trainer.model, Sampling(max_tokens=13))
    for batch in range(3):
        texts = replace(TEXTS, seed=batch)
        for update in method.updates(Actors(policy, texts, grade, role, state), MODEL_PROBLEMS):
            n_forced += sum(sum(s.forced) for g in update.groups for s in g)
            trainer.apply(update)
            policy.publish(trainer.version)
    return trainer, n_forced


OBJECTIVE = Objective("standardize", 0.2, 0.2, n_steps=2)
OFF: dict[str, tuple[ThinkTuning, int]] = {
    "the schedule is over": (ThinkTuning(5, solve=OBJECTIVE), 50),
    "no fraction": (ThinkTuning(5, fraction=0.0, min_per_group=0, solve=OBJECTIVE), 0),
    "released and over": (replace(RELEASED, n_solve=5, solve=OBJECTIVE), 8),
    "constant gamma": (ThinkTuning(5, n_guided=0, solve=OBJECTIVE, shaping=AdvantageAwareShaping("constant")), 0),
}


@pytest.mark.parametrize("kind", OFF)
def test_without_guidance_it_is_grpo_bit_for_bit(qwen: LanguageModel, kind: str) -> None:
    """Guards against a control arm that differs in its samples, its loss, or by a shaping that leaks."""
    method, n_batches = OFF[kind]
    qwen.chat.stop_ids = frozenset(range(1, 40))
    ours, _ = trained(qwen, method, {"n_batches": n_batches}, forbidden)
    grpo, _ = trained(qwen, GRPO(5, OBJECTIVE), {}, forbidden)
    assert ours.n_optimizer_steps == grpo.n_optimizer_steps >= 3
    assert all(map(torch.equal, ours.parameters, grpo.parameters))
    # And with shaping it is something else.
    teacher = LocalPolicy(copied(qwen), Sampling(max_tokens=13))
    on = ThinkTuning(5, feedback="again", separator="", max_feedback_tokens=13, solve=OBJECTIVE)
    guided, n_forced = trained(qwen, on, {}, lambda _: teacher)
    assert n_forced > 0
    assert not all(map(torch.equal, guided.parameters, grpo.parameters))
    assert all(p.isfinite().all() for p in guided.parameters)


def test_a_habit_is_taken_over_and_stays() -> None:
    """The novelty run, with a policy of one number: the chance of a phrase that only the teacher uses. It rises from
    almost nothing while guided (8 batches) and stays above that for 5 more, where the phrase is paid for."""
    logits = torch.tensor([-8.0, 8.0], requires_grad=True)  # says the phrase, does not
    optimizer = torch.optim.SGD([logits], lr=8.0)
    random, state, rates = torch.Generator().manual_seed(7), dict[str, Any](), []
    problem = replace(PROBLEMS[1], verify=lambda reply, gold: Verdict("gnarl" in reply))

    def says(prompt: Prompt, index: int, version: int) -> str:
        return "no" if int(torch.multinomial(logits.detach().softmax(0), 1, generator=random)) else "gnarl"

    for _ in range(13):
        update, _ = run(RELEASED, [problem], says, lambda p, i, v: NOTE.format("gnarl"), state)
        log_probs = logits.log_softmax(0)
        terms = []
        for s, w in zip(only(update).samples, factors(only(update)), strict=True):
            terms += [w * log_probs[0]] if any(s.forced) else [w * log_probs[int(s.text == "no")]]
        loss = -torch.stack(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(float(logits.detach().softmax(0)[0]))
    assert rates[7] > 0.5
    assert min(rates[8:]) > 0.5
