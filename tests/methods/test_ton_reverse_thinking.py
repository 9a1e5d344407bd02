"""Thoughts that lead to a known answer: what is asked, and which of them are kept."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.methods.actors import Actors
from rethink.methods.imitate import known_answer
from rethink.methods.ton_reverse_thinking import EXPLAIN, explained
from rethink.methods.ton_thoughts import ThoughtForm
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Demonstration, Problem, Prompt, Sampling
from support.method_runs import PROBLEMS, make_problem

FORM = ThoughtForm(("<think>", "</think> "), ("", ""))
TEXTS = Prompts("Solve {question}", seed=5)


def explain(
    problems: list[Problem], *thoughts: str, cap: int = 1024
) -> tuple[list[dict[str, Any]], FakePolicy, Actors]:
    def script(prompt: Prompt, index: int, version: int) -> str:
        return thoughts[[p.id for p in problems].index(prompt.problem.id)]

    policy = FakePolicy(script, Sampling(max_tokens=cap))
    actors = Actors(policy, TEXTS, grade)
    return list(explained(actors, problems, FORM, EXPLAIN)), policy, actors


def test_the_answer_is_shown_to_the_model_that_explains_it() -> None:
    """Guards against an explanation of an answer that the model has not seen, and rows of another problem."""
    rows, policy, _ = explain(PROBLEMS[2:4], " count on ", "add")
    assert [prompt.messages[-1].content for prompt in policy.shown] == [
        EXPLAIN.replace("{question}", f"{n} + 0").replace("{answer}", str(n)) for n in (2, 3)
    ]
    assert {prompt.phase for prompt in policy.shown} == {"explain"}
    assert rows == [
        {"problem": "p2", "question": "2 + 0", "gold": "2", "reply": "<think>count on</think> 2"},
        {"problem": "p3", "question": "3 + 0", "gold": "3", "reply": "<think>add</think> 3"},
    ]
    # The prompt of training and of evaluation shows the question alone.
    assert TEXTS.ask(PROBLEMS[2:3])[0].messages[-1].content == "Solve 2 + 0"


def test_a_known_solution_is_explained_in_place_of_the_gold_answer() -> None:
    """Guards against a gold answer that no reply can consist of, where there is a reply, and against a refinement."""
    shown = (Demonstration("no", "refine", ("5",)), Demonstration("so it is 2"), Demonstration("2"))
    problem = make_problem(2, demonstrate=lambda seed: shown)
    assert known_answer(problem) == "so it is 2"
    assert known_answer(make_problem(2, demonstrate=lambda seed: shown[:1])) == "2"
    rows, policy, _ = explain([problem], "why")
    assert rows[0]["reply"] == "<think>why</think> so it is 2"
    assert "\n\nso it is 2\n\n" in policy.shown[0].messages[-1].content


LEFT_OUT = {
    "  ": "empty thoughts",
    "one two three": "thoughts that were cut",
    "a </think> b": "thoughts that contain a mark",
}


@pytest.mark.parametrize(("thought", "fault"), LEFT_OUT.items())
def test_thoughts_that_must_not_be_imitated_are_counted(thought: str, fault: str) -> None:
    """Guards against a cut thought, and a mark that would end the thought early."""
    rows, _, actors = explain(PROBLEMS[2:4], thought, "fine", cap=4 if "mark" in fault else 3)
    assert [row["problem"] for row in rows] == ["p3"]
    assert actors.state == {fault: 1}


def test_answers_that_the_verifier_does_not_accept_are_left_out() -> None:
    """Guards against a cold start on replies that GRPO then calls wrong."""
    rows, _, actors = explain([make_problem(2, demonstrate=lambda seed: (Demonstration("5"),)), PROBLEMS[3]], "a", "b")
    assert [row["problem"] for row in rows] == ["p3"]
    assert actors.state == {"known answers that the verifier does not accept": 1}
