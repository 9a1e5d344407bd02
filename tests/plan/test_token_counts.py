"""Tokens are counted by running the method with dummy replies."""

from __future__ import annotations

import pytest

from rethink.plan.estimate import memory_settings
from rethink.plan.memory import FrozenModels
from rethink.plan.token_counts import BatchCounts, CountingPolicy, Lengths, count_batch
from rethink.recipe import load_recipe
from support.samples import make_prompt


def test_tokens_of_think_twice() -> None:
    """Two updates: 3 problems with 5 solutions each, then 2 refinements of one of them, all at max_tokens."""
    settings = ["problems_per_batch=3", "method.n_solve=5", "method.n_refine=2", "sampling.max_tokens=40"]
    counted, description = count_batch(load_recipe("thinktwice-qwen3-4b", settings), Lengths(50, 1.0))
    solve, refine = counted.requests
    assert (solve.phase, len(solve.prompts), solve.n, solve.n_sampled) == ("solve", 3, 5, 3 * 5 * 40)
    assert (refine.phase, len(refine.prompts), refine.n, refine.n_sampled) == ("refine", 3, 2, 3 * 2 * 40)
    # A refinement prompt contains the draft, without its end token.
    assert all(b >= a + 39 for a, b in zip(solve.prompts, refine.prompts, strict=True))
    assert [len(u.parts[0].samples) for u in counted.updates] == [15, 6]
    assert description == "made-up questions of 50 tokens"


@pytest.mark.parametrize(
    ("recipe", "phases"),
    [
        ("demo-reflect-retry-reward", ["solve", "reflect", "retry"]),
        ("demo-gsr", []),
        ("demo-grpo method.name=self_distillation method.solve.n_steps=1", ["solve"]),
        ("warm-start", []),
        ("demo-grpo method.name=vl_rethinker", ["solve", "extend"]),
        ("demo-learn-to-merge method.rounds=2", ["solve", "merge", "merge"]),
    ],
)
def test_every_method_is_counted(recipe: str, phases: list[str]) -> None:
    """Guards against a method that the plan does not know."""
    name, *more = recipe.split()
    counted, _ = count_batch(load_recipe(name, ["problems_per_batch=4", *more]), Lengths())
    assert [r.phase for r in counted.requests if r.role == "policy"] == phases
    assert sum(len(part.samples) for u in counted.updates for part in u.parts) > 0


def test_only_new_tokens_of_continued_replies_are_counted() -> None:
    """By hand: of 40 tokens, replies have half, the end token included; 19 of them and a word are shown, so there is room
    for 20 more. A continuation has 20 tokens, too. Guards against counting the reply again, as sampled or as room."""
    recipe = load_recipe("demo-grpo", ["sampling.max_tokens=40", "problems_per_batch=1"])
    counted = BatchCounts()
    policy = CountingPolicy(recipe, 0.5, counted)
    (group,) = policy.sample([make_prompt()], 3)
    policy.extend(group, [" wait"] * 3)
    solve, extend = counted.requests
    assert (solve.n_sampled, extend.n_sampled) == (3 * 20, 3 * 20)
    assert extend.prompts == tuple(length + 19 + 1 for length in solve.prompts * 3)
    assert (extend.phase, extend.n, extend.sampling.max_tokens, extend.role) == ("extend", 1, 20, "policy")


def test_a_teacher_is_counted_separately() -> None:
    """Guards against a teacher's tokens that count as the policy's, and a frozen model that is not counted."""
    recipe = load_recipe("demo-think-tuning", ["problems_per_batch=4"])
    counted, _ = count_batch(recipe, Lengths())
    assert {r.role for r in counted.requests} == {"policy", "teacher"}
    for settings, frozen in (
        ([], FrozenModels(start_samples=True)),
        (["teacher.endpoint.url=http://localhost:1"], FrozenModels()),
        (["teacher.path=tiny-signs"], FrozenModels(teacher_samples=True)),
    ):
        assert memory_settings(load_recipe("demo-think-tuning", settings), 1, counted).frozen == frozen
