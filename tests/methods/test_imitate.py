"""Imitation: which demonstrations are trained, and on which prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.methods.imitate import Imitation
from rethink.objectives import Imitate
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.types import Demonstration, Problem
from support.method_runs import make_problem, run_batch

TEXTS = Prompts("{question}", "again", seed=13)


def demonstrating(n: int) -> Problem:
    shown = (Demonstration(f"{n}"), Demonstration(f"{n} again", "refine", ("no",)))
    return make_problem(n, demonstrate=lambda seed: shown)


def no_policy() -> FakePolicy:
    return FakePolicy(lambda prompt, index, version: pytest.fail("nothing must be sampled"))


def test_all_demonstrations_are_trained() -> None:
    """Guards against refinements that are trained after the solve prompt, and demonstrations that are lost."""
    (update,) = run_batch(Imitation(n_steps=3), no_policy(), TEXTS, [demonstrating(5), demonstrating(2)])
    (part,) = update.parts
    assert isinstance(part, Imitate)
    assert (update.name, update.n_steps, part.weights) == ("imitate", 3, (1.0,) * 4)
    assert [(s.problem.id, s.prompt.phase, s.text, s.index) for s in part.samples] == [
        *(("p5", "solve", "5", 0), ("p5", "refine", "5 again", 1)),
        *(("p2", "solve", "2", 0), ("p2", "refine", "2 again", 1)),
    ]
    solve, refine = part.samples[:2]
    assert solve.prompt == TEXTS.ask([demonstrating(5)])[0]
    assert refine.prompt.messages == TEXTS.messages(demonstrating(5), "refine", ("no",))
    assert len(refine.ids) == 3, "two words and the end token"


def test_demonstrations_derive_from_the_seed_of_the_pass() -> None:
    """Guards against the same demonstrations in each pass over the data."""
    seeds: list[int] = []

    def demonstrate(seed: int) -> tuple[Demonstration, ...]:
        seeds.append(seed)
        return ()

    problem = make_problem(3, demonstrate=demonstrate)
    for texts in (TEXTS, TEXTS, replace(TEXTS, seed=17)):
        run_batch(Imitation(), no_policy(), texts, [problem])
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_problem_without_demonstrations_is_refused() -> None:
    """Guards against an update that trains on nothing."""
    with pytest.raises(UserError, match="problem p3 has no demonstration to imitate; name the column"):
        run_batch(Imitation(), no_policy(), TEXTS, [demonstrating(2), make_problem(3)])
