"""Methods over a fake policy: which updates they yield, in which order, with which weights."""

from __future__ import annotations

import random
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pytest

from rethink.errors import UserError
from rethink.methods import find_method
from rethink.methods.actors import Actors, Method
from rethink.methods.advantages import ADVANTAGES, overlong_penalty
from rethink.methods.groups import Objective
from rethink.methods.grpo import GRPO
from rethink.methods.gsr import GSR
from rethink.methods.imitate import Imitation
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.methods.think_twice import ThinkTwice, pick_drafts
from rethink.objectives import Clip, Imitate, PolicyGradient, Update
from rethink.policies.fake import FakePolicy, seeded_script
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.types import Demonstration, Group, Message, Problem, Prompt, Sample, Sampling, StopReason, Verdict
from support.samples import factors

TEXTS = Prompts("{question}", "again", seed=13)


def verify(reply: str, gold: str) -> Verdict:
    """Replies begin with the answer; "?" is a reply that no verifier can grade."""
    return Verdict(None if reply == "?" else reply.split()[0] == gold)


def make_problem(number: int) -> Problem:
    return Problem(f"p{number}", f"{number} + 0", str(number), verify)


PROBLEMS = [make_problem(number) for number in range(7)]


def telling(prompt: Prompt, index: int, version: int) -> str:
    """A reply that is right in some cases and says where it came from."""
    lucky = rng(prompt.seed, index, version).random() < 0.4
    answer = prompt.problem.gold if lucky else "no"
    return f"{answer} {prompt.phase} {index} version {version}"


def sample(index: int, right: bool | None, stop: StopReason = "stop", seed: int = 3, problem: int = 2) -> Sample:
    asked = Prompt(make_problem(problem), "solve", (Message("user", "?"),), seed)
    ids = (5, 7, 1)
    drawn = Sample(asked, index, (2, 3), ids, (True,) * 3, (-0.5,) * 3, "5 7", stop, Sampling(), 0)
    return drawn.with_verdict(Verdict(right))


def group(*rights: bool | None, seed: int = 3) -> Group:
    return tuple(sample(index, right, seed=seed) for index, right in enumerate(rights))


R, W, NOT_JUDGED = True, False, None


def weights_by_index(part: PolicyGradient) -> dict[tuple[str, int], float]:
    return {(s.prompt.group, s.index): w for s, w in zip(part.samples, factors(part), strict=True)}


def run(method: Method, policy: FakePolicy, problems: Sequence[Problem] = PROBLEMS) -> list[Update]:
    """The updates of one problem batch; as in the driver, each of them changes the weights."""
    updates = []
    for update in method.updates(Actors(policy, TEXTS, grade), problems):
        updates.append(update)
        policy.publish(policy.version + 1)
    return updates


def policy_gradient(update: Update) -> PolicyGradient:
    (part,) = update.parts
    assert isinstance(part, PolicyGradient)
    return part


# The two-phase order


def test_think_twice_solves_then_refines_with_new_weights() -> None:
    """Guards against refinements drawn before the solve update (off-policy after it), and more or fewer
    updates than the paper's two."""
    policy = FakePolicy(telling)
    solve, refine = run(ThinkTwice(n_solve=3, n_refine=5), policy)
    assert (solve.name, refine.name) == ("solve", "refine")
    assert [len(g) for g in solve.groups] == 7 * [3]
    assert [len(g) for g in refine.groups] == 7 * [5]
    assert {s.version for g in solve.groups for s in g} == {0}
    assert {s.version for g in refine.groups for s in g} == {1}
    assert solve.on_policy
    assert refine.on_policy


def test_think_twice_asks_for_refinements_after_the_solve_update() -> None:
    """Guards against a generator that samples both phases before its first yield."""
    policy = FakePolicy(telling)
    updates = ThinkTwice(n_solve=3, n_refine=5).updates(Actors(policy, TEXTS, grade), PROBLEMS)
    next(updates)
    assert [prompt.phase for prompt in policy.shown] == 7 * ["solve"]
    next(updates)
    assert [prompt.phase for prompt in policy.shown] == 7 * ["solve"] + 7 * ["refine"]
    assert next(updates, None) is None


def test_think_twice_refines_one_own_draft_per_problem() -> None:
    """Guards against drafts of other problems, of the new weights, or chosen by verdict."""
    policy = FakePolicy(telling)
    solve, refine = run(ThinkTwice(n_solve=3, n_refine=5), policy)
    for number, (solved, refined) in enumerate(zip(solve.groups, refine.groups, strict=True)):
        (asked,) = {s.prompt for s in refined}
        assert asked.draft in solved
        assert asked.messages == (
            Message("user", f"{number} + 0"),
            Message("assistant", asked.draft.text),
            Message("user", "again"),
        )
        assert all(s.verdict == verify(s.text, str(number)) for s in (*solved, *refined))
    assert {s.prompt.draft.right for g in refine.groups for s in g if s.prompt.draft} == {True, False}


def test_think_twice_trains_every_sample_against_its_own_group() -> None:
    """Guards against a baseline over drafts and refinements together."""
    for update in run(ThinkTwice(n_solve=3, n_refine=5), FakePolicy(telling)):
        part = policy_gradient(update)
        assert part.samples == tuple(s for g in update.groups for s in g)
        for g in update.groups:
            mean = sum(bool(s.right) for s in g) / len(g)
            found = weights_by_index(part)
            assert [found[s.prompt.group, s.index] for s in g] == pytest.approx([bool(s.right) - mean for s in g])


def test_think_twice_survives_skipped_prompts() -> None:
    """Guards against a draft taken from an empty group, and an update that must not be empty."""
    updates = run(ThinkTwice(), SkippingPolicy(telling))
    assert [len(g) for u in updates for g in u.groups] == 7 * [0]
    assert [policy_gradient(u).samples for u in updates] == [(), ()]


class SkippingPolicy(FakePolicy):
    """Finds every prompt too long."""

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i in range(len(prompts)):
            yield i, ()


def test_grpo_is_think_twice_without_its_second_phase() -> None:
    """Guards against a control arm that differs in more than the refinement."""
    (grpo,) = run(GRPO(n_solve=5), FakePolicy(telling))
    actors = Actors(FakePolicy(telling), TEXTS, grade)
    assert next(ThinkTwice(n_solve=5).updates(actors, PROBLEMS)) == grpo


def test_objectives_are_passed_on() -> None:
    """Guards against a setting that is accepted and not used."""
    settings = Objective(
        "standardize", 0.1, 0.3, None, "sequence", "constant", constant_length=17, kl_coef=0.05, n_steps=3
    )
    (update,) = run(GRPO(n_solve=3, solve=settings), FakePolicy(telling))
    part = policy_gradient(update)
    assert part.surrogate == Clip(low=0.1, high=0.3, dual_clip=None, importance_sampling_level="sequence")
    assert (part.loss_aggregation, part.constant_length, part.kl_coef, part.coefficient, update.n_steps) == (
        "constant",
        17,
        0.05,
        1.0,
        3,
    )
    refine = run(ThinkTwice(refine=settings), FakePolicy(telling))[1]
    assert policy_gradient(refine).surrogate == part.surrogate


# Drafts


def test_drafts_are_drawn_uniformly_whatever_their_verdict() -> None:
    """Guards against the first, a right or a wrong draft being preferred."""
    n = 8000
    groups = [group(R, W, W, R, W, R, W, W, seed=seed) for seed in range(n)]
    drafts = pick_drafts(groups)
    assert [d.prompt.seed for d in drafts] == list(range(n))
    # Each of 8 has 1,000 +- 29.6; 4 standard deviations.
    counts = Counter(d.index for d in drafts)
    assert set(counts) == set(range(8))
    assert all(abs(count - 1000) < 120 for count in counts.values())
    # 3 of 8 are right: 3,000 +- 43.3.
    assert abs(sum(bool(d.right) for d in drafts) - 3000) < 174


def test_drafts_derive_from_seed_and_version() -> None:
    """Guards against a choice that is new in a resumed run, or the same in each pass over the data."""
    groups = [group(*[R] * 11, seed=seed) for seed in range(31)]
    first = pick_drafts(groups)
    assert pick_drafts(groups) == first
    assert pick_drafts(groups[::-1]) == first[::-1]
    later = [tuple(replace(s, version=1) for s in g) for g in groups]
    assert [d.index for d in pick_drafts(later)] != [d.index for d in first]


def test_a_group_without_samples_has_no_draft() -> None:
    """Guards against drafts that slide to another problem when a prompt was skipped."""
    groups = [group(R, seed=2), (), group(W, seed=5)]
    assert pick_drafts(groups) == [groups[0][0], groups[2][0]]


# Advantages


@pytest.mark.parametrize(
    ("advantage", "rewards", "expected"),
    [
        # Mean 3/8 = 0.375.
        ("center", [1, 1, 1, 0, 0, 0, 0, 0], [0.625] * 3 + [-0.375] * 5),
        # Squares 3 * 0.625^2 + 5 * 0.375^2 = 1.875, over 7 = 0.267857, root 0.517549.
        ("standardize", [1, 1, 1, 0, 0, 0, 0, 0], [1.207614] * 3 + [-0.724568] * 5),
        ("center", [1, 0], [0.5, -0.5]),
        # Squares 0.25 + 0.25 over 1, root 0.707107.
        ("standardize", [1, 0], [0.707107, -0.707107]),
        ("center", [1, 1, 1], [0.0] * 3),
        ("standardize", [1, 1, 1], [0.0] * 3),
        ("standardize", [0, 0], [0.0] * 2),
    ],
)
def test_advantages_by_hand(advantage: str, rewards: list[float], expected: list[float]) -> None:
    """Guards against a standard deviation over n, an epsilon that matters, and NaN for equal rewards."""
    found = ADVANTAGES[advantage](rewards)
    # 1e-6 beside a deviation of 0.5 shifts an advantage of 1.2 by 2.4e-6.
    assert found == pytest.approx(expected, abs=3e-6)
    assert sum(found) == pytest.approx(0, abs=1e-12)


def test_a_sample_that_was_not_graded_is_no_wrong_one() -> None:
    """Guards against a failed verifier that counts as reward 0: of right, wrong and not graded, the mean
    is 1/2 and not 1/3."""
    members = group(R, W, NOT_JUDGED)
    assert Objective().with_advantages(members) == [(members[0], 0.5), (members[1], -0.5)]
    never = replace(members[2], verdict=None, reward=None)
    assert Objective().with_advantages((*members[:2], never)) == [(members[0], 0.5), (members[1], -0.5)]
    # A baseline needs two.
    assert Objective().with_advantages(group(R, NOT_JUDGED)) == []
    assert Objective("standardize").with_advantages(group(R)) == []
    assert Objective().with_advantages(()) == []


TRUNCATED: dict[Literal["keep", "mask", "wrong"], list[float | None]] = {
    # Rewards 1 0 1 0: mean 1/2.
    "keep": [0.5, -0.5, 0.5, -0.5],
    # The same baseline, but no loss for the two that were cut.
    "mask": [0.5, -0.5, None, None],
    # Rewards 1 0 0 0: mean 1/4.
    "wrong": [0.75, -0.25, -0.25, -0.25],
}


@pytest.mark.parametrize("truncated", TRUNCATED)
def test_truncated_replies(truncated: Literal["keep", "mask", "wrong"]) -> None:
    """Guards against cut replies that are treated in silence, or leave the baseline when masked."""
    members = (sample(0, R), sample(1, W), sample(2, R, "length"), sample(3, W, "length"))
    found = {s.index: w for s, w in Objective(truncated=truncated).with_advantages(members)}
    assert [found.get(index) for index in range(4)] == TRUNCATED[truncated]


def test_rewards_count_and_not_verdicts() -> None:
    """Guards against advantages from verdicts where the reward is another number, or where there is none though the reply
    is right; and against a cut one that counts unasked."""
    rewards = [1.0, 0.5, 0.0, None]
    drawn = (sample(0, R), sample(1, R, "length"), sample(2, R), sample(3, R))
    members = tuple(replace(s, reward=r) for s, r in zip(drawn, rewards, strict=True))
    found = {s.index: w for s, w in Objective().with_advantages(members)}
    assert found == {0: 0.5, 1: 0.0, 2: -0.5}
    # Rewards 1 0 0: mean 1/3.
    found = {s.index: w for s, w in Objective(truncated="wrong").with_advantages(members)}
    assert found == pytest.approx({0: 2 / 3, 1: -1 / 3, 2: -1 / 3})


OVERLONG = [
    # (length, cap, buffer, what is lost); a buffer of 4 below a cap of 10 begins behind 6.
    *((6, 10, 4, 0.0), (7, 10, 4, 0.25), (8, 10, 4, 0.5), (10, 10, 4, 1.0), (0, 10, 4, 0.0)),
    *((10, 10, 0, 0.0), (3000, 3000, 750, 1.0), (2250, 3000, 750, 0.0), (2625, 3000, 750, 0.5)),
]


@pytest.mark.parametrize(("n_tokens", "cap", "buffer", "lost"), OVERLONG)
def test_what_a_long_reply_loses(n_tokens: int, cap: int, buffer: int, lost: float) -> None:
    """Guards against a penalty that begins at the cap, or goes on falling without end, or rewards short replies."""
    assert overlong_penalty(n_tokens, cap, buffer) == lost


def test_the_buffer_below_the_cap_counts_in_the_rewards() -> None:
    """Guards against a penalty that is added to the advantage, or replaces the verdict. Lengths 3 of a cap of 4, a buffer
    of 2: half a point is lost, by right and wrong replies alike, and none by a reply of two."""
    long = [replace(sample(index, right), sampling=Sampling(max_tokens=4)) for index, right in enumerate((R, W))]
    short = replace(long[0], index=2, ids=(5, 1))
    # Rewards 1 - 1/2, 0 - 1/2, 1: mean 1/3.
    found = {s.index: w for s, w in Objective(overlong_buffer=2).with_advantages((*long, short))}
    assert found == pytest.approx({0: 1 / 6, 1: -5 / 6, 2: 2 / 3})
    with pytest.raises(ValueError, match="overlong_buffer must be 0"):
        Objective(overlong_buffer=-1)


def test_so_many_groups_of_unequal_rewards_are_trained() -> None:
    """DAPO's dynamic sampling. Guards against silent groups that take a place, against a choice by anything but order,
    and against monitors that see the chosen groups alone."""
    silent = {1, 2, 4}

    def script(prompt: Prompt, index: int, version: int) -> str:
        number = int(prompt.problem.id[1:])
        return prompt.problem.gold if index == 0 or number in silent else "no"

    (update,) = run(GRPO(n_solve=3, max_groups=3, solve=Objective(zero_std_groups="drop")), FakePolicy(script))
    assert [s.problem.id for s in policy_gradient(update).samples] == [f"p{n}" for n in (0, 3, 5) for _ in range(3)]
    assert len(update.groups) == 7
    (update,) = run(GRPO(n_solve=3, solve=Objective(zero_std_groups="drop")), FakePolicy(script))
    assert len(policy_gradient(update).samples) == 4 * 3
    (update,) = run(GRPO(n_solve=3, max_groups=5, solve=Objective(zero_std_groups="drop")), FakePolicy(script))
    assert len(policy_gradient(update).samples) == 4 * 3
    for max_groups, kept in ((3, "keep"), (-1, "drop")):
        with pytest.raises(ValueError, match="max_groups must not be negative, and needs"):
            GRPO(max_groups=max_groups, solve=Objective(zero_std_groups=kept))  # type: ignore[arg-type]


def test_an_infinite_dual_clip_is_none() -> None:
    """A recipe has no None: a dual clip that was off came back as 3 when its config.toml was read."""
    part = policy_gradient(Objective(dual_clip=float("inf")).update("solve", [group(R, W)]))
    assert part.surrogate == Clip(0.2, 0.28, None)


def test_silent_groups_are_kept_or_dropped() -> None:
    """Guards against a group of equal rewards that leaves the denominator unasked, or stays although dropped (22)."""
    groups = [group(R, R, R, seed=2), group(R, W, seed=3), group(W, W, seed=5)]
    kept = policy_gradient(Objective().update("solve", groups))
    assert kept.advantages == (0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0)
    dropped = Objective(zero_std_groups="drop").update("solve", groups)
    assert policy_gradient(dropped).samples == groups[1]
    assert policy_gradient(dropped).advantages == (0.5, -0.5)
    assert dropped.groups == tuple(groups), "monitors see what was dropped"


def test_silence_is_about_the_rewards_that_count() -> None:
    """Guards against silence graded by verdicts, where cut replies count as wrong and make the rewards equal."""
    members = (sample(0, W), sample(1, R, "length"), sample(2, W))
    assert Objective(zero_std_groups="drop", truncated="wrong").with_advantages(members) == []
    assert len(Objective(zero_std_groups="drop", truncated="keep").with_advantages(members)) == 3


@pytest.mark.parametrize("advantage", ["center", "standardize"])
def test_a_group_is_by_itself(advantage: Literal["center", "standardize"]) -> None:
    """Guards against groups that are told apart by position: shuffling members or groups, or dropping
    members of one, leaves the advantages of all others alone."""
    groups = [group(R, W, W, seed=2), group(W, R, R, R, W, seed=3), group(R, W, seed=5)]
    objective = Objective(advantage)
    whole = weights_by_index(policy_gradient(objective.update("solve", groups)))
    assert len(whole) == 10
    shuffled = [tuple(random.Random(7).sample(g, len(g))) for g in groups[::-1]]
    assert weights_by_index(policy_gradient(objective.update("solve", shuffled))) == pytest.approx(whole)
    fewer = weights_by_index(policy_gradient(objective.update("solve", [groups[0], groups[1][:3], groups[2]])))
    others = {key: w for key, w in whole.items() if key[0] != groups[1][0].prompt.group}
    assert {key: w for key, w in fewer.items() if key in others} == pytest.approx(others)


def test_advantages_never_reward_a_wrong_sample_over_a_right_one() -> None:
    """Guards against a sign: all 3-member groups of right, wrong and not graded, by enumeration."""
    for rights in product((R, W, NOT_JUDGED), repeat=3):
        weighted = Objective("standardize").with_advantages(group(*rights))
        assert all(w >= 0 if s.right else w <= 0 for s, w in weighted)
        assert sum(w for _, w in weighted) == pytest.approx(0, abs=1e-12)


# Imitation


def demonstrating(number: int) -> Problem:
    shown = (Demonstration(f"{number}"), Demonstration(f"{number} again", "refine", ("no",)))
    return replace(make_problem(number), demonstrate=lambda seed: shown)


def test_imitation_yields_the_demonstrations() -> None:
    """Guards against refinements taught as answers to the solve prompt, and demonstrations that are left out."""
    policy = FakePolicy(telling)
    (update,) = run(Imitation(n_steps=3), policy, [demonstrating(5), demonstrating(2)])
    (part,) = update.parts
    assert isinstance(part, Imitate)
    assert (update.name, update.n_steps, part.weights) == ("imitate", 3, (1.0,) * 4)
    assert [(s.problem.id, s.prompt.phase, s.text, s.index) for s in part.samples] == [
        ("p5", "solve", "5", 0),
        ("p5", "refine", "5 again", 1),
        ("p2", "solve", "2", 0),
        ("p2", "refine", "2 again", 1),
    ]
    solve, refine = part.samples[:2]
    assert solve.prompt == TEXTS.ask([demonstrating(5)])[0]
    assert refine.prompt.messages == TEXTS.messages(demonstrating(5), "refine", ("no",))
    assert len(refine.ids) == 3, "two words and the end token"
    assert policy.shown == [], "nothing is sampled"


def test_demonstrations_derive_from_the_pass_over_the_data() -> None:
    """Guards against the same demonstrations in each pass, where a problem has many."""
    seeds: list[int] = []
    problem = replace(make_problem(3), demonstrate=lambda seed: seeds.append(seed) or ())  # type: ignore[func-returns-value]
    for texts in (TEXTS, TEXTS, replace(TEXTS, seed=17)):
        next(Imitation().updates(Actors(FakePolicy(telling), texts, grade), [problem]))
    assert seeds[0] == seeds[1] != seeds[2]


def test_imitation_needs_demonstrations() -> None:
    """Guards against an update that silently trains on nothing."""
    with pytest.raises(UserError, match="problem p3 has no demonstration to imitate; name the column"):
        run(Imitation(), FakePolicy(telling), [demonstrating(2), make_problem(3)])


# Names


NAMED: dict[str, type[Any]] = {
    "grpo": GRPO,
    "think_twice": ThinkTwice,
    "reflect_retry_reward": ReflectRetryReward,
    "think_tuning": ThinkTuning,
    "gsr": GSR,
    "imitate": Imitation,
}


@pytest.mark.parametrize(("name", "cls"), NAMED.items())
def test_methods_by_name(name: str, cls: type[Any]) -> None:
    """Guards against a name that stands for another method."""
    assert find_method(name) is cls


def test_methods_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a method that can only be added inside the package."""
    module = types.ModuleType("my_methods")
    module.Mine = GRPO  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_methods", module)
    assert find_method("my_methods:Mine") is GRPO


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "grp",
            "unknown method 'grp': use one of grpo, think_twice, reflect_retry_reward, .*, imitate, or module:Class",
        ),
        ("", "unknown method ''"),
        # Regression: a ValueError about an empty module name.
        (":Mine", "unknown method ':Mine'"),
        ("no_such_module:Mine", "cannot be imported: No module named 'no_such_module'"),
        ("rethink.methods.grpo:Mine", "has no attribute 'Mine'"),
    ],
)
def test_unknown_methods(name: str, complaint: str) -> None:
    """Guards against a traceback for a misspelt method."""
    with pytest.raises(UserError, match=complaint):
        find_method(name)


# Updates as values


@pytest.mark.parametrize("sampling", [Sampling(top_p=0.9), Sampling(temperature=0.0), Sampling(top_k=5)])
def test_policy_gradients_need_the_full_distribution(sampling: Sampling) -> None:
    """Guards against ratios that are shifted by the mass that was kept."""
    drawn = replace(sample(1, R), sampling=sampling)
    with pytest.raises(ValueError, match="needs samples of the full distribution"):
        Update("solve", (PolicyGradient((sample(0, W), drawn), (-0.5, 0.5)),))
    # Imitation does not use the sampler's log-probs.
    Update("imitate", (Imitate((drawn,), (1.0,)),))


@pytest.mark.parametrize("kind", [PolicyGradient, Imitate])
def test_weights_must_match_samples(kind: type[PolicyGradient] | type[Imitate]) -> None:
    """Guards against weights that are cut or stretched to the samples in silence."""
    with pytest.raises(ValueError, match=r"2 samples but 3 (advantages|weights)"):
        Update("solve", (kind(group(R, W), (1.0, 0.0, 0.0)),))


def test_an_update_takes_at_least_one_step() -> None:
    """Guards against an update that changes nothing but the version."""
    with pytest.raises(ValueError, match="n_steps must be at least 1, not 0"):
        Update("solve", (), n_steps=0)


# The fake policy and the grade


def test_fake_replies_are_cut_at_the_cap() -> None:
    """Guards against a fake that never shows what a real policy does: 5 words and the end token are 6 tokens."""
    for cap, words, stop in [(3, 3, "length"), (5, 5, "length"), (6, 6, "stop")]:
        policy = FakePolicy(lambda prompt, index, version: "2 3 5 7 11", Sampling(max_tokens=cap))
        ((reply,),) = policy.sample(TEXTS.ask(PROBLEMS[:1]), 1)
        assert (len(reply.ids), reply.stop) == (words, stop)
        assert len(reply.text.split()) == min(words, 5)


def test_seeded_fakes_are_right_as_often_as_told() -> None:
    """Guards against a chance that is not the one asked for, or that changes between calls."""
    script = seeded_script(0.3, lambda problem: problem.gold)
    many = [make_problem(number) for number in range(211)]
    (first, again) = (FakePolicy(script).sample(TEXTS.ask(many), 11) for _ in range(2))
    assert first == again
    # 2,321 replies: 696 right, +- 22; 4 standard deviations.
    assert abs(sum(bool(s.right) for g in grade(first) for s in g) - 696) < 89


def test_grading_leaves_everything_but_verdict_and_reward() -> None:
    """Guards against samples that are changed, mixed up or graded against another problem's gold."""
    drawn = FakePolicy(telling).sample(TEXTS.ask(PROBLEMS), 3)
    graded = grade(drawn)
    assert [[replace(s, verdict=None, reward=None) for s in g] for g in graded] == [list(g) for g in drawn]
    assert [[s.right for s in g] for g in graded] == [[s.text.split()[0] == s.problem.gold for s in g] for g in drawn]


IMPORT_WITHOUT_TORCH = """
import importlib, pkgutil, sys
sys.modules["torch"] = None
names = ["rethink.types", "rethink.prompts", "rethink.seeds", "rethink.errors"]
names += ["rethink.policies.fake", "rethink.policies.base"]
for package in ("rethink.methods", "rethink.grading", "rethink.problems", "rethink.evaluation", "rethink.strategies"):
    names += [package, *(m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."))]
for name in names:
    importlib.import_module(name)
print(*names)
"""


def test_all_but_policies_and_training_import_without_torch() -> None:
    """Guards against a method that reaches for tensors, and a command line that takes seconds to say --help."""
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = ("methods.think_twice", "problems.countdown", "evaluation.summary", "strategies.socratic")
    assert {f"rethink.{name}" for name in wanted} <= set(done.stdout.split())


def test_advantages_per_token_must_match_tokens() -> None:
    """Guards against advantages that slide over to the next sample's tokens."""
    drawn = sample(1, R)
    fits = (0.5,) * len(drawn.ids)
    Update("solve", (PolicyGradient((sample(0, W), drawn), (-0.5, fits)),))
    with pytest.raises(ValueError, match=rf"sample 1 of .* has {len(fits)} tokens but {len(fits) + 1} advantages"):
        Update("solve", (PolicyGradient((sample(0, W), drawn), (-0.5, (*fits, 0.5))),))
