"""Finding the answer in a reply: boxes, tags, statements, final numbers, JSON; strictly and leniently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.grading import extract

BOXES = {
    "so \\boxed{42}.": ["42"], "\\boxed{1} then \\boxed{2}": ["1", "2"], "\\boxed{1}\nthen \\boxed{2}": ["2"],
    "\\boxed{1} and \\boxed{2}\n\nSo there.": ["1", "2"], "\\boxed{ 7 }": ["7"], "\\boxed{1} and \\boxed{2": ["1"],
    "\\boxed{x \\boxed{3}": ["3"], "\\boxed{a \\boxed{b} c}": ["b"], "\\fbox{5}": ["5"],
    "\\boxed{\\left\\{ 1 \\right.}": ["\\left\\{ 1 \\right."], "\\boxed\n{5}": ["5"],
    "\\boxed{1}\n\\boxed{\n5\n} \\boxed{6}": ["6"], "\\boxed {7}": ["7"], "\\boxed5": ["5"], "\\boxed 5.": ["5"],
    "$\\boxed\\frac{1}{2}$": ["\\frac{1}{2}"], "$\\boxed\\text{B}$": ["\\text{B}"], "\\boxed B": ["B"], "oxed{5}": ["5"],
    "\\boxed{**5**}": ["5"], "\\boxed{\\(5\\)}": ["5"],
    "\\boxed{5}, written in \\boxed{} or \\boxed{...}": ["5"], "\\boxed{5}\n\nI used \\boxed{ \\ }.": ["5"],
    "\\boxed{13\\\\}": ["13"], "\\boxed{13 \\\\ }": ["13"], "\\boxed{\\\\frac{1}{2}}": ["\\frac{1}{2}"],
    "\\boxed 3x": [], "\\boxed 3 + 1": [], "\\boxed 3^2": [], "\\boxed as": [], "a foxed{5}": [],
    "\\boxed{\\begin{matrix}1\\\\2\\end{matrix}}": ["\\begin{matrix}1\\\\2\\end{matrix}"],
    "\\boxed{}": [], "\\boxed 5": ["5"], "": [],
}  # fmt: skip


@pytest.mark.parametrize(("reply", "contents"), BOXES.items(), ids=lambda text: repr(text)[:30])
def test_the_boxes_of_the_last_line_that_has_one(reply: str, contents: list[str]) -> None:
    """Guards against a search that stops at the first brace, boxes that never close, and boxes of earlier lines."""
    assert extract.last_boxes(reply) == contents


@given(st.text(alphabet="{}5 \n", max_size=30), st.text(alphabet="{}5 ", max_size=30))
def test_text_around_a_box_does_not_change_it(before: str, after: str) -> None:
    """Guards against stray braces that open or close a box which is whole in itself."""
    assert extract.last_boxes(f"{before}\\boxed{{a{{b}}c}}{after}") == ["a{b}c"]


TAGS = {
    "<answer>5</answer>": "5", "<ANSWER> 5 </Answer>": "5", "<answer>4</answer><answer>5</answer>": "5",
    "<answer>4 <answer>5</answer></answer>": "5", "<answer>5</answer> <answer>6": "5", "<answer>5": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "content"), TAGS.items())
def test_the_last_closed_answer_tag(text: str, content: str | None) -> None:
    """Guards against tags that are never closed, and against earlier answers."""
    assert extract.answer_tag(text) == content


NO_JSON = {
    "": "Expecting value", "[": "Expecting value", "[NaN]": "NaN is not JSON",
    '[{"b": {"a": 1, "a": 1}}]': "repeats a key", "{'a': 1}": "property name", "[1] [2]": "Extra data",
    "[" * 99_999: "nested too deeply", "1" * 5_000: "digits", "1" * 100_001: "100001 characters",
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), NO_JSON.items(), ids=lambda text: text[:20])
def test_invalid_json_is_refused(text: str, reason: str) -> None:
    """Guards against Python's liberal JSON (NaN, the last of repeated keys) and against its RecursionError."""
    with pytest.raises(ValueError, match=reason):
        extract.json_value(text)


READABLE = {
    "\\\\\\\\boxed{5}": "\\boxed{5}",
    "<think>\\boxed{3}</think>\\boxed{2}": "\\boxed{2}", "<think>\\boxed{3}": "",
    "\\boxed{2}<!-- \\boxed{3} -->": "\\boxed{2}", "<!-- \\boxed{3}": "",
    "\\\\boxed{\\\\frac{1}{2}}": "\\boxed{\\frac{1}{2}}", "\\\\boxed{\\\\{1\\\\}}": "\\boxed{\\{1\\}}",
    "a \\\\\\boxed{5}": "a \\\\\\boxed{5}",
    "\boxed{\frac{1}{2}}": "\\boxed{\\frac{1}{2}}", "\fbox{3\times 4}": "\\fbox{3\\times 4}",
}  # fmt: skip


@pytest.mark.parametrize(("reply", "text"), READABLE.items(), ids=lambda text: repr(text)[:30])
def test_what_a_reader_takes_for_the_answer(reply: str, text: str) -> None:
    """Guards against boxes that nobody sees, and against backslashes that JSON lost or doubled."""
    assert extract.readable(reply) == text
