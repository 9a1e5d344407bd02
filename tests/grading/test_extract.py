"""Finding the answer in a reply: boxes, tags, statements, final numbers, JSON; strictly and leniently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.grading import extract
from rethink.problems.mathematics import parse_gold, verify, verify_lenient
from support.patient_pool import patient

_patient = pytest.fixture(scope="module", autouse=True)(patient)

BOXES = {
    "so \\boxed{42}.": ["42"],
    "\\boxed{1} then \\boxed{2}": ["1", "2"],
    "\\boxed{1}\nthen \\boxed{2}": ["2"],
    "\\boxed{1} and \\boxed{2}\n\nSo there.": ["1", "2"],
    "\\boxed{\\frac{1}{2}}": ["\\frac{1}{2}"],
    "\\boxed {7}": ["7"],
    "\\boxed{ 7 }": ["7"],
    "\\boxed{1} and \\boxed{2": ["1"],
    "\\boxed{x \\boxed{3}": ["3"],
    "\\boxed{a \\boxed{b} c}": ["b"],
    "\\boxed{5} }}} {": ["5"],
    "{ { \\boxed{5}": ["5"],
    "\\fbox{\\boxed{5}}": ["5"],
    "\\fbox{5}": ["5"],
    "\\boxed{\\{1, 2\\}}": ["\\{1, 2\\}"],
    "\\boxed{\\left\\{ 1 \\right.}": ["\\left\\{ 1 \\right."],
    "\\\\boxed{5}": ["5"],
    "$$\\boxed{\n5\n}$$": ["5"],
    "\\boxed{1}\n\\boxed{\n5\n} \\boxed{6}": ["6"],
    "\\boxed{}": [""],
    "\\boxed{5": [],
    "\\boxed 5": [],
    "\\boxed": [],
    "boxed{5}": [],
    "the answer is 5": [],
    "": [],
}


@pytest.mark.parametrize(("reply", "contents"), BOXES.items(), ids=lambda text: repr(text)[:30])
def test_the_boxes_of_the_last_line_that_has_one(reply: str, contents: list[str]) -> None:
    """Guards against regular expressions that stop at the first brace, against boxes that never close, and against
    boxes of earlier lines."""
    assert extract.last_boxes(reply) == contents


@given(st.text(alphabet="{}5 \n", max_size=30), st.text(alphabet="{}5 ", max_size=30))
def test_what_stands_around_a_box_does_not_change_it(before: str, after: str) -> None:
    """Guards against stray braces that open or close a box which is whole in itself."""
    assert extract.last_boxes(f"{before}\\boxed{{a{{b}}c}}{after}") == ["a{b}c"]


@given(
    st.recursive(
        st.text("ab5 "), lambda inner: inner.map(lambda x: f"{{{x}}}") | st.builds("{}{}".format, inner, inner)
    )
)
def test_balanced_content_comes_out_whole(content: str) -> None:
    """Guards against a lost or an additional brace."""
    assert extract.last_boxes(f"so $\\boxed{{{content}}}$.") == [content.strip()]


STRICT = [
    ("\\boxed{5}", "5", True),
    ("\\boxed{5} = \\boxed{5.0}", "5", True),
    ("\\boxed{\\frac{5}{2}} = \\boxed{2.5}", "5/2", True),
    ("\\boxed{4}\nNo: \\boxed{5}", "5", True),
    ("\\boxed{5}\nNo: \\boxed{4}", "5", False),
    ("\\boxed{5} or \\boxed{6}", "5", False),
    ("\\boxed{6} or \\boxed{5}", "5", False),
    ("\\boxed{1} and \\boxed{-2}", "-2,1", True),
    ("\\boxed{5, 6}", "5", False),
    ("\\boxed{5 \\text{ or } 6}", "5", False),
    ("\\boxed{5 or 6}", "6", False),
    ("The answer is 5.", "5", False),
    ("<answer>5</answer>", "5", False),
    ("\\boxed{}", "5", False),
    ("\\boxed{ }", "", False),
    ("<think>\\boxed{5}", "5", False),
    ("<think>\\boxed{5}</think>", "5", False),
    ("<think>\\boxed{5}</think>It is 5.", "5", False),
    ("<think>\\boxed{4}</think>\\boxed{5}", "5", True),
    ("\\boxed{4} hm </think>\\boxed{5}", "5", True),
    ("<think>a</think>\\boxed{5}<think>b</think>", "5", False),
]


@pytest.mark.parametrize(("reply", "wanted", "right"), STRICT, ids=lambda value: repr(value)[:30])
def test_strict_verdicts(reply: str, wanted: str, right: bool) -> None:
    """Guards against an answer fished out of running text or out of thoughts, and against two answers that win where one
    was asked for."""
    assert verify(reply, wanted).right is right
    assert not verify(reply, wanted).lenient


def test_a_spray_of_boxes_does_not_win() -> None:
    """Guards against a policy that boxes every number: eight different boxes are the most, on lines of their own too."""
    lines = [f"\\boxed{{{n}}}" for n in range(extract.MAX_BOXES)]
    assert verify("\n".join(lines), "7").right is True
    assert verify(" ".join(lines), "7").right is False
    spray = verify("\n".join(["\\boxed{-1}", *lines]), "7")
    assert spray.right is False
    assert "9 different boxes" in spray.reason
    assert verify("\n".join(["\\boxed{7}"] * 50), "7").right is True


LENIENT = [
    ("The answer is **73**.", "73", True),
    ("**73**", "73", True),
    ("**Answer:** 73", "73", True),
    ("So the answer is **73** apples.", "73", True),
    ("**Final Answer**\n\n73", "73", True),
    ("Answer:\n\n$$x=5$$", "5", True),
    ("#### 5", "5", True),
    ("The answer is 4.\n#### 5", "5", True),
    ("This results in 4.\n#### 5", "5", True),
    ("**Answer** 5", "5", True),
    ("It results in 4 of the 5.", "5", True),
    ("The answer is 2**10.", "210", False),
    ("It is \\(\\frac{1}{2}\\).", "0.5", True),
    ("The answer is $\\frac{1}{2}$ km", "1/2", True),
    ("The result is 1,234.", "1234", True),
    ("My answer: −7", "-7", True),
    ("I count 12 apples.", "12", True),
    ("The answer is 5.\nThe answer is 6.", "6", True),
    ("The answer is 5.\nThe answer is 6.", "5", False),
    ("The answer is not 5", "5", False),
    ("The answer is 5 or 6.", "6", False),
    ("The answer is either 5 or 6, I think.", "6", False),
    ("The answer is $5$ or $6$.", "6", False),
    ("The answer is between 5 and 6.", "6", False),
    ("The answer is 5 or 6.", "5,6", True),
    ("no idea", "5", False),
    ("<think>the answer is 5", "5", False),
    ("The answer is 5</think>", "5", False),
]


@pytest.mark.parametrize(("reply", "wanted", "right"), LENIENT, ids=lambda value: repr(value)[:30])
def test_lenient_verdicts_are_marked(reply: str, wanted: str, right: bool) -> None:
    """Guards against bold answers rejected for their stars (huggingface/Math-Verify#76), and against lenience that picks
    one of two answers. None of these has an answer for strict extraction."""
    verdict = verify_lenient(reply, wanted)
    assert verdict.right is right
    assert verdict.lenient is (verdict.extracted is not None)
    assert verify(reply, wanted).right is False


@pytest.mark.parametrize("reply", ["\\boxed{4} so the answer is 5", "The answer is 5: \\boxed{4}"])
def test_lenience_never_overrules_a_box(reply: str) -> None:
    """Guards against two chances for one reply."""
    verdict = verify_lenient(reply, "5")
    assert (verdict.right, verdict.extracted, verdict.lenient) == (False, "4", False)


@given(st.integers(-(10**6), 10**6), st.sampled_from(["\\boxed{{{}}}", "The answer is {}.", "#### {}", "so\n{}"]))
def test_a_number_is_found_in_every_form(n: int, form: str) -> None:
    """Guards against a lost sign or digit."""
    assert verify_lenient(form.format(n), str(n)).right is True
    assert verify_lenient(form.format(n), str(n + 1)).right is False


TAGS = {
    "<answer>5</answer>": "5",
    "<ANSWER> 5 </Answer>": "5",
    "<answer>4</answer><answer>5</answer>": "5",
    "<answer>4 <answer>5</answer></answer>": "5",
    "<answer>5</answer> <answer>6": "5",
    "<answer>5": None,
    "5</answer>": None,
    "</answer>5<answer>": None,
    "": None,
}


@pytest.mark.parametrize(("text", "content"), TAGS.items())
def test_the_last_closed_answer_tag(text: str, content: str | None) -> None:
    """Guards against tags that are never closed, and against earlier answers."""
    assert extract.answer_tag(text) == content


NO_JSON = {
    "": "Expecting value",
    "[": "Expecting value",
    "nan": "Expecting value",
    "[NaN]": "NaN is not JSON",
    "[-Infinity]": "-Infinity is not JSON",
    '{"a": 1, "a": 2}': "repeats a key",
    '[{"b": {"a": 1, "a": 1}}]': "repeats a key",
    "{'a': 1}": "property name",
    "[1] [2]": "Extra data",
    "[" * 99_999: "nested too deeply",
    "1" * 5_000: "digits",
    "1" * 100_001: "100001 characters",
}


@pytest.mark.parametrize(("text", "reason"), NO_JSON.items(), ids=lambda text: text[:20])
def test_this_is_no_json(text: str, reason: str) -> None:
    """Guards against Python's liberal JSON (NaN, the last of repeated keys) and against its RecursionError."""
    with pytest.raises(ValueError, match=reason):
        extract.json_value(text)


def test_json_keeps_its_types() -> None:
    """Guards against 1 read as true, or as text."""
    assert extract.json_value(' [1, 1.5, true, null, "1", {"a": []}] ') == [1, 1.5, True, None, "1", {"a": []}]


def test_gold_is_behind_the_marker_in_the_last_box_or_the_text() -> None:
    """Guards against whole solutions as gold answers."""
    assert parse_gold("3 + 4 = 7\n#### 7") == "7"
    assert parse_gold("We get \\boxed{3}, hence \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert parse_gold(" 42 ") == "42"
