"""ThinkTuning: which replies get feedback and when, what is trained, and that without feedback it is GRPO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.methods.actors import Actors, Method
from rethink.methods.grpo import GRPO
from rethink.methods.think_tuning import ThinkTuning
from rethink.models.language_model import LanguageModel
from rethink.objectives import AdvantageAwareShaping, Clip, Objective, Shaping, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.recipe import load_recipe
from rethink.training.trainer import Trainer
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, StopReason
from support.coins import coin
from support.method_runs import PROBLEMS, Script, only_part, run_batch
from support.samples import copied, factors, make_trainer

TEXTS = Prompts("{question}", "again", seed=5)
RELEASED = ThinkTuning(
    n_solve=5, fraction=0.1, last_fraction=0.01, n_guided=17, stop_at=0.06, min_per_group=1,
    shaping=Shaping("released"),
)  # fmt: skip
NOTE = "<opinion>correct</opinion><reason>hm</reason><phrase>so {}</phrase>"


def student(prompt: Prompt, index: int, version: int) -> str:
    """Every third reply is right."""
    return f"it is {prompt.problem.gold if index % 3 == 0 else 'no'}"


def teach(prompt: Prompt, index: int, version: int) -> str:
    return NOTE.format(prompt.problem.gold)


def run(
    method: Method, script: Script = student, teach: Script = teach, state: dict[str, Any] | None = None, cap: int = 1024,
    problems: Sequence[Problem] = PROBLEMS,
) -> tuple[Update, FakePolicy]:  # fmt: skip
    policy, teacher = FakePolicy(script, Sampling(max_tokens=cap)), FakePolicy(teach)
    (update,) = run_batch(method, policy, TEXTS, problems, {"teacher": teacher}.__getitem__, state)
    return update, teacher


def test_replies_with_feedback_replace_the_originals() -> None:
    """Guards against guided replies that are added to their group, keep their old verdict, or have no forced tokens."""
    update, teacher = run(ThinkTuning(n_solve=8, fraction=0.25))
    for group in update.groups:
        assert [s.index for s in group] == list(range(8))
        guided = [s for s in group if any(s.forced)]
        assert len(guided) == 2
        for sample in guided:
            assert sample.text.endswith(f"\n\nhm\n\nso {sample.problem.gold}")
            assert sample.right
            assert sample.forced == (False,) * 3 + (True,) * 4
    assert [p.phase for p in teacher.shown] == ["teach"] * 14
    assert only_part(update).samples == tuple(s for group in update.groups for s in group)


def test_the_baseline_is_over_all_replies() -> None:
    """Guards against a separate baseline for guided replies. Rewards 1,0,0,0,0: mean 0.2, deviation 0.447214."""
    method = ThinkTuning(n_solve=5, fraction=0.0, min_per_group=1)
    part = only_part(run(method, script=lambda p, i, v: "no")[0])
    for sample, advantage in zip(part.samples, factors(part), strict=True):
        assert advantage == pytest.approx(1.7889 if any(sample.forced) else -0.4472, abs=1e-4)


def test_one_part_has_the_shaped_loss() -> None:
    """Guards against separate denominators of guided and other tokens, and a clip that is not the objective's."""
    shaping = Shaping("constant", 0.5, 7.0, 0.25)
    update, _ = run(ThinkTuning(shaping=shaping, solve=Objective("standardize", 0.1, 0.3, 5.0, n_steps=3)))
    assert only_part(update).surrogate == AdvantageAwareShaping("constant", 0.5, 7.0, 0.25, clip=Clip(0.1, 0.3, 5.0))
    assert (update.name, update.n_steps, update.on_policy) == ("solve", 3, True)


@pytest.mark.parametrize("note", [f"{NOTE} really", NOTE.format("7 " * 11)], ids=["format", "over max_tokens"])
def test_refused_feedback_leaves_the_reply_unchanged(note: str) -> None:
    """Guards against a reply that is dropped, cut, or extended in part: the update is GRPO's."""
    update, teacher = run(ThinkTuning(), teach=lambda prompt, index, version: note, cap=11)
    grpo, _ = run(GRPO(solve=ThinkTuning().solve), cap=11)
    assert teacher.shown
    assert update.groups == grpo.groups
    assert only_part(update).advantages == only_part(grpo).advantages


def test_the_teacher_is_greedy_with_its_own_max_tokens() -> None:
    """Guards against feedback that is cut at the student's max_tokens, and that changes in a resumed run."""
    used: list[Sampling | None] = []

    class Teacher(FakePolicy):
        def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
            used.append(sampling)
            return super().sample(prompts, n, sampling)

    run_batch(ThinkTuning(max_feedback_tokens=77), FakePolicy(student), TEXTS, role=lambda _: Teacher(teach))
    assert used == [Sampling(temperature=0.0, max_tokens=77)]


# Which replies get feedback


def group_of(stops: Sequence[StopReason], seed: int = 3, version: int = 0) -> Group:
    prompt = Prompt(PROBLEMS[2], "solve", (Message("user", "?"),), seed)
    return tuple(
        Sample(prompt, i, (2,), (5, 1), (True,) * 2, (-1.0,) * 2, f"reply {i}", stop, Sampling(), version)
        for i, stop in enumerate(stops)
    )


ACTORS = Actors(FakePolicy(student), TEXTS, grade)


@pytest.mark.parametrize(
    ("fraction", "least", "n_finished", "expected"),
    [
        # Counts, each with its share of the groups: fraction * n_finished is rounded up as often as its decimals say.
        (0.0, 0, 5, {0: 1.0}),
        (0.0, 1, 5, {1: 1.0}),
        (0.1, 0, 5, {0: 0.5, 1: 0.5}),
        (0.1, 1, 5, {1: 1.0}),  # the release: one of five
        (0.5, 1, 5, {2: 0.5, 3: 0.5}),
        (0.25, 0, 7, {1: 0.25, 2: 0.75}),
        (0.5, 3, 5, {3: 1.0}),
        (0.1, 1, 0, {0: 1.0}),
        (0.1, 3, 2, {2: 1.0}),
        (1.0, 0, 7, {7: 1.0}),
    ],
)
def test_how_many_replies_get_feedback(
    fraction: float, least: int, n_finished: int, expected: dict[int, float]
) -> None:
    """Guards against feedback on cut replies, a fraction of all replies instead of the finished ones, and counts that
    are always rounded down. Shares of 1,000 groups have a standard deviation of at most 0.016."""
    stops: list[StopReason] = ["stop" if (5 * i + 2) % 13 < n_finished else "length" for i in range(13)]
    counts: Counter[int] = Counter()
    for seed in range(1000):
        chosen = ThinkTuning(min_per_group=least).choose_replies(ACTORS, group_of(stops, seed), fraction)
        assert len({s.index for s in chosen}) == len(chosen)
        assert all(s.stop == "stop" for s in chosen)
        counts[len(chosen)] += 1
    assert set(counts) == set(expected)
    for n, share in expected.items():
        assert counts[n] / 1000 == pytest.approx(share, abs=0.065)


def test_finished_replies_are_equally_likely() -> None:
    """Guards against a preference for the first ones, and a choice that changes in a resumed run.

    Each of 5 is chosen 400 +- 17.9 times of 2,000."""
    stops: tuple[StopReason, ...] = ("stop", "length", "stop", "stop", "length", "stop", "stop")

    def chosen(version: int) -> list[int]:
        groups = [group_of(stops, seed, version) for seed in range(2000)]
        return [ThinkTuning(min_per_group=1).choose_replies(ACTORS, group, 0.1)[0].index for group in groups]

    assert chosen(0) == chosen(0) != chosen(1)
    counts = Counter(chosen(0))
    assert set(counts) == {0, 2, 3, 5, 6}
    assert all(abs(count - 400) < 72 for count in counts.values())  # 4 standard deviations


def test_feedback_on_wrong_replies_only() -> None:
    """Regression: with `pick = "wrong"` nothing got feedback, because graded copies were not found in their groups."""
    update, _ = run(ThinkTuning(n_solve=6, pick="wrong", fraction=1.0))
    for group in update.groups:
        assert [any(s.forced) for s in group] == [i % 3 != 0 for i in range(6)]
        assert all(s.right for s in group)


# When replies get feedback


@pytest.mark.parametrize(
    ("method", "fractions"),
    [
        # 0.1 - 0.09 t / 16 is 0.060625 at t = 7 and 0.055 at t = 8.
        (RELEASED, {0: 0.1, 7: 0.060625, 8: None, 16: None}),
        (ThinkTuning(), {0: 0.25, 49: 0.05, 50: None}),
        (ThinkTuning(n_guided=0), {0: None}),
        (ThinkTuning(fraction=0.0), {0: None, 30: None}),
        # Regression: with fraction 0 it began in the second batch, with a fraction that rose.
        (ThinkTuning(fraction=0.0, min_per_group=1), {0: 0.0, 30: 0.0, 50: None}),
    ],
)
def test_the_schedule(method: ThinkTuning, fractions: dict[int, float | None]) -> None:
    """Guards against feedback that ends a batch early or late."""
    for t, fraction in fractions.items():
        assert method.guided_fraction(t) == (fraction if fraction is None else pytest.approx(fraction))


@pytest.mark.parametrize(("recipe", "n_guided"), [("demo-think-tuning", 27), ("thinktuning-llama3.2-3b", 19)])
@pytest.mark.parametrize("n_finished", [8, 7, 3])
def test_the_share_of_guided_replies_falls(recipe: str, n_guided: int, n_finished: int) -> None:
    """Regression: 8 replies and shares below 1/4 were rounded down, then up to one per group, so one of eight replies
    got feedback in every batch but the first. The share of 500 groups has a standard deviation of at most 0.0075."""
    method = load_recipe(recipe, []).build_method()
    assert isinstance(method, ThinkTuning)
    stops: list[StopReason] = ["stop" if i < n_finished else "length" for i in range(8)]
    for t, share in ((0, 0.25), ((n_guided - 1) // 2, 0.15), (n_guided - 1, 0.05)):
        fraction = method.guided_fraction(t)
        assert fraction is not None
        n_chosen = 0
        for seed in range(500):
            n_chosen += len(method.choose_replies(ACTORS, group_of(stops, seed, version=t), fraction))
        assert n_chosen / (500 * n_finished) == pytest.approx(share, abs=0.03 if n_finished == 8 else 0.06)
    assert method.guided_fraction(n_guided) is None


def test_the_state_counts_batches() -> None:
    """Guards against a schedule that starts over in a resumed run, or stops counting: the release guides 8 batches."""
    state: dict[str, Any] = {}
    guided = [bool(run(RELEASED, state=state, problems=PROBLEMS[:1])[1].shown) for _ in range(11)]
    assert guided == [True] * 8 + [False] * 3
    assert state == {"n_batches": 11}
    restored: dict[str, Any] = {"n_batches": 7}
    assert run(RELEASED, state=restored)[1].shown
    assert not run(RELEASED, state=restored)[1].shown


# Without feedback


MODEL_PROBLEMS = [Problem(f"p{n}", f"{n} 7 5 -> 26", "26", coin) for n in range(3)]
OBJECTIVE = Objective("standardize", 0.2, 0.2, n_steps=2)


def trained(
    model: LanguageModel, method: Method, role: Callable[[str], Policy], n_batches: int = 0
) -> tuple[Trainer, int]:
    """Train for two problem batches, from a schedule that is at `n_batches`. Also return the number of forced tokens."""
    trainer, n_forced, state = make_trainer(copied(model), lr=0.01), 0, {"n_batches": n_batches}
    policy = LocalPolicy(trainer.model, Sampling(max_tokens=13))
    for batch in range(2):
        for update in method.updates(Actors(policy, replace(TEXTS, seed=batch), grade, role, state), MODEL_PROBLEMS):
            n_forced += sum(sum(s.forced) for group in update.groups for s in group)
            trainer.apply(update)
            policy.publish(trainer.version)
    return trainer, n_forced


def forbidden(_name: str) -> Policy:
    raise AssertionError("the teacher was asked")


@pytest.mark.slow
def test_without_feedback_it_is_grpo_bit_for_bit(qwen: LanguageModel) -> None:
    """Guards against a control that differs from GRPO in its samples or its loss."""
    qwen.chat.stop_ids = frozenset(range(1, 40))
    grpo, _ = trained(qwen, GRPO(5, OBJECTIVE), forbidden)
    constant = Shaping("constant")
    for method, n_batches in (
        (ThinkTuning(5, solve=OBJECTIVE), 50),
        (ThinkTuning(5, fraction=0.0, solve=OBJECTIVE, shaping=constant), 0),
    ):
        ours, _ = trained(qwen, method, forbidden, n_batches)
        assert ours.n_optimizer_steps == grpo.n_optimizer_steps >= 2
        assert all(map(torch.equal, ours.parameters, grpo.parameters))
    # With feedback the weights differ.
    teacher = LocalPolicy(copied(qwen), Sampling(max_tokens=13))
    method = ThinkTuning(5, 1.0, feedback="again", separator="", max_feedback_tokens=13, solve=OBJECTIVE)
    guided, n_forced = trained(qwen, method, lambda _: teacher)
    assert n_forced > 0
    assert not all(map(torch.equal, guided.parameters, grpo.parameters))
    assert all(p.isfinite().all() for p in guided.parameters)
