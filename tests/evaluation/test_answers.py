"""Records of answers: what a line holds, that it survives the file, and which files are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.evaluation.answers import (
    Answer,
    AnswerStep,
    answer_from_attempt,
    answer_from_record,
    first_answers,
    is_answers_file,
    read_answers,
    unmeasured,
)
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.outcomes import final_outcomes
from rethink.jsonl import append, to_json
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.settings import AnswerSettings
from rethink.strategies.attempt import start_attempt
from rethink.types import Prompt, Sampling
from support.evaluations import drafts, made, problem, step


def test_a_record_by_hand(tmp_path: Path) -> None:
    """Guards against records from which a verdict or a number cannot be traced back to prompt and reply."""
    policy = FakePolicy(lambda p, i, _: "lucky one" if p.phase == "solve" else "right merged")
    settings = AnswerSettings("merge:2")
    evaluate(policy, [problem("p0", suite="suite")], settings, prompts=Prompts(seed=13), file=tmp_path / "f")
    (record,) = (json.loads(line) for line in (tmp_path / "f").read_text().splitlines())
    fields = ("suite", "problem", "repeat", "strategy", "question", "gold", "depth", "notes", "finals", "tied")
    assert [record[key] for key in fields] == ["suite", "p0", 0, "merge:2", "question p0", "gold p0", 2, {}, [2], False]
    assert record["steps"][1] == {
        "phase": "solve",
        "index": 1,
        "prompt": [["user", "question p0"]],
        "text": "lucky one",
        "verdict": "right",
        "extracted": "lucky",
        "reason": "by its first word",
        "lenient": True,
        "stop": "stop",
        "n_prompt_tokens": 2,
        "n_tokens": 3,
        "log_prob": None,
        "seed": f"{stable_hash(13, 'p0', 'solve'):016x}",
        "draft": None,
    }
    assert record["steps"][2]["prompt"] == [[m.role, m.content] for m in policy.shown[-1].messages]
    n_shown = [sum(len(m.content.split()) for m in p.messages) for p in policy.shown]  # each prompt once
    assert (record["n_tokens"], record["n_prompt_tokens"], len(n_shown)) == (9, sum(n_shown), 2)


@pytest.mark.parametrize(
    ("sampling", "log_prob"),
    [
        (Sampling(), -3.0),
        (Sampling(temperature=0.7), -3.0),
        (Sampling(max_tokens=2), -2.0),
        (Sampling(temperature=0), None),
        (Sampling(top_p=0.9), None),
        (Sampling(top_k=3), None),
    ],
)
def test_the_log_prob_of_a_reply(sampling: Sampling, log_prob: float | None) -> None:
    """Guards against the log-prob of a restricted distribution, whose mean is no entropy of the policy's. The fake policy
    gives each token, the end token too, -1."""
    policy = FakePolicy(lambda p, i, _: "right one")
    settings = AnswerSettings("refine", sampling=sampling, refine_sampling=Sampling(max_tokens=1))
    (found,) = evaluate(policy, [problem("p0")], settings)
    assert [s.log_prob for s in found.steps] == [log_prob, -1.0]


def test_unknown_log_probs() -> None:
    """Guards against NaN in the file: a server reports none, the tokens of other policies' texts have none, and neither
    has a given draft."""
    prompt = Prompt(problem("p0"), "solve", (), seed=1)
    sample = FakePolicy(lambda p, i, _: "").transcribe(prompt, "right one")
    for log_probs, given_draft in (((), False), ((-1.0, math.nan), False), ((-1.0, -0.5), True)):
        one = replace(sample, log_probs=log_probs)
        attempt = start_attempt(prompt.problem, (one,))
        (found,) = answer_from_attempt("solve", attempt, {}, given=given_draft).steps
        assert found.log_prob is None


def test_steps_in_between_are_not_graded_and_know_their_draft() -> None:
    """Guards against verdicts on feedback, and refinements that cannot be traced to the answer they revise."""
    policy = FakePolicy(lambda p, i, _: "right")
    (found,) = evaluate(policy, [problem("p0")], AnswerSettings("self-refine+refine:2"))
    assert [(s.phase, s.verdict != "", s.prompt != (), s.draft) for s in found.steps] == [
        ("solve", True, True, None),
        ("critique", False, False, 0),
        ("improve", False, False, 0),
        ("refine", False, False, 0),
        ("refine", True, True, 0),
    ]
    assert found.finals == (4,)


def test_share_of_right_final_answers() -> None:
    """Guards against ties that do not count by their mean, and ungraded answers that count as wrong."""
    table: list[tuple[list[bool | None], float | None]] = [
        ([True], 1.0),
        ([False, True, False], 1 / 3),
        ([None, True, False], 1 / 2),
        ([None], None),
        ([], None),
    ]
    some = [made(f"p{n}", "vote:3", finals) for n, (finals, _) in enumerate(table)]
    assert [a.right for a in some] == [right for _, right in table]
    assert final_outcomes(some) == [("p0", 1.0), ("p1", 1 / 3), ("p2", 1 / 2)]


def test_first_answers_that_strategies_share_count_once() -> None:
    """Guards against a draft counted once per strategy, and against equal indices of two runs taken for one draft."""
    first, other_run = step("solve", True), replace(step("solve", False), seed="1" * 16)
    some = [made("p", "solve", [True], [first]), made("p", "refine", [True], [first, step("refine", True)])]
    assert first_answers(some) == [("p", first)]
    assert first_answers([*some, made("p", "solve", [False], [other_run])]) == [("p", first), ("p", other_run)]


STEPS = st.builds(
    AnswerStep,
    phase=st.text(),
    index=st.integers(0, 63),
    text=st.text(),
    prompt=st.lists(st.tuples(st.sampled_from(["system", "user"]), st.text()), max_size=2).map(tuple),
    verdict=st.sampled_from(["right", "wrong", "not graded", ""]),
    extracted=st.none() | st.text(),
    reason=st.text(),
    lenient=st.booleans(),
    stop=st.sampled_from(["stop", "length", None]),
    n_prompt_tokens=st.none() | st.integers(0, 10**6),
    n_tokens=st.none() | st.integers(0, 10**6),
    log_prob=st.none() | st.floats(-1e6, 0),
    seed=st.text("0123456789abcdef", max_size=16),
    draft=st.none() | st.integers(0, 7),
)
ANSWERS = st.builds(
    Answer,
    **dict.fromkeys(("suite", "problem", "strategy", "question", "gold"), st.text()),
    repeat=st.integers(0, 7),
    steps=st.lists(STEPS, min_size=1, max_size=2).map(tuple),
    finals=st.just(()) | st.just((0,)),
    tied=st.booleans(),
    n_prompt_tokens=st.none() | st.integers(0, 10**6),
    n_tokens=st.none() | st.integers(0, 10**6),
    depth=st.integers(0, 7),
    notes=st.dictionaries(st.text(), st.integers(1, 9), max_size=2),
)


@settings(max_examples=25)
@given(st.lists(ANSWERS, max_size=3, unique_by=lambda a: (a.suite, a.problem, a.repeat, a.strategy)))
def test_answers_survive_the_file(tmp_path_factory: pytest.TempPathFactory, some: list[Answer]) -> None:
    """Guards against texts, line breaks and missing values that the file changes."""
    file = tmp_path_factory.mktemp("f") / "answers.jsonl"
    append(file, [asdict(one) for one in some])
    assert read_answers(file) == some
    assert [answer_from_record(json.loads(to_json(asdict(one)))) for one in some] == some
    assert is_answers_file(file) == bool(some)


SPOILT: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record.pop("finals"),
    lambda record: record.update(more=1),
    lambda record: record["steps"][0].update(verdict="true"),
    lambda record: record.update(finals=[1]),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_records_of_another_kind_are_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Guards against tracebacks, and against unknown verdicts."""
    record = json.loads(to_json(asdict(made("p0", "solve", [True], [step("solve", True)]))))
    spoil(record)
    append(tmp_path / "f", [record])
    with pytest.raises(UserError, match="has no answers of an evaluation"):
        read_answers(tmp_path / "f")


def test_files_of_answers_are_recognized(tmp_path: Path) -> None:
    """Guards against any JSONL file with replies that is taken for an evaluation's, and the other way round."""
    (tmp_path / "other.jsonl").write_text('{"problem": 1, "draft": "x"}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "no.jsonl").write_bytes(b"\xff\n")
    append(tmp_path / "own.jsonl", [asdict(made("p0", "solve", [True]))])
    names = ["other.jsonl", "list.jsonl", "no.jsonl", "own.jsonl", "missing.jsonl"]
    assert [is_answers_file(tmp_path / name) for name in names] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("some", "alarms"),
    [
        ([], []),
        ([*drafts("p", None), *drafts("q", True)], []),
        (drafts("p", None), ["nothing was measured: no reply was graded (first reason: "]),
        ([made("p", "solve", ())], ["nothing was measured: every prompt was too long (sampler.max_prompt_tokens)"]),
    ],
)
def test_an_evaluation_that_measured_nothing(some: list[Answer], alarms: list[str]) -> None:
    """Guards against a table of undefined rates and exit code 0."""
    found = unmeasured(some)
    assert [text.startswith(alarm) for text, alarm in zip(found, alarms, strict=True)] == [True] * len(alarms)
