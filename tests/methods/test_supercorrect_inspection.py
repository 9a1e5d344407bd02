"""Replies of a teacher: which ones are checked, inspected, mended and left out."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.methods.actors import Actors
from rethink.methods.supercorrect_inspection import Inspection
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Demonstration, Problem, Prompt, Sample
from support.method_runs import PROBLEMS, SkippingPolicy, make_problem

TEXTS = Prompts("{question}", seed=5)


def turn(prompt: Prompt) -> int:
    """The number of the teacher's reply to this prompt, from 1."""
    return sum(message.role == "user" for message in prompt.messages)


def teach(prompt: Prompt, index: int, version: int) -> str:
    return f"try {turn(prompt)} on {prompt.problem.id} gives {prompt.problem.gold}"


def inspect(
    settings: Inspection, inspector: Any, check: Any = lambda i, reply: "", problems: list[Problem] = PROBLEMS,
    teacher: FakePolicy | None = None,
) -> tuple[list[Sample | None], FakePolicy, FakePolicy]:  # fmt: skip
    """The accepted replies, the teacher and the judge."""
    roles = {"teacher": teacher or FakePolicy(teach), "judge": FakePolicy(inspector)}
    actors = Actors(FakePolicy(lambda p, i, v: ""), TEXTS, grade, roles.__getitem__)
    asks = [actors.prompts.compose(problem, "rewrite", "Rewrite {question}") for problem in problems]
    return settings.replies(actors, asks, check), roles["teacher"], roles["judge"]


def finds_faults_before(n: int) -> Any:
    """An inspector that passes the n-th reply to a problem."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        shown = prompt.messages[-1].content
        return "All is well: No faults." if f"try {n} on" in shown else f"the end of {prompt.problem.id} is dull"

    return script


def texts(replies: list[Sample | None]) -> list[str | None]:
    return [None if reply is None else reply.text for reply in replies]


def test_the_teacher_mends_what_the_inspector_finds() -> None:
    """Guards against faults that do not reach the teacher. Two rounds fail, the third one passes."""
    replies, teacher, judge = inspect(Inspection("judge"), finds_faults_before(3), problems=PROBLEMS[2:4])
    assert texts(replies) == ["try 3 on p2 gives 2", "try 3 on p3 gives 3"]
    assert all(reply and reply.right for reply in replies)
    assert (len(teacher.shown), len(judge.shown)) == (6, 6)
    assert [(m.role, m.content.split("\n\nWrite")[0]) for m in teacher.shown[4].messages] == [
        ("user", "Rewrite 2 + 0"),
        ("assistant", "try 1 on p2 gives 2"),
        ("user", "Your text has faults:\n\nthe end of p2 is dull"),
        ("assistant", "try 2 on p2 gives 2"),
        ("user", "Your text has faults:\n\nthe end of p2 is dull"),
    ]


def test_what_still_has_faults_after_the_last_round_is_left_out() -> None:
    """Guards against a fourth call, and a faulty reply that is kept."""
    replies, teacher, judge = inspect(Inspection("judge"), finds_faults_before(4), problems=PROBLEMS[2:4])
    assert replies == [None, None]
    assert (len(teacher.shown), len(judge.shown)) == (6, 6)
    replies, teacher, _ = inspect(Inspection("judge", rounds=1), finds_faults_before(2), problems=PROBLEMS[2:4])
    assert (replies, len(teacher.shown)) == ([None, None], 2)


def test_only_faulty_replies_are_written_again() -> None:
    """Guards against replies that change places with those of other problems."""

    def inspector(prompt: Prompt, index: int, version: int) -> str:
        fails = int(prompt.problem.id[1:]) % 3
        return "no faults" if f"try {fails + 1} on" in prompt.messages[-1].content else "a fault"

    replies, teacher, _ = inspect(Inspection("judge"), inspector)
    assert texts(replies) == [f"try {n % 3 + 1} on p{n} gives {n}" for n in range(7)]
    assert len(teacher.shown) == 7 + 4 + 2


def test_the_inspector_sees_the_solution_and_the_reply() -> None:
    """Guards against an inspector without a reference, and against one that reads what a program has refused."""
    solved = make_problem(2, demonstrate=lambda seed: (Demonstration("add nothing: 2"),))

    def check(i: int, reply: Sample) -> str:
        return "too dull" if i == 1 and turn(reply.prompt) == 1 else ""

    replies, teacher, judge = inspect(Inspection("judge"), finds_faults_before(2), check, [solved, PROBLEMS[3]])
    assert texts(replies) == ["try 2 on p2 gives 2", "try 2 on p3 gives 3"]
    shown = [prompt.messages[-1].content for prompt in judge.shown]
    assert [("2 + 0" in text, "add nothing: 2" in text, "try 1" in text) for text in shown] == [
        (True, True, True), (True, True, False), (False, False, False)
    ]  # fmt: skip
    assert "try 2 on p3 gives 3" in shown[2]
    assert "\n\n3\n\n" in shown[2]  # without a solution, the gold answer
    assert "too dull" in teacher.shown[3].messages[-1].content


def test_who_inspects() -> None:
    """Guards against a judge that is asked although the recipe names another inspector."""

    def both(prompt: Prompt, index: int, version: int) -> str:
        return "No faults" if prompt.phase == "inspect" else teach(prompt, index, version)

    for by, n_asked in (("teacher", 14), ("nobody", 7)):
        replies, teacher, judge = inspect(Inspection(by), finds_faults_before(9), teacher=FakePolicy(both))  # type: ignore[arg-type]
        assert texts(replies) == [f"try 1 on p{n} gives {n}" for n in range(7)]
        assert (len(teacher.shown), judge.shown) == (n_asked, [])


def test_prompts_that_are_too_long_are_left_out() -> None:
    """Guards against a reply that moves to the problem before, and one that passes because nobody could read it."""
    teacher = SkippingPolicy(teach, lambda prompt: prompt.problem.id == "p2")
    replies, _, _ = inspect(Inspection("judge"), finds_faults_before(1), teacher=teacher)
    assert texts(replies) == [None if n == 2 else f"try 1 on p{n} gives {n}" for n in range(7)]
    unread = SkippingPolicy(teach, lambda prompt: prompt.phase == "inspect")
    replies, _, _ = inspect(Inspection("teacher"), None, teacher=unread)
    assert replies == [None] * 7
    assert len(unread.shown) == 3 * (7 + 7)
    assert "It is too long." in unread.shown[14].messages[-1].content


def test_an_inspection_that_passes_everything_is_refused() -> None:
    """Guards against an end of the inspector's reply that every reply has."""
    with pytest.raises(ValueError, match=r"inspection\.passed must contain words"):
        Inspection(passed=" .")
