"""Drafts that exist already: whose they are, which problem each belongs to, and that they are not sampled again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rethink.errors import UserError
from rethink.evaluation.answers import Answer
from rethink.evaluation.drafts import (
    DraftColumns,
    drafts_from_answers,
    load_drafts,
    read_drafts,
    replies_in,
    response_text,
    with_enough_drafts,
)
from rethink.evaluation.evaluate import Drafts, EvaluationSpec, evaluate, make_setup, resumable_answers, run_evaluation
from rethink.evaluation.summary import summarize
from rethink.jsonl import to_json
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.problems import mathematics
from rethink.problems.files import read_rows
from rethink.problems.source import load_problems
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings, ProblemSource
from rethink.strategies import parse_all
from rethink.types import Problem, Prompt
from support.evaluations import SmallContextPolicy, pair, problem
from support.images import image, png

BOXED = ProblemSource("drafts")
COLUMNS = DraftColumns()


def jsonl(folder: Path, *rows: Mapping[str, object]) -> Path:
    file = folder / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def refused(file: Path, problems: list[Problem] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_drafts(file, BOXED, COLUMNS, problems)
    return str(caught.value)


def test_problems_with_too_few_drafts_are_left_out() -> None:
    """Guards against one failed draft that refuses a whole evaluation by votes. If none has enough, `evaluate` refuses."""
    some = [problem("a"), problem("b")]
    drafts = {"a": ["1", "2"], "b": ["1"]}
    with pytest.warns(UserWarning, match="1 of 2 problems have fewer than 2 drafts, and are left out"):
        assert with_enough_drafts(some, drafts, 2) == some[:1]
    assert with_enough_drafts(some, drafts, 1) == with_enough_drafts(some, drafts, 3) == some


def test_rows_of_one_problem_are_its_drafts(tmp_path: Path) -> None:
    """Guards against one problem per row: question and gold answer decide. A limit, once ignored, counts rows."""
    rows = [("1+1?", "2", "a"), ("2+2?", "4", "b"), ("1+1?", "2", "c"), ("1+1?", "3", "d"), ("2+2?", "#### 4", None)]
    file = jsonl(tmp_path, *({"question": q, "answer": g, "response": r} for q, g, r in rows), {"nothing": 1})
    with pytest.warns(UserWarning, match="1 of 5 replies are empty, and are left out"):
        problems, drafts = read_drafts(file, ProblemSource("d", limit=5), COLUMNS, None)
    assert [(p.id, p.question, p.gold, p.suite) for p in problems] == [
        ("d.jsonl/0", "1+1?", "2", "d.jsonl"),
        ("d.jsonl/1", "2+2?", "4", "d.jsonl"),
        ("d.jsonl/3", "1+1?", "3", "d.jsonl"),
    ]
    assert drafts == {"d.jsonl/0": ["a", "c"], "d.jsonl/1": ["b"], "d.jsonl/3": ["d"]}
    assert problems[0].solve == mathematics.SOLVE_BOXED
    assert problems[0].grade("\\boxed{2}").right is True


def test_named_columns_suites_and_extraction(tmp_path: Path) -> None:
    """Guards against settings that only apply to problem files; equal questions of two benchmarks stay apart."""
    rows = [{"q": {"text": "1+1?"}, "gold": ["2"], "reply": f"It is {n}.", "set": s} for n, s in ((2, "a"), (3, "b"))]
    source = ProblemSource("d", suite="set", extraction="lenient")
    problems, drafts = read_drafts(jsonl(tmp_path, *rows), source, DraftColumns("q.text", "gold", "reply"), None)
    assert [(p.suite, p.gold, *drafts[p.id]) for p in problems] == [("a", "2", "It is 2."), ("b", "2", "It is 3.")]
    verdicts = [p.grade(*drafts[p.id]) for p in problems]
    assert [(v.right, v.lenient) for v in verdicts] == [(True, True), (False, True)]


@pytest.mark.parametrize("with_problems", [False, True])
def test_a_file_of_drafts_names_its_columns_of_images(with_problems: bool, tmp_path: Path) -> None:
    """Guards against rows with images in two columns that are refused although the columns to read are named, and marks in
    their questions that fit no problem."""
    row = {
        "question": "<image> What?",
        "answer": "4",
        "response": "4",
        "image": png("red"),
        "after": {"bytes": png("blue"), "path": None},
    }
    source = ProblemSource("d", images="image", verifier="boxed")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "d.parquet")
    known = load_problems(ProblemSource(images="image", verifier="boxed"), rows=[row]) if with_problems else None
    (asked,), drafts = read_drafts(tmp_path / "d.parquet", source, COLUMNS, known)
    assert (asked.question, asked.images, drafts[asked.id]) == ("What?", (image("red"),), ["4"])
    with pytest.raises(
        UserError, match=r"'after' has an image .* problems\.images=image or problems\.images=image,after"
    ):
        read_drafts(tmp_path / "d.parquet", replace(source, images=""), COLUMNS, known)


def test_other_answer_formats_read_their_columns(tmp_path: Path) -> None:
    """Multiple choice once had no options in its question, and a gold answer that no letter equals."""
    row = {"question": "Which?", "answer": "tea", "options": ["milk", "tea"], "response": "\\boxed{A}"}
    source = ProblemSource("d", verifier="choice")
    ((asked,), _) = read_drafts(jsonl(tmp_path, row), source, COLUMNS, None)
    letter = asked.gold
    assert f"{letter}) tea" in asked.question
    assert asked.grade(f"\\boxed{{{letter}}}").right is True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ({"a": "ä"}, '{"a": "ä"}'),
        ([{"role": "assistant", "content": None}], None),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}], "x"),
        ([], "[]"),
        ("a\ud800b", "a\ufffdb"),
    ],
)
def test_replies_as_text(value: object, text: str | None) -> None:
    """Half of a surrogate pair, legal in JSON, once ended an evaluation when its answers were written."""
    assert response_text(value) == text


def test_mistakes_name_the_place(tmp_path: Path) -> None:
    """Guards against a KeyError, and against drafts that are graded against an empty answer."""
    row = {"question": "1+1?", "answer": "2", "response": "x"}
    assert "line 2: no column 'response'" in refused(jsonl(tmp_path, row, {"question": "2", "answer": "3"}))
    assert "line 1: the column 'answer' is empty" in refused(jsonl(tmp_path, {**row, "answer": ""}))
    assert refused(jsonl(tmp_path)).endswith("has no rows")


SUITE = [
    Problem(f"s/{n}", q, "1", mathematics.verify) for n, q in enumerate(["Find  x.", "Find x. Then y.", "x = 1", "7"])
]
FOUND = {
    " Find\n x. ": "s/0",
    "Find x. Put it into a box.": "s/0",
    "Find x. Then y.\n\nPut it into a box.": "s/1",
    "x = 1 or so?": "s/2",
}


@pytest.mark.parametrize(("question", "name"), FOUND.items())
def test_questions_are_matched_despite_an_instruction_after_them(tmp_path: Path, question: str, name: str) -> None:
    """Guards against a short question that takes the drafts of a longer one that begins alike."""
    file = jsonl(tmp_path, {"question": question, "response": "r"})
    problems, drafts = read_drafts(file, BOXED, COLUMNS, SUITE)
    assert ([p.id for p in problems], drafts) == ([name], {name: ["r"]})


@pytest.mark.parametrize("question", ["x = 12", "x = 1.5?", "Now: Find x.", "Find x"])
def test_an_unknown_question_is_an_error(tmp_path: Path, question: str) -> None:
    """`x = 12` once was a draft to `x = 1`: silently graded against another gold answer."""
    rows = [{"question": "Find x.", "response": "r"}, {"question": question, "response": "r"}]
    message = refused(jsonl(tmp_path, *rows), SUITE)
    assert "line 2: no problem named with --on has this question" in message
    assert repr(question) in message


def test_equal_questions_of_several_problems(tmp_path: Path) -> None:
    """Guards against a problem that loses its drafts to another one with the same question, in another suite, or about
    another image, and so against replies that are graded by the gold answer of another problem."""
    rows = [{"question": "1+1?", "response": f"It is {n}."} for n in (2, 3)]
    file = jsonl(tmp_path, *rows)
    twice = [Problem(name, "1+1?", "2", mathematics.verify, suite=name) for name in ("a", "b")]
    assert read_drafts(file, BOXED, COLUMNS, twice)[1] == {"a": ["It is 2.", "It is 3."], "b": ["It is 2.", "It is 3."]}
    message = refused(file, [twice[0], replace(twice[1], gold="10")])
    assert "line 1: a and b both have this question, and differ in the rest" in message


def test_equal_questions_about_several_images(tmp_path: Path) -> None:
    """All replies to a question were once drafts of the last problem that asks it, whatever its image."""
    rows: list[dict[str, object]] = []
    for color in ("red", "blue", "green"):
        rows.append({"question": "Which color?", "answer": "1", "response": color, "image": png(color)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    suite = load_problems(ProblemSource(verifier="boxed"), rows=rows)
    problems, drafts = read_drafts(tmp_path / "d.parquet", BOXED, COLUMNS, suite)
    assert [drafts[p.id] for p in problems] == [["red"], ["blue"], ["green"]]
    assert problems == suite
    with pytest.raises(UserError, match="row 2: no problem named with --on has this question about these images"):
        read_drafts(tmp_path / "d.parquet", BOXED, COLUMNS, suite[:2])
    without = jsonl(tmp_path, {"question": "Which color?", "response": "red"})
    assert "both have this question, and differ in the rest" in refused(without, suite)


def test_replies_that_are_missing_are_no_wrong_drafts(tmp_path: Path) -> None:
    """A request that had failed once counted as a wrong draft, and any answer after it as a fix."""
    row = {"question": "1+1?", "answer": "2"}
    file = jsonl(tmp_path, {**row, "response": ""}, {**row, "response": [None, "x"]}, {"question": "2+2?"} | row)
    with pytest.raises(UserError, match="line 3: no column 'response'"):
        read_drafts(file, BOXED, COLUMNS, None)
    file = jsonl(tmp_path, {**row, "response": " "})
    assert refused(file).endswith("has no replies: the column 'response' is empty in all rows")
    asked = [problem("a"), problem("b")]
    failed = {"a": "failed", "b": "stop"}
    policy = FakePolicy(lambda *_: "wrong")
    answers = evaluate(policy, asked, AnswerSettings("solve"))
    records: list[str] = []
    for one in answers:
        steps = tuple(replace(step, stop=failed[one.problem]) for step in one.steps)
        records.append(to_json(asdict(replace(one, steps=steps))))
    kept = tmp_path / "answers.jsonl"
    kept.write_text("".join(f"{record}\n" for record in records))
    with pytest.warns(UserWarning, match="1 of 2 drafts failed at the server, and are left out"):
        problems, drafts = drafts_from_answers(kept, asked)
    assert ([p.id for p in problems], drafts) == (["b"], {"b": ["wrong"]})


def never(prompt: Prompt, index: int, version: int) -> str:
    assert prompt.draft is not None, "a given draft was sampled again"
    return "right" if "wrong" in prompt.draft.text else "wrong"


def refine_given(policy: Policy, problems: list[Problem], settings: AnswerSettings, drafts: Drafts) -> list[Answer]:
    """Return the answers of the strategies to given drafts."""
    spec = EvaluationSpec(problems, parse_all(settings.strategy), drafts=drafts)
    return run_evaluation(make_setup(policy, Prompts(), settings), spec, resumable_answers(None))


def solved(file: Path) -> list[Problem]:
    """a: right and wrong, b: skipped as over-long, c: wrong twice."""
    asked = [problem(name) for name in "abc"]
    policy = SmallContextPolicy(
        lambda p, n, v: "right" if (p.problem.id, n) == ("a", 0) else f"wrong {n}", lambda p: p.problem.id == "b"
    )
    evaluate(policy, asked, AnswerSettings("solve,merge:2"), file=file)
    return asked


def test_drafts_of_an_evaluation_are_refined_by_another_policy(tmp_path: Path) -> None:
    """Guards against drafts that are sampled again, changed, or counted once per strategy that began with them."""
    file = tmp_path / "answers.jsonl"
    problems, drafts = drafts_from_answers(file, asked := solved(file))
    assert drafts == {"a": ["right", "wrong 1"], "c": ["wrong 0", "wrong 1"]}
    assert drafts_from_answers(file, asked, 3)[1] == {"a": ["right", "wrong 1"], "c": ["wrong 0"]}
    found = refine_given(SmallContextPolicy(never), problems, AnswerSettings(n=5, n_refine=2), drafts)
    assert [(a.problem, a.repeat, a.firsts[0].text) for a in found] == [
        ("a", 0, "right"),
        ("a", 1, "wrong 1"),
        ("c", 0, "wrong 0"),
        ("c", 1, "wrong 1"),
    ]
    numbers = summarize(found)
    assert (numbers.solve.accuracy.value, pair(numbers.fix)[0], pair(numbers.damage)[0]) == (0.25, 1.0, 1.0)


def test_how_a_given_draft_ended_is_unknown() -> None:
    """Guards against given drafts that all count as finished, and an index error for an empty one."""
    found = refine_given(FakePolicy(never), [problem("a")], AnswerSettings(), {"a": ["wrong", ""]})
    (draft,), (empty,) = (a.firsts for a in found)
    assert (draft.stop, draft.seed, draft.verdict, empty.text) == (None, "", "wrong", "")
    numbers = summarize(found)
    assert numbers.refined is not None
    assert (numbers.solve.truncated.n, numbers.refined.truncated.n) == (0, 2)


def test_drafts_to_other_problems_are_refused(tmp_path: Path) -> None:
    """Another question under the same id once got the drafts of the first."""
    file = tmp_path / "answers.jsonl"
    asked = solved(file)
    with pytest.raises(UserError, match="drafts for problems other than the given ones: c is missing"):
        drafts_from_answers(file, asked[:2])
    with pytest.raises(UserError, match="drafts for problems other than the given ones: the question of c differs"):
        drafts_from_answers(file, [*asked[:2], Problem("c", "?", "gold c", mathematics.verify)])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="has no drafts"):
        drafts_from_answers(tmp_path / "empty.jsonl", asked)


def test_strategies_share_given_drafts() -> None:
    """Guards against sampled drafts next to given ones. Of five, repeat r uses r and r + 2, as if they had been sampled."""
    given = {"a": [f"wrong {n}" for n in range(5)]}
    policy = FakePolicy(lambda p, n, v: "right" if p.draft or p.phase == "merge" else "drawn")
    found = refine_given(policy, [problem("a")], AnswerSettings("solve,refine,merge:2"), given)
    texts = [(a.strategy, a.repeat, [s.text for s in a.steps]) for a in found]
    assert texts == [
        ("solve", 0, ["wrong 0"]),
        ("refine", 0, ["wrong 0", "right"]),
        ("merge:2", 0, ["wrong 0", "wrong 2", "right"]),
        ("solve", 1, ["wrong 1"]),
        ("refine", 1, ["wrong 1", "right"]),
        ("merge:2", 1, ["wrong 1", "wrong 3", "right"]),
    ]
    assert {p.phase for p in policy.shown} == {"refine", "merge"}


@pytest.mark.parametrize(
    ("strategy", "complaint"),
    [
        ("merge:3", "these strategies need 3 drafts per problem, but a has 2"),
        ("socratic:2", "socratic:2 starts without drafts"),
    ],
)
def test_too_few_drafts_are_refused(strategy: str, complaint: str) -> None:
    """Guards against a merge of fewer candidates than its name says, and drafts that are ignored."""
    with pytest.raises(UserError, match=complaint):
        refine_given(FakePolicy(never), [problem("a")], AnswerSettings(strategy), {"a": ["x", "y"]})


def test_real_answers_find_their_problems(real_data: Path) -> None:
    """1,526 answers of a Qwen3-4B, their questions with an instruction after them: one to each problem of math5."""
    file = real_data / "traces" / "qwen3-4b.parquet"
    suites = load_problems(ProblemSource("math5", data=str(real_data)), 0, "test")
    problems, drafts = read_drafts(file, BOXED, DraftColumns(question="raw_question"), suites)
    assert len(problems) == len(suites) == 1526
    assert {len(texts) for texts in drafts.values()} == {1}
    rows = [row.values for row in read_rows(file)]
    assert [drafts[p.id] for p in problems] == [[row["response"]] for row in rows]
    pairs = list(zip(rows, problems, strict=True))
    assert sum(p.gold == mathematics.parse_gold(str(row["ground_truth"])) for row, p in pairs) > 1500


def test_drafts_name_the_letters_of_their_file(tmp_path: Path) -> None:
    """Guards against right letters that were graded wrong, because the options had got another order."""
    rows = [
        {"question": f"{n}?", "answer": "B", "options": ["milk", "tea"], "response": "\\boxed{B}"} for n in range(8)
    ]
    problems, drafts = read_drafts(jsonl(tmp_path, *rows), ProblemSource("d", verifier="choice"), COLUMNS, None, 3)
    assert [p.grade(*drafts[p.id]).right for p in problems] == [True] * 8


def test_replies_that_are_damaged_or_not_there(tmp_path: Path) -> None:
    """Guards against an empty list that became the reply "[]", and a lost backslash that became a wrong draft."""
    row = {"question": "1+1?", "answer": "2", "response": "\boxed{2}"}
    assert "line 1: the column 'response': the reply lost the backslash of \\boxed" in refused(jsonl(tmp_path, row))
    assert replies_in([]) == [None]


def test_options_that_no_prompt_would_show(tmp_path: Path) -> None:
    """Guards against multiple choice without its options, because the verifier was not named."""
    file = jsonl(tmp_path, {"question": "?", "answer": "B", "choices": ["a", "b"], "response": "x"})
    with pytest.raises(UserError, match=r"options=choices has no effect .* set verifier=choice"):
        read_drafts(file, ProblemSource("d", options="choices"), COLUMNS, None)
    with pytest.raises(UserError, match="options=choices has no effect"):
        load_problems(ProblemSource(str(file), options="choices"))


def test_drafts_of_a_file_are_refined_from_python(tmp_path: Path) -> None:
    """Guards against drafts that are sampled again, or graded in another way than was asked for."""
    rows = [{"q": "2 + 2?", "gold": "4", "said": "It is 4."}, {"q": "3 + 3?", "gold": "6", "said": "It is 7."}]
    file = jsonl(tmp_path, *rows)
    for lenient, right in ((False, [False, False]), (True, [True, False])):
        problems, drafts = load_drafts(file, question="q", answer="gold", response="said", lenient=lenient)
        policy = FakePolicy(lambda prompt, index, version: "The answer is \\boxed{6}.")
        found = evaluate(policy, problems, drafts=drafts, file=tmp_path / "answers.jsonl")
        assert [answer.steps[0].text for answer in found] == ["It is 4.", "It is 7."]
        assert [answer.steps[0].right for answer in found] == right
        assert [answer.steps[1].right for answer in found] == [False, True]
        assert {prompt.phase for prompt in policy.shown} == {"refine"}
    _, again = load_drafts(tmp_path / "answers.jsonl", problems)
    assert again == drafts


def test_drafts_from_python_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Guards against settings without effect, problems without drafts, and a file of answers that is emptied in vain."""
    file = jsonl(tmp_path, {"question": "2 + 2?", "answer": "4", "response": "4"})
    problems, drafts = load_drafts(file)
    with pytest.raises(UserError, match="verifier and lenient have no effect with problems"):
        load_drafts(file, problems, lenient=True)
    kept = tmp_path / "answers.jsonl"
    evaluate(FakePolicy(lambda *_: "4"), problems, drafts=drafts, file=kept)
    before = kept.read_text()
    with pytest.raises(UserError, match="p has no drafts; evaluate the problems that load_drafts returns"):
        evaluate(FakePolicy(lambda *_: "4"), [*problems, problem("p")], drafts=drafts, file=kept)
    with pytest.raises(UserError, match=r"settings\.n = 2 has no effect with drafts"):
        evaluate(FakePolicy(lambda *_: "4"), problems, AnswerSettings(n=2), drafts=drafts, file=kept)
    assert kept.read_text() == before
    with pytest.raises(UserError, match="is an evaluation of ours: give its problems"):
        load_drafts(kept)
