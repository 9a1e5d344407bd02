"""The prompts of each phase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.policies.fake import FakePolicy
from rethink.prompts import REFINE_REVIEW, Prompts
from rethink.types import Message, Problem, Sample, Verdict

PROBLEM = Problem("p", "1 + 1?", "2", lambda reply, gold: Verdict(reply == gold))
PROMPTS = Prompts("{question} Box it.", "Check it.")


def draft(text: str, index: int = 0) -> Sample:
    """A graded draft with this text."""
    ((sample,),) = FakePolicy(lambda *_: text).sample(PROMPTS.ask([PROBLEM]), 1)
    return replace(sample.with_verdict(PROBLEM.grade(text)), index=index)


def refine_messages(prompts: Prompts, text: str) -> tuple[Message, ...]:
    return prompts.messages(PROBLEM, "refine", (text,))


@pytest.mark.parametrize("question", ["Is {x} in {question}?", "{", "\\frac{1}{2} %s $1 \\1"])
def test_braces_in_a_question_are_left_alone(question: str) -> None:
    """Guards against `str.format` on a text that holds LaTeX."""
    (prompt,) = PROMPTS.ask([replace(PROBLEM, question=question)])
    assert prompt.messages == (Message("user", f"{question} Box it."),)


def test_the_refine_prompt_does_not_depend_on_the_verdict() -> None:
    """Guards against an instruction that reveals whether the draft is right."""
    right, wrong = Prompts().ask_to_refine([draft("2"), draft("3")])
    assert right.messages[2] == wrong.messages[2] == Message("user", REFINE_REVIEW)
    assert right.messages[0] == wrong.messages[0]
    ungraded = replace(draft("2"), verdict=None)
    assert Prompts().ask_to_refine([ungraded])[0].messages == right.messages


EARLIER = "Your earlier reasoning was:\n\n{}\n\nYour earlier answer was:\n\n{}\n\nCheck it."


@pytest.mark.parametrize(
    ("reply", "answer", "reasoning"),
    [
        ("<think>\nadd them\n</think>\n\n2", "2", "add them"),
        ("add them</think> 2 ", "2", "add them"),  # opened by the template
        ("<think>and so on", "", "and so on"),
        ("add</think>2</think>3", "3", "add</think>2"),  # the last marker counts, as for verifiers and templates
        # Regression: the reasoning's own {answer} was replaced by the answer.
        ("<think>{answer}, {reasoning}, {0}</think>\\boxed{2}", "\\boxed{2}", "{answer}, {reasoning}, {0}"),
    ],
)
def test_thinking_drafts(reply: str, answer: str, reasoning: str) -> None:
    """Guards against reasoning that a template drops silently, or that is shown although the setting hides it."""
    first = Message("user", "1 + 1? Box it.")
    assert refine_messages(PROMPTS, reply) == (
        first,
        Message("assistant", answer),
        Message("user", EARLIER.format(reasoning, answer)),
    )
    hidden = refine_messages(replace(PROMPTS, show_reasoning=False), reply)
    assert hidden == (first, Message("assistant", answer), Message("user", "Check it."))


def test_without_the_closing_marker_nothing_is_changed() -> None:
    """Guards against lost blanks, braces or line ends, and a marker that is fixed in the code."""
    text = " 1 + 1 = {question}\n\n\\boxed{2} "
    for show in (True, False):
        assert refine_messages(replace(PROMPTS, show_reasoning=show), text)[1] == Message("assistant", text)
    other = replace(PROMPTS, thinking=("[[", "]]"))
    assert refine_messages(other, "[[so</think>]]2")[2] == Message("user", EARLIER.format("so</think>", "2"))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("solve", "Solve it.", r"prompts\.solve must contain the placeholder \{question\}"),
        ("merge", "{question} only", r"prompts\.merge must contain the placeholder \{candidates\}"),
        (
            "solve",
            "{question} {draft}",
            r"prompts\.solve would show \{draft\} as it is: only \{question\} is filled in",
        ),
        ("refine", "Improve {draft}", r"prompts\.refine would show \{draft\} as it is: this text has no placeholders"),
        ("system", "Solve {question}", r"prompts\.system would show \{question\} as it is"),
        ("rate", "{question} {candidate} {response}", r"only \{question\}, \{candidate\} is filled in"),
        ("satisfied", " ?!", r"prompts\.satisfied must contain words"),
        ("candidate_chars", 99, r"prompts\.candidate_chars must be at least 100, not 99"),
    ],
)
def test_unusable_texts_are_refused(setting: str, value: object, message: str) -> None:
    """Guards against a run whose prompts lack the problem or the candidates."""
    with pytest.raises(ValueError, match=message):
        Prompts(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("solve", "{question} Answer as \\boxed{response} or {answer}."),
        ("refine", 'Write {"reply": 1} or \\text{draft}.'),
        ("candidate", "{n}: {candidate}"),
        ("sub_answer", "{question} {sub_question}"),
    ],
)
def test_other_braces_are_text(setting: str, value: str) -> None:
    """Guards against a refusal of LaTeX and JSON."""
    assert getattr(Prompts(**{setting: value}), setting) == value  # type: ignore[arg-type]


def test_the_conversation_of_a_reflection_and_its_retry() -> None:
    """Guards against turns in another order."""
    prompts = replace(PROMPTS, system="Be brief.", reflect="Why?", retry="Again.")
    (prompt,) = prompts.ask_to_reflect([draft("3")])
    first = (Message("system", "Be brief."), Message("user", "1 + 1? Box it."), Message("assistant", "3"))
    assert prompt.messages == (*first, Message("user", "Why?"))
    assert (prompt.phase, prompt.draft) == ("reflect", draft("3"))
    ((reflection, other),) = FakePolicy(lambda prompt, index, version: f"thought {index}").sample([prompt], 2)
    (retry,) = prompts.ask_to_retry([reflection], [other])
    assert retry.messages == (*prompt.messages, Message("assistant", "thought 1"), Message("user", "Again."))
    assert (retry.phase, retry.draft) == ("retry", draft("3"))
    assert prompts.messages(PROBLEM, "retry", ("3", "thought 1")) == retry.messages


def test_candidates_in_one_turn() -> None:
    """Guards against candidates that are lost, doubled, reordered or shown with their thinking."""
    prompts = replace(
        PROMPTS, merge="{question}|{candidates}|merge", candidate="<{n}: {candidate}>", between="+", system=""
    )
    candidates = ["2", "<think>so</think> 3 ", "<think>never closed", "a</think>4"]
    (prompt,) = prompts.ask_to_merge([PROBLEM], [candidates])
    assert prompt.messages == (Message("user", "1 + 1?|<1: 2>+<2: 3>+<3: >+<4: 4>|merge"),)
    assert prompt.phase == "merge"


def test_braces_in_candidates_are_left_alone() -> None:
    """Regression: a candidate that held {question} got the question in its place."""
    prompts = replace(PROMPTS, merge="{question}|{candidates}", candidate="{n}. {candidate}", between="+")
    problem = replace(PROBLEM, question="{candidates}? {n}")
    (prompt,) = prompts.ask_to_merge([problem], [["{question}", "{n} {candidate} {x}"]])
    assert prompt.messages[0].content == "{candidates}? {n}|1. {question}+2. {n} {candidate} {x}"


def test_overlong_candidates_are_shown_without_their_middle() -> None:
    """By hand: of 105 characters the first and last 50 are shown; thinking does not count; 100 are not too many."""
    prompts = replace(PROMPTS, candidate_chars=100)
    assert prompts.shorten("x" * 50 + "-----" + "y" * 50) == f"{'x' * 50}\n[... 5 characters left out ...]\n{'y' * 50}"
    for text in (f"<think>{'t' * 101}</think>2", "z" * 100):
        assert prompts.shorten(text) == text.rpartition(">")[2]
        assert not prompts.is_cut(text)
    assert prompts.is_cut("z" * 101)


def test_seeds_and_groups_are_distinct() -> None:
    """Guards against phases, drafts, problems or passes over the data that share random numbers."""
    other = replace(PROBLEM, id="q")
    drafts = [draft("2", 0), draft("2", 1)]
    prompts = [
        *PROMPTS.ask([PROBLEM, other]),
        *PROMPTS.ask_to_refine(drafts),
        *replace(PROMPTS, seed=1).ask([PROBLEM]),
        *replace(PROMPTS, seed=1).ask_to_refine(drafts),
        *PROMPTS.ask_to_reflect(drafts),
        *PROMPTS.ask_to_retry(drafts, drafts),
        *PROMPTS.ask_to_merge([PROBLEM, other], [["2"], ["2"]]),
    ]
    assert len({p.seed for p in prompts}) == len({p.group for p in prompts}) == 13
    assert PROMPTS.ask([PROBLEM]) == PROMPTS.ask([other, PROBLEM])[1:]


def test_later_rounds_have_seeds_of_their_own() -> None:
    """Guards against refinements of two drafts, each reply 0 of its prompt, that are refined with the same random numbers
    and count as one group; and against a second round that repeats the first where a refinement keeps its draft."""
    policy = FakePolicy(lambda *_: "2")
    prompts = PROMPTS.ask_to_refine([draft("2", 0), draft("2", 1)])
    for _ in range(2):
        replies = [group[0] for group in policy.sample(prompts[-2:], 1)]
        prompts += PROMPTS.ask_to_refine(replies)
    assert len({p.seed for p in prompts}) == len({p.group for p in prompts}) == 6


SHOWN: dict[str, tuple[str, ...]] = {
    "solve": (),
    "refine": ("4",),
    "reflect": ("4",),
    "retry": ("4", "hm"),
    "merge": ("4", "5"),
}


def test_turns_before_the_question() -> None:
    """Guards against earlier turns that a phase leaves out, two system messages, and a judge that lacks the context."""
    earlier = (Message("user", "1+1?"), Message("assistant", "2"))
    asked = replace(PROBLEM, question="And 2+2?", earlier=earlier)
    own = replace(asked, earlier=(Message("system", "Be brief."), *earlier))
    prompts = Prompts(system="Reason.", refine="Check it.")
    for given, system in ((asked, "Reason."), (own, "Be brief.")):
        opening = [("system", system), ("user", "1+1?"), ("assistant", "2")]
        for phase, shown in SHOWN.items():
            messages = [(m.role, m.content) for m in prompts.messages(given, phase, shown)]
            assert messages[:3] == opening
            assert messages[3][0] == "user"
            assert "And 2+2?" in messages[3][1]
            assert [role for role, _ in messages[4:]] == ["assistant", "user"] * ((len(messages) - 4) // 2)
    (solve,) = prompts.ask([asked])
    ((reply,),) = FakePolicy(lambda *_: "4").sample([solve], 1)
    (rate,) = prompts.ask_to_rate(reply).messages
    assert "User: 1+1?\n\nAssistant: 2\n\nUser: And 2+2?" in rate.content


def test_critiques_and_improvements_are_turns_after_the_draft() -> None:
    """Guards against a demonstration that is trained after another conversation than `follow_up` shows."""
    first = draft("3")
    critique = replace(draft("hm"), prompt=PROMPTS.follow_up(first, "critique", PROMPTS.critique))
    improve = PROMPTS.follow_up(critique, "improve", PROMPTS.improve)
    assert PROMPTS.messages(PROBLEM, "critique", ("3",)) == critique.prompt.messages
    assert PROMPTS.messages(PROBLEM, "improve", ("3", "hm")) == improve.messages


def test_a_phase_without_a_text_needs_turns() -> None:
    """Guards against a misspelled phase that gets the prompt of a retry."""
    turns = (Message("assistant", "3"), Message("user", "Check."))
    assert PROMPTS.messages(PROBLEM, "check", turns=turns) == (Message("user", "1 + 1? Box it."), *turns)
    with pytest.raises(ValueError, match="the phase 'check' has no prompt text"):
        PROMPTS.messages(PROBLEM, "check", ("3",))


def test_composed_prompts() -> None:
    """Guards against values that are read as placeholders, a lost opening, and prompts that share a group or a seed."""
    earlier = (Message("user", "Hello."), Message("assistant", "Yes?"))
    asked = replace(PROBLEM, earlier=earlier)
    prompts = replace(PROMPTS, system="Be brief.", seed=1)
    prompt = prompts.compose(asked, "check", "{task} | {question} | {reply} | \\boxed{x}", reply="{task}")
    assert prompt.messages[:-1] == (Message("system", "Be brief."), *earlier)
    assert prompt.messages[-1] == Message("user", "1 + 1? Box it. | 1 + 1? | {task} | \\boxed{x}")
    assert (prompt.phase, prompt.draft) == ("check", None)
    composed = [
        prompt,
        replace(prompts, seed=2).compose(PROBLEM, "check", "?"),
        prompts.compose(replace(PROBLEM, id="q"), "check", "?"),
        prompts.compose(PROBLEM, "verify", "?"),
        prompts.compose(PROBLEM, "check", "?", draft("3")),
        prompts.compose(PROBLEM, "check", "?", draft("3", index=1)),
    ]
    assert len({p.seed for p in composed}) == len({p.group for p in composed}) == 6
    assert prompts.compose(PROBLEM, "check", "other", draft("3")).seed == composed[4].seed
    with pytest.raises(UserError, match=r"the check text would show \{draft\} as it is: only \{question\}, \{task\}, "):
        prompts.compose(PROBLEM, "check", "{draft}", reply="3")


def test_the_judged_draft_is_the_last_answer_with_a_verdict() -> None:
    """Guards against fix and damage relative to a critique, and against a failed verifier that is passed over."""
    first = draft("3")
    ungraded = replace(draft("4"), verdict=None)
    critique = replace(ungraded, prompt=PROMPTS.follow_up(first, "critique", "?"))
    check = replace(ungraded, prompt=PROMPTS.follow_up(critique, "check", "?"))
    improve = PROMPTS.follow_up(check, "improve", "?")
    assert improve.draft == check
    assert improve.judged_draft == critique.prompt.judged_draft == first
    improved = replace(ungraded, prompt=improve).with_verdict(Verdict(None))
    assert PROMPTS.follow_up(improved, "improve", "?").judged_draft is None
    assert first.prompt.judged_draft is None
    assert PROMPTS.follow_up(ungraded, "improve", "?").judged_draft is None


def test_a_critique_is_satisfied_if_it_ends_so() -> None:
    """Guards against critiques that end with a longer word, mention the words on the way, or only think them."""
    prompts = Prompts(satisfied="All right.", thinking=("<think>", "</think>"))
    for text, expected in {
        "all right": True,
        "I checked. **All right!**": True,
        "Step 2 is wall right": False,
        "All right, but step 2 is off": False,
        "<think>all right</think>Step 2 is off": False,
        "": False,
    }.items():
        assert prompts.is_satisfied(text) is expected, text
