"""The teacher's prompt in ThinkTuning, and the format of its feedback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.methods.think_tuning_feedback import EXAMPLES, TEACHER, parse_feedback, teacher_prompt
from rethink.policies.fake import FakePolicy
from rethink.problems import mathematics
from rethink.prompts import Prompts
from rethink.types import Group, Message, Sample, StopReason, Verdict
from support.method_runs import make_problem
from support.samples import make_sample

TEXTS = Prompts("{question} Answer in \\boxed{}.", "again", seed=3)
GOOD = "<opinion>incorrect</opinion><reason>It is 7.</reason><phrase>So\n7 it is. \\boxed{7}</phrase>"


def note(text: str, stop: StopReason = "stop") -> Group:
    return (replace(make_sample((8, 1), stop=stop), text=text),)


@pytest.mark.parametrize("change", [str, lambda t: t.replace("><", ">\n\n <"), lambda t: f"\n{t} \n"])
def test_reason_and_phrase_are_kept(change: Callable[[str], str]) -> None:
    """Guards against tags or the opinion in the text that the student learns; blanks around tags do not matter."""
    assert parse_feedback(note(change(GOOD)), "tags", "\n\n") == "\n\nIt is 7.\n\nSo\n7 it is. \\boxed{7}"


REFUSED = {
    "phrase before reason": "<opinion>correct</opinion><phrase>b</phrase><reason>a</reason>",
    "text before": f"Well: {GOOD}",
    "text after": f"{GOOD} I hope this helps.",
    "no opinion": GOOD.partition("</opinion>")[2],
    "not closed": GOOD.removesuffix("</phrase>"),
    "another opinion": GOOD.replace("incorrect", "partly correct"),
    "blank reason": GOOD.replace("It is 7.", " \n"),
    "blank phrase": "<opinion>correct</opinion><reason>a</reason><phrase> </phrase>",
    # Regression: these two were accepted.
    "a closing tag within the reason": GOOD.replace("</reason>", "</reason> or not</reason>"),
    "a closing tag within the phrase": GOOD.replace("</phrase>", "</phrase> or not</phrase>"),
    "twice": GOOD + GOOD,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_format_is_refused(kind: str) -> None:
    """Guards against half a comment in the text that the student learns."""
    assert parse_feedback(note(REFUSED[kind]), "tags", "\n\n") is None


def test_feedback_without_tags() -> None:
    """Guards against feedback without its end, an index into an empty group, and an answer that is changed."""
    assert parse_feedback(note("3 * 7 = 21"), "again", " ? ") == " ? 3 * 7 = 21"
    for group in (note("3 * 7", "length"), note(" "), ()):
        assert parse_feedback(group, "again", " ? ") is None
    assert parse_feedback(note(GOOD, "length"), "tags", "") is None


TAGS = ["<opinion>", "</opinion>", "<reason>", "</reason>", "<phrase>", "</phrase>", "correct", "a", " "]


@given(st.lists(st.sampled_from(TAGS), max_size=11))
@settings(max_examples=200)
def test_no_tags_reach_the_student(words: list[str]) -> None:
    """Guards against tags in accepted feedback, whatever the teacher writes."""
    for text in ("".join(words), f"<opinion>correct</opinion><reason>a{''.join(words)}b</phrase>"):
        found = parse_feedback(note(text), "tags", "")
        assert found is None or ("<" not in found and found.strip())


def reply(text: str) -> Sample:
    policy = FakePolicy(lambda prompt, index, version: text)
    return policy.sample(TEXTS.ask([make_problem(26, question="1 + {response}?")]), 1)[0][0]


def test_the_teacher_sees_question_and_reply_but_no_gold() -> None:
    """Guards against a prompt that shows the verdict or the gold answer, and braces that are formatted twice."""
    sample = reply("it is {question}").with_verdict(Verdict(False, "wrong, 26 it is"))
    prompt = teacher_prompt(TEXTS, sample, "tags")
    assert prompt.phase == "teach"
    assert prompt.messages[0] == Message("system", TEACHER)
    assert [m.role for m in prompt.messages[1:]] == ["user", "assistant"] * 4 + ["user"]
    assert prompt.messages[-1].content == "Question:\n1 + {response}?\n\nResponse:\nit is {question}"
    assert teacher_prompt(TEXTS, replace(sample, verdict=Verdict(True)), "tags").messages == prompt.messages
    prompt = teacher_prompt(TEXTS, reply("no"), "again")
    (refine,) = TEXTS.ask_to_refine([reply("no")])
    assert (prompt.messages, prompt.phase, prompt.seed) == (refine.messages, "teach", refine.seed)


@pytest.mark.parametrize(
    ("n", "gold", "opinion"),
    [(0, "18", "correct"), (1, "35", "incorrect"), (2, "155", "incorrect"), (3, "8", "correct")],
)
def test_the_examples_have_the_required_format(n: int, gold: str, opinion: str) -> None:
    """Guards against an example that is refused, has a wrong answer, or has an opinion that does not fit the response."""
    _question, response, text = EXAMPLES[n]
    found = parse_feedback(note(text), "tags", "")
    assert found is not None
    assert mathematics.FORMAT.verify(found, gold).right
    assert text.startswith(f"<opinion>{opinion}</opinion>")
    assert mathematics.FORMAT.verify(response, gold).right is (opinion == "correct")
    # The student's first box is replaced by the box of the feedback, because the last one counts.
    assert mathematics.FORMAT.verify(f"{response}\n\n{found}", gold).right
