"""A run resumes only with the problems that it was started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.errors import UserError
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
    problem_hash.check_unchanged(folder, now)
    now[purpose] = change(problems())
    with pytest.raises(UserError) as caught:
        problem_hash.check_unchanged(folder, now)
    assert f"the {purpose} problems have changed since {tmp_path} was started: {difference}" in str(caught.value)


def test_a_run_of_an_older_version_gets_the_hashes_now(tmp_path: Path) -> None:
    """Guards against older runs that cannot be resumed."""
    folder = RunFolder(tmp_path)
    problem_hash.check_unchanged(folder, {"training": problems()})
    with pytest.raises(UserError, match="there were 5, now there are 4"):
        problem_hash.check_unchanged(folder, {"training": problems()[1:]})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"training": 3}'])
def test_a_damaged_file_of_hashes_is_one_message(text: str, tmp_path: Path) -> None:
    """Guards against a traceback, and against a damaged file that lets other problems pass."""
    (tmp_path / "problems.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read .*problems\.json|the training problems have changed"):
        problem_hash.check_unchanged(RunFolder(tmp_path), {"training": problems()})
