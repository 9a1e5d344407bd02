"""Gold answers in rows: one, several, none, and what is no answer."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.errors import UserError
from rethink.evaluation.drafts import DraftColumns, read_drafts
from rethink.evaluation.grade import GradeSettings, grade_rows
from rethink.problems import mathematics
from rethink.problems.gold import is_prose, join, several
from rethink.problems.question import QuestionColumns, read_questions
from rethink.problems.rows import Row
from rethink.problems.source import load_problems
from rethink.settings import ProblemSource

GOLDS: list[tuple[Any, str]] = [
    ("4", "4"),
    (["4"], "4"),
    (4, "4"),
    (4.0, "4.0"),
    (True, "true"),
    (["2", "-2"], '["2", "-2"]'),
    ([2, -2], '["2", "-2"]'),
    ('["2", "-2"]', '["2", "-2"]'),
    (["#### 2", "so \\boxed{-2}", "2"], '["2", "-2"]'),
    ("['2', '-2']", '["2", "-2"]'),
    ("['2']", "2"),
    ("[1, 2]", "[1, 2]"),
    ("\\{2, -2\\}", "\\{2, -2\\}"),
    ("so \\boxed{\\frac12}.", "\\frac12"),
    ([{"role": "user", "content": "3?"}, {"role": "assistant", "content": "It is \\boxed{3}."}], "3"),
    ([{"from": "human", "value": "3?"}, {"from": "gpt", "value": "#### 3"}], "3"),
]


@pytest.mark.parametrize(("value", "gold"), GOLDS)
def test_gold_answers(value: Any, gold: str) -> None:
    """Guards against JSON text as a gold answer. A list holds several accepted answers, text with brackets an interval."""
    assert mathematics.read_gold(Row("f, row 3", {"a": value}), "a") == gold


NO_GOLDS: list[tuple[Any, str]] = [
    ({"value": "4"}, 'holds {"value": "4"}, which is not an answer; dots reach into an object, such as answer=a.KEY'),
    ('{"value": "4"}', "which is not an answer"),
    ([["2", "3"]], "which is not an answer"),
    ([{"value": "4"}, {"value": "5"}], "which is not an answer"),
    ([], "is empty"),
    (["2", None], "is empty"),
    (None, "is empty"),
    (float("nan"), "is empty"),
    (b"4", "holds bytes"),
    ("nan", "holds 'nan': a missing value"),
    ("<NA>", "a missing value"),
    ("#REF!", "holds '#REF!': a missing value"),
    (["2", "#N/A"], "a missing value"),
    (float("inf"), "holds 'Infinity'"),
    ("['2' '-2']", "the text of a numpy array"),
    ("so ####", "no gold answer"),
    ([{"role": "user", "content": "3?"}], "does not end with the assistant's reply"),
    ("\frac12", "was probably \\frac"),
    ("so \\boxed{\frac12}", "was probably \\frac"),
    ("4\x00", "the control character"),
]


@pytest.mark.parametrize(("value", "message"), NO_GOLDS)
def test_what_is_no_gold_answer_is_refused(value: Any, message: str) -> None:
    """Guards against gold answers that no reply equals; the message shows the row."""
    with pytest.raises(UserError, match=r"^f, row 3: ") as caught:
        mathematics.read_gold(Row("f, row 3", {"a": value}), "a")
    assert message in str(caught.value)


def test_one_of_several_answers_is_enough() -> None:
    """Guards against a list that must be repeated as a whole, or its JSON text, which no problem asks for."""
    gold = join(["2", "-2"])
    replies = {"2": True, "-2": True, "-2.0": True, "3": False, "2, -2": False}
    for reply, right in replies.items():
        assert mathematics.verify(f"\\boxed{{{reply}}}", gold).right is right, reply
    assert mathematics.verify("""\\boxed{["2", "-2"]}""", gold).right is not True
    assert mathematics.verify(mathematics.gold_reply(gold), gold).right is True
    assert several(gold) == ["2", "-2"]
    assert mathematics.parse_gold('["#### 2", "\\\\boxed{-2}"]') == gold
    assert mathematics.equal_answers('["2", "-2"]', "2") is False


def test_an_answer_that_was_not_graded_against_one_of_several() -> None:
    """Guards against "wrong" where a comparison failed; a gold answer too long to be compared is no reply's fault."""
    assert mathematics.verify("\\boxed{3}", join(["2", "x" * 501])).right is None
    assert mathematics.verify("\\boxed{2}", join(["x" * 501, "2"])).right is True


def test_every_reader_reads_the_same_gold_answer(tmp_path: Any) -> None:
    """Guards against `grade`, `eval` and `answer` that read one file differently."""
    file = tmp_path / "f.jsonl"
    file.write_text('{"question": "x^2 = 4?", "answer": ["2", "-2"], "response": ["\\\\boxed{-2}", "\\\\boxed{3}"]}\n')
    source = ProblemSource(str(file))
    (problem,) = load_problems(source)
    (asked,) = read_questions(file, source, QuestionColumns(answer="answer"))
    ((drafted,), drafts) = read_drafts(file, source, DraftColumns(), None)
    assert {problem.gold, asked.gold, drafted.gold} == {'["2", "-2"]'}
    assert drafts == {drafted.id: ["\\boxed{-2}", "\\boxed{3}"]}
    row = Row("f", {"answer": ["2", "-2"], "response": ["\\boxed{-2}", "\\boxed{3}"], "s": [1, 0]})
    records = list(grade_rows([row], GradeSettings(mathematics.FORMAT, "answer", "response", against="s")))
    assert [(r["row"], r["reply"], r["verdict"], r["against"]) for r in records] == [
        (0, 0, "right", "right"),
        (0, 1, "wrong", "wrong"),
    ]


def test_prose() -> None:
    """Guards against formulas and units that count as sentences."""
    for gold in ("4", "\\frac{\\sqrt{3}}{2}", "3 \\text{ metres per second}", "x " * 40, "\\alpha " * 40):
        assert not is_prose(gold), gold
    assert is_prose(
        "First add the two numbers, then divide by the number of people who are left at the end of the day."
    )
