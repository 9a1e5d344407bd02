"""What is prepared with a teacher: solutions in steps, and pairs of corrections of one wrong step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rethink.methods.actors import Actors
from rethink.methods.supercorrect import SuperCorrect
from rethink.methods.supercorrect_corrections import FAULTY, correction_pairs, rewritten_solutions
from rethink.methods.supercorrect_inspection import Inspection
from rethink.methods.supercorrect_steps import CORRECT, REWRITE, StepForm
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Demonstration, Prompt, Sampling
from support.method_runs import PROBLEMS, Script, make_problem

TEXTS = Prompts("Solve {question}", "find your mistake", seed=5)
FORM = StepForm(step=r"s\d \w+;", template=r"(?:s\d \w+;\s*)+gives \S+", correction=r"because .+")
ALONE = Inspection("nobody", rounds=1)
RIGHT_OWN = "corrections of the student's that were right, cut, or not graded"


def solution(n: int, *steps: str) -> str:
    return " ".join(f"s{k} {step};" for k, step in enumerate(steps, start=1)) + f" gives {n}"


def student(prompt: Prompt, index: int, version: int) -> str:
    """Wrong in the second step; in the even tries right. Asked to correct it, wrong in another way."""
    n = prompt.problem.gold
    if prompt.phase == "solve":
        return solution(int(n) + (index % 2), "read", "add" if index % 2 == 0 else "multiply", "write")
    return f"because I forgot {index} so 77"


def teach(prompt: Prompt, index: int, version: int) -> str:
    n = prompt.problem.gold
    if prompt.phase == "rewrite":
        return solution(int(n), "read", "add")
    return f"s1 read; because it adds: s2 add; gives {n}"


def actors(
    student: Script = student, teach: Script = teach, cap: int = 1024, sampling: Sampling | None = None
) -> Actors:
    teacher = FakePolicy(teach, Sampling(max_tokens=cap))
    policy = FakePolicy(student, sampling or Sampling(max_tokens=cap))
    return Actors(policy, TEXTS, grade, lambda name: teacher)


def shown_to_teacher(used: Actors) -> list[str]:
    return [prompt.messages[-1].content for prompt in used.role("teacher").shown]  # type: ignore[attr-defined]


# Solutions in steps


def test_solutions_are_rewritten() -> None:
    """Guards against a teacher that does not see the solution, and rows that change places."""
    solved = make_problem(2, demonstrate=lambda seed: (Demonstration("add nothing"),))
    used = actors()
    rows = list(rewritten_solutions(used, [solved, PROBLEMS[3]], FORM, REWRITE, ALONE))
    assert rows == [
        {"problem": f"p{n}", "question": f"{n} + 0", "gold": f"{n}", "reply": f"s1 read; s2 add; gives {n}"}
        for n in (2, 3)
    ]
    first, second = shown_to_teacher(used)
    assert first.startswith("Solve 2 + 0\n\nThis is a right solution:\n\nadd nothing\n\n")
    assert second.startswith("Solve 3 + 0\n\nThis is a right solution:\n\n3\n\n")
    assert used.state == {}


def test_solutions_of_another_form_or_answer_are_left_out() -> None:
    """Guards against a template without steps, a wrong one, a cut one, and one that was not graded."""
    replies = {"p2": "gives 2", "p3": "s1 read; gives 5", "p4": "s1 read; gives ?", "p5": "s1 a; s2 b; s3 c; gives 5"}
    used = actors(teach=lambda p, i, v: replies.get(p.problem.id) or teach(p, i, v), cap=7)
    rows = list(rewritten_solutions(used, PROBLEMS[2:], FORM, REWRITE, ALONE))
    assert [row["problem"] for row in rows] == ["p6"]
    assert used.state == {FAULTY: 4}


# Pairs of corrections


def prepare(used: Actors, method: SuperCorrect, problems: Any = PROBLEMS[2:4]) -> list[dict[str, Any]]:
    return list(method.prepare(used, problems))


PAIRS = SuperCorrect("corrections", form=FORM, inspection=ALONE)


def test_pairs_correct_the_same_step() -> None:
    """Guards against chosen replies of the student, right steps that are not the student's, and another wrong step."""
    used = actors()
    rows = prepare(used, PAIRS)
    assert [row["id"] for row in rows] == ["p2#1", "p2#3", "p3#1", "p3#3"]
    assert rows[0] == {
        "id": "p2#1",
        "problem": "p2",
        "question": "2 + 0",
        "gold": "2",
        "draft": "s1 read; s2 multiply; s3 write; gives 3",
        "step": 2,
        "chosen": "s1 read; because it adds: s2 add; gives 2",
        "rejected": "s1 read; because I forgot 0 so 77",
    }
    assert used.state == {}


def test_pairs_at_any_temperature() -> None:
    """Regression: the student's own correction was continued from a reply at temperature 1, so any other setting ended
    `prepare` with a traceback, after the teacher had written its corrections."""
    for sampling in (Sampling(temperature=0.7), Sampling(top_p=0.9, max_tokens=64), Sampling(temperature=0.0)):
        assert prepare(actors(sampling=sampling), PAIRS) == prepare(actors(), PAIRS)


def test_only_the_teacher_sees_the_solution() -> None:
    """Guards against a student that corrects itself with the solution in view, and a pair whose prompt shows it."""
    solved = make_problem(2, demonstrate=lambda seed: (Demonstration("the sum of two and zero is two"),))
    used = actors()
    prepare(used, PAIRS, [solved])
    shown = shown_to_teacher(used)
    assert len(shown) == 2
    for text in shown:
        assert "the sum of two and zero is two" in text
        assert "s1 read; s2 multiply; s3 write; gives 3" in text
    for prompt in used.policy.shown:  # type: ignore[attr-defined]
        assert not any("the sum of" in message.content for message in prompt.messages)


def test_at_most_so_many_errors_are_corrected() -> None:
    """Guards against a right solution that is corrected, one without steps, one that was cut, and too many."""
    rows = prepare(actors(), replace(PAIRS, n_tries=8, max_errors=3), PROBLEMS[2:3])
    assert [row["id"] for row in rows] == ["p2#1", "p2#3", "p2#5"]
    assert prepare(actors(lambda p, i, v: solution(int(p.problem.gold), "read", "add")), PAIRS) == []
    assert prepare(actors(lambda p, i, v: "it gives 77"), PAIRS) == []
    assert prepare(actors(cap=5), PAIRS) == []
    assert list(correction_pairs(actors(), [], FORM, CORRECT, ALONE)) == []


def test_corrections_of_the_teacher_that_have_faults_are_left_out() -> None:
    """Guards against a correction of no step, a wrong one, and one in another form."""
    faulty = ("s1 read; s2 multiply; s3 write; because 2", "s1 read; because it adds 5", "s1 read; so 2", "?")
    for reply in faulty:
        used = actors(teach=lambda p, i, v, reply=reply: reply)  # type: ignore[misc]
        assert prepare(used, PAIRS, PROBLEMS[2:3]) == []
        assert used.state == {FAULTY: 2}


def test_corrections_of_the_student_must_be_wrong() -> None:
    """Guards against a right reply that is rejected, and one that was cut or not graded."""
    ends = ("so 2", "so 2 ?", "so " + "x " * 9)
    for end in ends:
        used = actors(lambda p, i, v, end=end: student(p, i, v) if p.phase == "solve" else f"because {end}", cap=11)  # type: ignore[misc]
        assert prepare(used, PAIRS, PROBLEMS[2:3]) == []
        assert used.state == {RIGHT_OWN: 2}
