"""Multiple choice: shuffled options, letters in boxes, and replies with several letters."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.problems import choice
from rethink.problems.rows import Columns, Row
from support.cpu_limit import cpu_limit

GPQA = Columns("Question", "Correct Answer", options="Incorrect Answer 1,Incorrect Answer 2, Incorrect Answer 3")
LIST = Columns()

# reply -> what is extracted; the gold answer is C
STRICT: dict[str, str | None] = {
    "\\boxed{C}": "C", "\\boxed{c}": "C", "\\boxed{(C)}": "C", "\\boxed{C.}": "C", "\\boxed{**C**}": "C",
    "\\boxed{\\text{(C)}}": "C", "\\boxed{\\textbf C}": "C", "$\\boxed{\\mathrm{C}}$": "C",
    "\\boxed{A}\nNo: \\boxed{C}": "C", "\\boxed{C}, to repeat: \\boxed{\\text{C}}": "C",
    "<think>\\boxed{A}</think> \\boxed{C}": "C", "\\boxed{B}": "B", "\\boxed{C}\n\\boxed{D}": "D",
    "\\boxed{A} or \\boxed{C}": "A, C", "\\boxed{C} or \\boxed{none}": "C, none", "\\boxed{CD}": "CD",
    "\\boxed{3}": "3",
    "\\boxed{\u0421}": "\u0421",  # Cyrillic
    "\\boxed{\\textbackslash}": "\\textbackslash", "\\boxed{}": None, "\\boxed{C": None, "<think>\\boxed{C}": None,
    "\\boxed{C}</think>": None, "": None,
}  # fmt: skip

LENIENT: dict[str, str | None] = {
    "The answer is (C).": "C", "The correct answer is option C, since A is wrong.": "C", "**Answer:** C": "C",
    "**Final answer**: $\\text{C}$": "C", "Answer:\n\nC": "C", "The answer is C) E. coli": "C",
    "The answer is C. I hope this answers your question.": "C", "The answer is A. Wait, no. The answer is C": "C",
    "The answer is A.\nRather this:\n\nC": "C", "I think so.\n\\(C\\)": "C", "The answer is A. It is certain.": "A",
    "<think>The answer is C": None, "The answer is C</think>I cannot tell.": None, "The answer is A, B, C or D": None,
    "The answer is A B C D": None, "A\nB\nC": None, "Answer:\nA) Oslo\nB) Rome\nC) Paris": None,
    "The answer is A) Oslo, B) Rome, C) Paris": None, "The answer is C) Paris or perhaps B) Rome": None,
    "The answer is C. Oslo, B. Rome, A. Paris": None, "The answer is C or D": None, "The answer is C/D.": None,
    "The answer is C to D": None, "The answer is either C or D": None,
    "The answer is C.\nOn reflection, the answer is not C": None, "The answer is I guess C": None,
    "The answer is a complicated one.": None, "the answer is c": None, "It runs at\nc": None,
    "C is my favourite letter": None, "Option C is correct.": "C", "Thus, C is the correct option.": "C",
    "Option A is incorrect. Option C is correct. Option D is incorrect.": "C", "Both A and C are correct.": None,
    "Neither A nor C is correct.": None, "A or C is correct.": None, "The answer is C.\nActually, C is not correct.": None,
    "**The correct answer is (C) iron.**\n\n* (A) is wrong.\n* (B) is too.": "C", "I would go with option C.": "C",
    "So it's C.": "C", "Therefore: C": "C", "Answer - C": "C", "This matches option C.": "C",
    "The correct choice is **C**.": "C",
    "What is left is:\n\n**C. 12 m/s**": "C", "A) Oslo\nB) Rome\nC) Paris": None, "A good choice is hard to make.": None,
    "A is the mass and C is the correct option.": "C", "The answer is C because A is not correct.": "C",
    "I is the current, so I am not sure.": None, "Hence option C.": "C", "Ans: C": "C",
    "Options A and C are correct.": None, "If the answer is B, then 0 = 1, which cannot be.\nSo C.": "C",
    "I suppose the answer is C.": "C", "So I'll assume the answer is C": "C", "I assume that option C is correct.": "C",
    "Assume that the correct answer is C. That fails.": None, "If option B is correct, x = 2. So option C is right.": "C",
}  # fmt: skip


LABELED: dict[str, str | None] = {
    "\\boxed{C) 5 N}": "C", "\\boxed{C. a salt of iron}": "C", "\\boxed{\\text{(C) } 5}": "C",
    "\\boxed{\\textbf{(C)}\\ 5}": "C",
    "\\boxed{\\text{Option C}}": "C", "\\boxed{A) 5 and C) 7}": None, "\\boxed{\\text{A and C}}": None,
    "\\boxed{C major}": None,
    "\\boxed{C - carbon}": "C", "\\boxed{\\text{C}\\; \\text{carbon}}": "C", "\\boxed{4.2} (option C)": "C",
    "It is \\boxed{4.2\\,\\text{eV}}, which is option C.\n\nAnswer: C": "C", "\\boxed{x \\ll y}.\n\n**Answer: C**": "C",
}  # fmt: skip


@pytest.mark.parametrize(("reply", "extracted"), LABELED.items(), ids=lambda text: repr(text)[:30])
def test_boxes_with_more_than_a_letter(reply: str, extracted: str | None) -> None:
    """Guards against a box with an option's text, or with a value, that hides the letter from lenient extraction."""
    strict, lenient = choice.verify(reply, "C"), choice.verify_lenient(reply, "C")
    assert strict.right is False
    assert (lenient.right, lenient.lenient) == (extracted == "C", extracted is not None)


@pytest.mark.parametrize(("reply", "extracted"), STRICT.items(), ids=lambda text: repr(text)[:30])
def test_strict_extraction(reply: str, extracted: str | None) -> None:
    """Guards against letters taken from longer answers, and against boxes rejected for their markup."""
    for verdict in (choice.verify(reply, "C"), choice.verify_lenient(reply, "C")):
        assert (verdict.right, verdict.extracted, verdict.lenient) == (extracted == "C", extracted, False)


@pytest.mark.parametrize(("reply", "extracted"), LENIENT.items(), ids=lambda text: repr(text)[:30])
def test_lenient_extraction(reply: str, extracted: str | None) -> None:
    """Guards against replies that list all options and are right, and against strict verdicts that guess."""
    strict, lenient = choice.verify(reply, "C"), choice.verify_lenient(reply, "C")
    assert (strict.right, strict.extracted, strict.lenient) == (False, None, False)
    found = extracted is not None
    assert (lenient.right, lenient.extracted, lenient.lenient) == (extracted == "C", extracted, found)


def test_many_different_boxes_are_wrong() -> None:
    """Guards against a reply that boxes every letter; the same box many times is one answer."""
    nine = "\n".join(f"\\boxed{{{letter}}}" for letter in "DEFGHIJAC")
    assert choice.verify(nine, "C").reason == "more than 8 different boxes"
    assert choice.verify_lenient(nine, "C").right is False
    assert choice.verify(nine.removeprefix("\\boxed{D}\n"), "C").right is True
    assert choice.verify("\\boxed{C}\n" * 50, "C").right is True


@given(st.text(alphabet="\\boxed{}ABC)(.,:*\n answer is", max_size=60), st.sampled_from("ABC"))
def test_reasons_do_not_depend_on_the_gold_answer(reply: str, gold: str) -> None:
    """Guards against reasons that show the gold answer to a policy that reads them, and against exceptions."""
    for grade in (choice.verify, choice.verify_lenient):
        verdicts = [grade(reply, letter) for letter in "ABC"]
        assert sum(verdict.right is True for verdict in verdicts) <= 1
        assert len({verdict.reason for verdict in verdicts if not verdict.right}) <= 1
        assert len({verdict.extracted for verdict in verdicts}) == 1


@pytest.mark.parametrize("n", [10**5, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("unit", "end"), [("answer is C or ", ""), ("A\n", ""), ("\\boxed{A}", "\\boxed{C}"), ("{", "")]
)
def test_hostile_replies_are_wrong(unit: str, end: str, n: int) -> None:
    """Guards against exceptions and against quadratic searches."""
    reply = unit * (n // len(unit)) + end
    with cpu_limit():
        assert choice.verify(reply, "C").right is False
        assert choice.verify_lenient(reply, "C").right is False


def gpqa(n: int) -> Row:
    values = {"Question": f" What is {n} + 1?\n", "Correct Answer": f"{n + 1}\n"}
    return Row(f"row {n}", values | {f"Incorrect Answer {k}": f" {n + 1 + k} " for k in (1, 2, 3)})


def shown(question: str) -> dict[str, str]:
    return dict(line.split(") ", 1) for line in question.split("\n")[2:])


def test_read_row_of_gpqa() -> None:
    """Guards the layout and the gold letter; GPQA's cells have stray blanks and line ends."""
    question, gold = choice.FORMAT.read_row(gpqa(4), GPQA, 11)
    assert question.split("\n")[:2] == ["What is 4 + 1?", ""]
    options = shown(question)
    assert list(options) == ["A", "B", "C", "D"]
    assert sorted(options.values()) == ["5", "6", "7", "8"]
    assert options[gold] == "5"
    assert "{question}" in choice.FORMAT.solve


def test_shuffles_are_seeded_and_uniform() -> None:
    """Guards against an order that leaks the answer (GPQA's right option comes first), or changes between runs."""
    first, again, other = ([choice.read_row(gpqa(n), GPQA, seed) for n in range(1000)] for seed in (3, 3, 5))
    assert first == again
    counts = Counter(gold for _, gold in first)
    assert set(counts) == set("ABCD")
    assert all(181 <= count <= 319 for count in counts.values())  # 250 and five standard deviations
    assert 10 <= sum(a == b for a, b in zip(first, other, strict=True)) <= 74  # 42 expected


def test_read_row_with_columns_named_by_letters() -> None:
    """Guards against a letter, an index or a text that becomes a fifth option."""
    for answer in ("C", "Paris", 2):
        row = Row("here", {"q": "Which?", "A": "Oslo", "B": "Rome", "C": "Paris", "D": "Bern", "answer": answer})
        question, gold = choice.read_row(row, Columns("q", options="A,B,C,D"), 2)
        assert sorted(shown(question).values()) == ["Bern", "Oslo", "Paris", "Rome"]
        assert shown(question)[gold] == "Paris"


@pytest.mark.parametrize("answer", [2, 2.0, "2", "C", "c", "(C)", " Paris\n"])
def test_read_row_with_a_list_of_options(answer: Any) -> None:
    """Guards the ways to name the right option: index (as text or float, as tables have it), letter and text."""
    options: list[Any] = ["Oslo", "Rome", " Paris ", "Bern\n(CH)", 5]
    for seed in range(7):
        row = Row("here", {"question": "?", "answer": answer, "options": json.dumps(options) if seed % 2 else options})
        question, gold = choice.read_row(row, LIST, seed)
        assert sorted(shown(question).values()) == ["5", "Bern (CH)", "Oslo", "Paris", "Rome"]
        assert shown(question)[gold] == "Paris"


@pytest.mark.parametrize("answer", ["B", 1, "B. Rome", "Rome"])
@pytest.mark.parametrize("options", [["A. Oslo", "B. Rome"], ["(A) Oslo", "(B) Rome"], {"A": "Oslo", "B": "Rome"}])
def test_labels_of_options_are_replaced(options: Any, answer: Any) -> None:
    """Guards against two letters per option, "A) B. Rome", after the options were shuffled."""
    if isinstance(options, dict) or "(" in options[0]:
        answer = "Rome" if answer == "B. Rome" else answer
    for seed in range(4):
        question, gold = choice.read_row(
            Row("here", {"question": "?", "answer": answer, "options": options}), LIST, seed
        )
        assert sorted(shown(question).values()) == ["Oslo", "Rome"]
        assert shown(question)[gold] == "Rome"


def test_a_gold_answer_without_options_is_a_letter() -> None:
    """Guards against `rethink grade` with the index or text of an option, which no reply equals."""
    assert [choice.FORMAT.gold_in(Row("here", {"g": g}), "g") for g in ("B", " (b)")] == ["B", "B"]
    for gold in (1, "1", "Rome"):
        with pytest.raises(UserError, match="here: the column 'g' must be the letter"):
            choice.FORMAT.gold_in(Row("here", {"g": gold}), "g")


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"options": ["a", "b", "a "]}, "two options are the same, 'a'"),
    ({"answer": "c"}, "the answer 'c' is not one of the options"),
    ({"answer": 2}, "the answer '2' is not one of the options"),
    ({"answer": 2.0}, "is not one of the options; an index counts from 0, so the last one is 1"),
    ({"answer": 0.5}, "the answer '0.5' is not one of the options"),
    ({"answer": "1", "options": ["1", "0"]}, "the answer '1' matches two options; give an index"),
    ({"options": {"text": ["a", "b"], "label": ["A", "B"]}}, "is not a list of options; is the list in options.text"),
    ({"answer": True}, "the answer 'True' is not one of the options"),
    ({"answer": "A", "options": ["B", "A"]}, "the answer 'A' matches two options; give an index"),
    ({"answer": None}, "an option or the answer is empty"),
    ({"options": ["a"]}, "1 options; 2 to 26 can have letters"),
    ({"options": "a, b"}, "not a list of options"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_read_row_refuses_bad_rows(change: dict[str, Any], message: str) -> None:
    """Guards against questions with two right options, or without one."""
    row = Row("file.jsonl, row 7", {"question": "q", "answer": "a", "options": ["a", "b"], **change})
    with pytest.raises(UserError, match=rf"^file\.jsonl, row 7: .*{message}"):
        choice.read_row(row, LIST, 0)


@pytest.mark.parametrize(("labels", "answer"), [("1234", "2"), ("1234", 2), ("ABCD", "B"), ("0123", "1")])
def test_labels_beside_the_options_name_the_right_one(labels: str, answer: Any) -> None:
    """Guards against ARC's rows with the labels 1 to 4, whose answers were read as indices from 0."""
    choices = {"text": ["Oslo", "Rome", "Paris", "Bern"], "label": list(labels)}
    row = Row("here", {"question": "?", "choices": choices, "answer": answer})
    question, gold = choice.read_row(row, Columns(options="choices.text"), 3)
    assert shown(question)[gold] == "Rome"


@pytest.mark.parametrize("options", ["options", "A,B,C"])
def test_options_keep_the_letters_of_the_file_if_replies_name_them(options: str) -> None:
    """Guards against drafts that name a letter of the file and are graded by the letters of another order."""
    listed = ["tea", "milk", "beer"]
    row = Row("here", {"question": "Which?", "options": listed, **dict(zip("ABC", listed, strict=True)), "answer": "C"})
    for seed in range(5):
        question, gold = choice.read_row(row, Columns(options=options, in_order=True), seed)
        assert (question, gold) == ("Which?\n\nA) tea\nB) milk\nC) beer", "C")
