"""Texts spliced on: ids that were sampled stay bit for bit, what is added is forced, and the teacher's form is strict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.methods.think_tuning_feedback import EXAMPLES, TEACHER, parse_feedback, teacher_prompt
from rethink.models.language_model import LanguageModel
from rethink.policies.fake import END_ID, FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems import mathematics
from rethink.prompts import Prompts
from rethink.types import Group, Message, Problem, Sample, Sampling, Verdict
from support.samples import make_sample

PROBLEM = Problem("p", "3 7 5 -> 26", "26", lambda reply, gold: Verdict(reply.endswith(gold)))
TEXTS = Prompts("{question}", "again", seed=3)


@pytest.fixture
def replies(qwen: LanguageModel) -> tuple[LocalPolicy, Group]:
    """A random model with three stop ids, and 331 of its replies: finished ones and cut ones, among them such as do not
    survive their text."""
    qwen.chat.stop_ids = frozenset({1, 5, 11})
    policy = LocalPolicy(qwen, Sampling(max_tokens=17))
    (group,) = policy.sample(TEXTS.ask([PROBLEM]), 331)
    assert {s.stop for s in group} == {"stop", "length"}
    words = qwen.chat.tokenizer
    assert any(tuple(words.encode(s.text)) != s.ids[:-1] for s in group if s.stop == "stop")
    return policy, group


def test_sampled_ids_stay_bit_for_bit(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against ids that come back from the reply's text, an end token in the middle, and marks on tokens
    that the policy chose itself."""
    policy, group = replies
    added = (*policy.model.chat.tokenizer.encode("? 3 * 7 = 21"), policy.model.chat.end_id)
    finished = [s for s in group if s.stop == "stop" and len(s.ids) - 1 + len(added) <= 17]
    assert len(finished) > 5
    for sample in finished:
        new = policy.splice(sample, " ? 3 * 7 = 21")
        assert new is not None
        kept = len(sample.ids) - 1
        assert new.ids == sample.ids[:-1] + added
        assert new.log_probs[:kept] == sample.log_probs[:-1]
        assert all(map(math.isnan, new.log_probs[kept:]))
        assert new.forced == (False,) * kept + (True,) * len(added)
        assert new.mask == (True,) * len(new.ids)
        assert sum(i in policy.model.chat.stop_ids for i in new.ids) == 1
        assert new.text.endswith("? 3 * 7 = 21")
        assert new.text == policy.model.chat.decode(new.ids)
        assert (new.stop, new.verdict) == ("stop", None)
        same = ("prompt", "index", "prompt_ids", "sampling", "version")
        assert [getattr(new, name) for name in same] == [getattr(sample, name) for name in same]


def test_a_splice_over_the_cap_is_refused_not_cut(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against a text that loses its answer and its end: exactly the cap still fits, one more does not."""
    policy, group = replies
    sample = next(s for s in group if s.stop == "stop" and len(s.ids) < 12)
    before = replace(sample)
    room = 17 - len(sample.ids)  # the old end token's place goes to the new one
    fits = policy.splice(sample, " 7" * room)
    assert fits is not None
    assert len(fits.ids) == 17
    assert policy.splice(sample, " 7" * (room + 1)) is None
    assert sample == before


def test_a_cut_reply_keeps_all_its_ids(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against the last sampled id of a reply without an end token being taken for one."""
    policy, group = replies
    cut = next(s for s in group if s.stop == "length")
    cut = replace(cut, sampling=Sampling(max_tokens=20))
    new = policy.splice(cut, " 7")
    assert new is not None
    assert new.ids[:-2] == cut.ids


def test_splicing_twice_remembers_what_was_forced(replies: tuple[LocalPolicy, Group]) -> None:
    """The second splice once declared the first one's tokens the policy's own; masks are kept as well."""
    policy, group = replies
    sample = next(s for s in group if s.stop == "stop" and len(s.ids) < 10)
    sample = replace(sample, mask=(False, *sample.mask[1:]))
    for one in (policy, FakePolicy(lambda p, i, v: "")):
        new = one.splice(sample, "7 7")
        twice = one.splice(new, "5") if new else None
        assert twice is not None
        kept = len(sample.ids) - 1
        assert twice.forced == (False,) * kept + (True,) * 4
        assert twice.mask == (False,) + (True,) * (kept + 3)


def test_the_fake_splices_as_the_real_one() -> None:
    """Guards against a fake that hides what a real policy does: end token, marks, cap."""
    policy = FakePolicy(lambda prompt, index, version: "2 3 5", Sampling(max_tokens=6))
    ((sample,),) = policy.sample(TEXTS.ask([PROBLEM]), 1)
    new = policy.splice(sample, " 7 11")
    assert new is not None
    assert (len(new.ids), new.ids[:3], new.ids[-1]) == (6, sample.ids[:3], END_ID)
    assert new.ids.count(END_ID) == 1
    assert new.forced == (False, False, False, True, True, True)
    assert new.text == "2 3 5 7 11"
    assert policy.splice(sample, " 7 11 13") is None


def test_the_trainer_takes_what_was_spliced(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against an endless chain of stand-ins: ids, mask and forced are of one length, whatever was sampled."""
    policy, group = replies
    for sample in group:
        new = policy.splice(sample, " 7")
        if new is not None:
            assert len(new.ids) == len(new.mask) == len(new.forced) == len(new.log_probs)
            assert new.n_trained == len(new.ids)


# The form of the feedback

GOOD = "<opinion>incorrect</opinion><reason>It is 7.</reason><phrase>So\n7 it is. \\boxed{7}</phrase>"


def note(text: str, stop: str = "stop") -> Group:
    return (replace(make_sample((8, 1)), text=text, stop=stop),)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [str, lambda t: t.replace("><", ">\n\n <"), lambda t: f"\n{t} \n", str.strip])
def test_the_strict_form(change: Callable[[str], str]) -> None:
    """Guards against tags or the opinion in what the student is made to say; blanks around the tags do not matter."""
    assert parse_feedback(note(change(GOOD)), "tags", "\n\n") == "\n\nIt is 7.\n\nSo\n7 it is. \\boxed{7}"
    assert parse_feedback(note(change(GOOD).replace("incorrect", "correct")), "tags", " ? ") is not None


REFUSED = {
    "wrong order": "<reason>a</reason><opinion>correct</opinion><phrase>b</phrase>",
    "phrase before reason": "<opinion>correct</opinion><phrase>b</phrase><reason>a</reason>",
    "text before": f"Well: {GOOD}",
    "text after": f"{GOOD} I hope this helps.",
    "text between": GOOD.replace("</reason>", "</reason> and "),
    "no opinion": GOOD.partition("</opinion>")[2],
    "no reason": "<opinion>correct</opinion><phrase>b</phrase>",
    "no phrase": GOOD.partition("<phrase>")[0],
    "not closed": GOOD.removesuffix("</phrase>"),
    "another verdict": GOOD.replace("incorrect", "partly correct"),
    "a capital verdict": GOOD.replace("incorrect", "Incorrect"),
    "blank verdict": GOOD.replace("incorrect", " incorrect "),
    "empty reason": GOOD.replace("It is 7.", ""),
    "blank reason": GOOD.replace("It is 7.", " \n"),
    "blank phrase": "<opinion>correct</opinion><reason>a</reason><phrase> </phrase>",
    "a tag within": GOOD.replace("It is 7.", "<phrase>It is 7."),
    # These two were taken: a part may not reach over its own closing tag.
    "a closing tag within the reason": GOOD.replace("</reason>", "</reason> or not</reason>"),
    "a closing tag within the phrase": GOOD.replace("</phrase>", "</phrase> or not</phrase>"),
    "twice": GOOD + GOOD,
    "nothing": "",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_of_the_form_is_refused(kind: str) -> None:
    """Guards against half a comment spliced into what is trained."""
    assert parse_feedback(note(REFUSED[kind]), "tags", "\n\n") is None


def test_cut_and_missing_feedback_is_refused() -> None:
    """Guards against feedback that lost its end, whatever it looks like, and an index into no reply."""
    assert parse_feedback(note(GOOD, "length"), "tags", "") is None
    assert parse_feedback(note("3 * 7", "length"), "again", "") is None
    assert parse_feedback((), "tags", "") is None
    assert parse_feedback((), "again", "") is None


@given(st.lists(st.sampled_from(["<opinion>", "</opinion>", "<reason>", "</reason>", "<phrase>", "</phrase>", "correct",
                                 "a", " "]), max_size=11))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_tags_ever_reach_the_student(words: list[str]) -> None:
    """Whatever the teacher writes between two good ends, what is spliced holds none of its tags."""
    for text in ("".join(words), f"<opinion>correct</opinion><reason>a{''.join(words)}b</phrase>"):
        found = parse_feedback(note(text), "tags", "")
        assert found is None or ("<" not in found and found.strip())


def test_another_answer_as_feedback() -> None:
    """The style without tags takes the teacher's answer to the refine prompt as it stands."""
    assert parse_feedback(note("3 * 7 = 21"), "again", " ? ") == " ? 3 * 7 = 21"
    assert parse_feedback(note(" "), "again", " ? ") is None


# The teacher's prompt


def student(text: str, question: str = "1 + {response}?") -> Sample:
    policy = FakePolicy(lambda prompt, index, version: text)
    texts = replace(TEXTS, solve="{question} Answer in \\boxed{}.")
    return policy.sample(texts.ask([replace(PROBLEM, question=question)]), 1)[0][0]


def test_the_teacher_sees_question_and_response_and_no_gold() -> None:
    """Guards against a format demand given twice, an end token, a verdict or gold in view; braces stay as they are."""
    sample = student("it is {question}").with_verdict(Verdict(False, "wrong, 26 it is"))
    asked = teacher_prompt(TEXTS, sample, "tags")
    assert asked.phase == "teach"
    assert asked.messages[0] == Message("system", TEACHER)
    assert [m.role for m in asked.messages[1:]] == ["user", "assistant"] * 4 + ["user"]
    assert asked.messages[-1].content == "Question:\n1 + {response}?\n\nResponse:\nit is {question}"
    other = teacher_prompt(TEXTS, replace(sample, verdict=Verdict(True)), "tags")
    assert other.messages == asked.messages


def test_the_teachers_other_prompt_is_the_refine_prompt() -> None:
    """Guards against a teacher that is asked something its model has never seen."""
    asked = teacher_prompt(TEXTS, student("no"), "again")
    (refine,) = TEXTS.ask_to_refine([student("no")])
    assert (asked.messages, asked.phase, asked.seed) == (refine.messages, "teach", refine.seed)


@pytest.mark.parametrize("n", range(4))
def test_the_examples_are_of_the_form_they_teach(n: int) -> None:
    """Guards against an example that the parser refuses, a wrong gold, or an opinion that does not fit the response."""
    _question, response, text = EXAMPLES[n]
    golds, opinions = ("18", "35", "155", "8"), ("correct", "incorrect", "incorrect", "correct")
    found = parse_feedback(note(text), "tags", "")
    assert found is not None
    assert mathematics.FORMAT.verify(found, golds[n]).right
    assert text.startswith(f"<opinion>{opinions[n]}</opinion>")
    assert mathematics.FORMAT.verify(response, golds[n]).right is (opinions[n] == "correct")


@pytest.mark.parametrize(("first", "second", "right"), [("3", "7", True), ("7", "3", False)])
def test_of_two_boxes_the_last_counts(first: str, second: str, right: bool) -> None:
    """Guards against the student's own box deciding over the spliced text: it was replaced."""
    text = f"So \\boxed{{{first}}}\n\nWait.\n\n\\boxed{{{second}}}"
    assert mathematics.FORMAT.verify(text, "7").right is right
