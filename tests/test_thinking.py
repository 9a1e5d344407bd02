"""Thinking in replies: marks of the common families, thinking that never ends, marks of one's own."""

from __future__ import annotations

import pytest

from rethink import grade
from rethink.problems.answer_format import AfterThinking, read_after
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource
from rethink.thinking import MARKS, after_thinking, check_marks, opening_mark, split_thinking
from rethink.types import Verdict

FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"

AFTER = {
    "no marks": "no marks", "<think>a</think>b": "b", "a</think>b": "b", "a</think>b</think>c": "c",
    "<THINK>a</Think>b": "b",
    "<think>a": "", "a</think>b<think>c": "", "<think>a</think>b<think>c</think>": "",
    "<think>the <reasoning> tag</think>b": "b", "the <reasoning> tag</think>b": "b",
    "<thinking>a<reflection>b</reflection>c": "", "<thinking>a<reflection>b</reflection>c</thinking>d": "d",
    f"<|channel|>analysis<|message|>a{FINAL}b": "b", "<|channel|>analysis<|message|>a": "",
    "<|channel|>final <|constrain|>json<|message|>b": "b",
    f"{FINAL}b<|end|><|start|>assistant<|channel|>analysis<|message|>c": "",
    "<|channel|>analysisWe add.<|channel|>final5": "5", "analysisWe add.assistantfinal5": "5", "analysisWe add.": "",
    "analysis of the case": "analysis of the case", "Here is my response: 5": " 5", "": "",
}  # fmt: skip


@pytest.mark.parametrize(("reply", "answer"), AFTER.items(), ids=lambda text: repr(text)[:40])
def test_the_text_after_the_thinking(reply: str, answer: str) -> None:
    """Guards against answers that a model only thought of, and against thinking that never ends but counts."""
    assert after_thinking(reply) == answer


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_marks_of_families(opening: str, closing: str) -> None:
    """Guards against a family whose box in the thinking is a second answer, or its only one."""
    assert grade(f"{opening}maybe \\boxed{{7}}{closing} It is \\boxed{{5}}.", "5").right is True
    assert grade(f"{opening}it is \\boxed{{5}}{closing} Hm.", "5").right is False
    if opening:
        assert grade(f"{opening}it is \\boxed{{5}}", "5").right is False
        assert opening_mark(f"<|assistant|>{opening}\n") == f"{opening}\n"
    assert split_thinking(f"{opening}a{closing}b") == ("a", "b")


def test_marks_of_a_recipe() -> None:
    """Guards against marks that only some of the verifiers know; a user's own verifier still sees the whole reply."""
    reply = "[[maybe \\boxed{7}]] It is \\boxed{5}."
    assert (grade(reply, "5").right, grade(reply, "5", thinking=("[[", "]]")).right) == (False, True)
    problems = load_problems(ProblemSource(verifier="boxed"), rows=[{"question": "?", "answer": "5"}])
    (problem,) = read_after(problems, ("[[", "]]"))
    assert problem.grade(reply).right
    assert problem.extract_answer is not None
    assert problem.extract_answer(reply) == "5"
    assert problem.grade("[[ \\boxed{5}").right is False
    assert opening_mark("user: hi\n[[ ", ("[[", "]]")) == "[[ "
    assert AfterThinking(lambda reply, _gold: Verdict(None, reply), ("[[", "]]"))("[[a]]b", "").reason == "b"


@pytest.mark.parametrize("marks", [("[[",), ("[[", ""), ("[[", "[["), ("a", "b", "c")])
def test_marks_must_be_two(marks: tuple[str, ...]) -> None:
    """Guards against one mark, after which no reply would have an answer."""
    with pytest.raises(ValueError, match="must be an opening and a closing mark"):
        check_marks(marks)
