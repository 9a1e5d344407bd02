"""A run resumes only with the problems that it was started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.grading.user_function import UserFunction
from rethink.problems.rewards import VERDICT_ONLY, Grader, WeightedTerm
from rethink.run_folder import RunFolder
from rethink.training import problem_hash
from rethink.types import Demonstration, Problem, Verdict

Problems = list[Problem]


def verify(reply: str, gold: str) -> Verdict:
    return Verdict(True)


def problems() -> Problems:
    return [Problem(f"p{n}", f"{n} + 1?", str(n + 1), verify) for n in range(5)]


def changed(number: int, **fields: object) -> Callable[[Problems], Problems]:
    def change(found: Problems) -> Problems:
        found[number] = replace(found[number], **fields)  # type: ignore[arg-type]
        return found

    return change


CHANGES: dict[str, tuple[Callable[[Problems], Problems], str]] = {
    "shortened": (lambda p: p[:-1], "there were 5, now there are 4"),
    "longer": (lambda p: [*p, replace(p[0], id="p9")], "there were 5, now there are 6"),
    "another order": (lambda p: p[::-1], "they are in another order"),
    "another question": (changed(3, question="3 - 1?"), "other questions."),
    "another gold answer": (changed(3, gold="2"), "other gold answers."),
    "other ids": (changed(0, id="q0"), "other ids."),
    "rewritten": (changed(0, id="q0", question="x", gold="y"), "other ids, questions, gold answers."),
    "another instruction": (changed(0, solve="Solve {question}"), "other fields."),
    "another reply to imitate": (changed(0, demonstrate=lambda seed: (Demonstration("no"),)), "other fields."),
}


@pytest.mark.parametrize("purpose", ["training", "held-out"])
@pytest.mark.parametrize("name", CHANGES)
def test_other_problems_are_refused(name: str, purpose: str, tmp_path: Path) -> None:
    """A rewritten problem file once went on under the same ids, and nobody was told."""
    change, difference = CHANGES[name]
    folder = RunFolder(tmp_path)
    problem_hash.write(folder, {"training": problems(), "held-out": problems()})
    now = {"training": problems(), "held-out": problems()}
    problem_hash.check_unchanged(folder, now, VERDICT_ONLY)
    now[purpose] = change(problems())
    with pytest.raises(UserError) as caught:
        problem_hash.check_unchanged(folder, now, VERDICT_ONLY)
    assert f"the {purpose} problems have changed since {tmp_path} was started: {difference}" in str(caught.value)


def test_a_run_of_an_older_version_gets_the_hashes_now(tmp_path: Path) -> None:
    """Guards against older runs that cannot be resumed."""
    folder = RunFolder(tmp_path)
    problem_hash.check_unchanged(folder, {"training": problems()}, VERDICT_ONLY)
    with pytest.raises(UserError, match="there were 5, now there are 4"):
        problem_hash.check_unchanged(folder, {"training": problems()[1:]}, VERDICT_ONLY)


def grader_of(*arguments: str) -> Grader:
    """Return a grader with one reward function that has these parameters."""
    function = UserFunction("own:bonus", parameters=tuple((name, name) for name in arguments))
    return Grader((WeightedTerm("bonus", 1.0, False, function),))


def test_columns_count_if_a_function_reads_them(tmp_path: Path) -> None:
    """Guards against other rewards after a resume, because a column that only a reward or a verifier reads was edited, and
    against a refusal for a note that nothing reads."""
    folder = RunFolder(tmp_path)
    with_level = [replace(problem, row={"level": n, "note": ""}) for n, problem in enumerate(problems())]
    problem_hash.write(folder, {"training": with_level, "held-out": with_level})
    edited = [replace(problem, row={"note": "", "level": 0}) for problem in with_level]
    same = [replace(problem, row={"note": "", "level": n}) for n, problem in enumerate(with_level)]
    message = "problems have changed since .*: other columns, which a reward function or the verifier reads"
    for reads in (grader_of("reply", "row"), grader_of("row")):
        problem_hash.check_unchanged(folder, {"training": same}, reads)
        problem_hash.check_unchanged(folder, {"held-out": edited}, reads)
        with pytest.raises(UserError, match=f"the training {message}"):
            problem_hash.check_unchanged(folder, {"training": edited}, reads)
    for does_not in (VERDICT_ONLY, grader_of("reply", "gold")):
        problem_hash.check_unchanged(folder, {"training": edited}, does_not)
    by_row = UserFunction("own:check", parameters=(("reply", "reply"), ("row", "row")))
    with pytest.raises(UserError, match=f"the held-out {message}"):
        problem_hash.check_unchanged(folder, {"held-out": [replace(p, verify=by_row) for p in edited]}, VERDICT_ONLY)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"training": 3}'])
def test_a_damaged_file_of_hashes_is_one_message(text: str, tmp_path: Path) -> None:
    """Guards against a traceback, and against a damaged file that lets other problems pass."""
    (tmp_path / "problems.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read .*problems\.json|the training problems have changed"):
        problem_hash.check_unchanged(RunFolder(tmp_path), {"training": problems()}, VERDICT_ONLY)
