"""What an evaluation keeps, in which order, and how it goes on after a kill; with policies that are no models."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looks import Narrow, answer, problem
from processes import exit_code, start
from rethink.errors import UserError
from rethink.evaluate import look
from rethink.evaluate.answers import Answer, Reply, from_record, is_answers, read_answers, to_record
from rethink.evaluate.look import OtherAnswersError, evaluate
from rethink.jsonl import append, read_lines, replace_lines, to_json
from rethink.policies.fake import FakePolicy, seeded
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.settings import Plan
from rethink.types import Prompt, Sampling

COLD, WARM = Sampling(temperature=0.0, max_tokens=5), Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=7)
PROBLEMS = [problem(f"p{n}") for n in range(7)]
PLAN = Plan(n=3, n_refine=2, batch=5, sampling=WARM, refine_sampling=COLD)
PROMPTS = Prompts(refine="again", seed=13)


def script(prompt: Prompt, index: int, version: int) -> str:
    """Right half of the time, by seed, with a letter that takes two bytes."""
    return seeded(0.5, lambda p: "right ä", "wrong ä\u2028 b")(prompt, index, version)


def overlong(prompt: Prompt) -> bool:
    """p4 cannot be asked, and one draft in three cannot be refined."""
    return prompt.problem.id == "p4" if prompt.draft is None else prompt.draft.index == 1


def run(file: Path, plan: Plan = PLAN, resume: bool = False, **more: Any) -> list[Answer]:
    return evaluate(Narrow(script, overlong), PROMPTS, PROBLEMS, plan, file, resume=resume, **more)


# ------------------------------------------------------------------------------------------------------- records


def test_a_record_tells_everything(tmp_path: Path) -> None:
    """Guards against records from which a number or a doubt cannot be traced back to the text."""
    evaluate(FakePolicy(lambda *_: "lucky one"), PROMPTS, [problem("a", "suite")], PLAN, tmp_path / "f")
    records = [json.loads(line) for line in (tmp_path / "f").read_text().splitlines()]
    assert [(r["suite"], r["problem"], r["index"], r["question"], r["gold"]) for r in records] == [
        ("suite", "a", n, "question a", "gold a") for n in range(3)
    ]
    assert records[1]["draft"] == {
        "prompt": [["user", "question a"]],
        "text": "lucky one",
        "verdict": "right",
        "extracted": "lucky",
        "reason": "by its first word",
        "lenient": True,
        "stop": "stop",
        "n_prompt_tokens": 2,
        "n_tokens": 3,
        "seed": f"{stable_hash(13, 'a', 'solve'):016x}",
    }
    (first, second) = records[1]["refinements"]
    assert first == second
    assert first["prompt"] == [["user", "question a"], ["assistant", "lucky one"], ["user", "again"]]
    assert (first["n_prompt_tokens"], first["seed"]) == (5, f"{stable_hash(13, 'a', 'refine', 1):016x}")


def test_each_pass_has_its_own_sampling(tmp_path: Path) -> None:
    """Guards against refinements at the temperature or the cap of drafts. By default both are the same."""
    policy = FakePolicy(lambda *_: "right 2 3 4 5 6 7 8 9")
    (found,) = evaluate(policy, PROMPTS, PROBLEMS[:1], replace(PLAN, n=1, n_refine=1), tmp_path / "f")
    assert found.draft is not None
    assert found.refinements is not None
    assert [(r.n_tokens, r.stop) for r in (found.draft, *found.refinements)] == [(7, "length"), (5, "length")]
    plan = Plan(sampling=COLD)
    (found,) = evaluate(policy, PROMPTS, PROBLEMS[:1], plan, tmp_path / "f")
    assert found.refinements is not None
    assert found.refinements[0].n_tokens == 5


def test_solving_alone_asks_for_no_refinement(tmp_path: Path) -> None:
    """Guards against a second pass that is paid for and thrown away."""
    policy = Narrow(script)
    found = evaluate(policy, PROMPTS, PROBLEMS, Plan("solve", n=2), tmp_path / "f")
    assert [(a.problem, a.index, a.refinements) for a in found] == [(p.id, n, None) for p in PROBLEMS for n in range(2)]
    assert {phase for call in policy.asked for phase, _ in call} == {"solve"}


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_answers_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    """Guards against seeds or an order that derive from positions in a batch."""
    run(tmp_path / "one", replace(PLAN, batch=21))
    run(tmp_path / "other", replace(PLAN, batch=batch))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_batch_is_counted_in_drafts(tmp_path: Path) -> None:
    """Guards against 256 problems of 64 drafts in one batch: 5 drafts have room for one problem of 3, 6 for two."""
    for batch, sizes in ((5, [1] * 7), (6, [2, 2, 2, 1]), (2, [1] * 7)):
        policy = Narrow(script)
        evaluate(policy, PROMPTS, PROBLEMS, replace(PLAN, batch=batch, strategy="solve"), tmp_path / "f")
        assert [len(call) for call in policy.asked] == sizes


REPLIES = st.builds(
    Reply,
    prompt=st.lists(st.tuples(st.sampled_from(["system", "user"]), st.text()), max_size=3).map(tuple),
    text=st.text(),
    verdict=st.sampled_from(["right", "wrong", "not judged"]),
    extracted=st.none() | st.text(),
    reason=st.text(),
    lenient=st.booleans(),
    stop=st.sampled_from(["stop", "length", None]),
    n_prompt_tokens=st.none() | st.integers(0, 10**6),
    n_tokens=st.none() | st.integers(0, 10**6),
    seed=st.text("0123456789abcdef", max_size=16),
)
ANSWERS = st.builds(
    Answer,
    suite=st.text(),
    problem=st.text(),
    index=st.integers(0, 63),
    question=st.text(),
    gold=st.text(),
    draft=st.none() | REPLIES,
    refinements=st.none() | st.lists(REPLIES, max_size=2).map(tuple),
)


@settings(deadline=None)
@given(st.lists(ANSWERS, max_size=3))
def test_answers_are_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, some: list[Answer]) -> None:
    """Guards against texts, line breaks and missing values that the file changes."""
    file = tmp_path_factory.mktemp("f") / "answers.jsonl"
    append(file, [to_record(one) for one in some])
    assert read_answers(file) == some
    assert [from_record(json.loads(to_json(to_record(one)))) for one in some] == some
    assert is_answers(file) == bool(some)


SPOILT: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record.pop("draft"),
    lambda record: record.update(more=1),
    lambda record: record["draft"].update(verdict="true"),
    lambda record: record["draft"].update(prompt=["user"]),
    lambda record: record.update(refinements=[7]),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Guards against tracebacks, and against verdicts that nobody knows."""
    record = json.loads(to_json(to_record(answer("a", True, False))))
    spoil(record)
    append(tmp_path / "f", [record])
    with pytest.raises(UserError, match="is no file of answers that an evaluation wrote"):
        read_answers(tmp_path / "f")


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    """Guards against any JSONL with replies that is taken for an evaluation's, and the other way round."""
    (tmp_path / "other.jsonl").write_text('{"problem": 1, "draft": "x"}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "no.jsonl").write_bytes(b"\xff\n")
    run(tmp_path / "own.jsonl")
    names = ["other.jsonl", "list.jsonl", "no.jsonl", "own.jsonl", "missing.jsonl"]
    assert [is_answers(tmp_path / name) for name in names] == [False, False, False, True, False]


# -------------------------------------------------------------------------------------------------------- resumed


def die_in_batch(file: Path, n: int, n_bytes: int | None, resume: bool = False) -> None:
    """SIGKILL in batch n: before anything of it is written, or after so many of its bytes."""
    calls = iter(range(100))

    def torn(file: Path, records: list[Any]) -> None:
        if next(calls) == n:
            with file.open("ab") as out:
                out.write("".join(to_json(r) + "\n" for r in records).encode()[:n_bytes])
            os.kill(os.getpid(), signal.SIGKILL)
        append(file, records)

    setattr(look, "append", torn)  # noqa: B010
    run(file, resume=resume)


@pytest.mark.parametrize("n_bytes", [0, 1, 500, 1400, -1, None])
@pytest.mark.parametrize("n", [0, 3, 6])
def test_a_killed_evaluation_resumes_to_the_same_file(tmp_path: Path, n: int, n_bytes: int | None) -> None:
    """Guards against answers that are lost, repeated, drawn anew or torn. Batch 3 has a whole problem of 3 drafts, p3;
    the cuts fall before it, in its first line, in a later one, before its last line break, and behind it."""
    run(tmp_path / "whole")
    assert exit_code(start(die_in_batch, tmp_path / "torn", n, n_bytes)) == -signal.SIGKILL
    assert (tmp_path / "torn").read_bytes() != (tmp_path / "whole").read_bytes() or (n, n_bytes) == (6, None)
    seen: list[int] = []
    found = run(tmp_path / "torn", resume=True, progress=seen.append)
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()
    assert found == read_answers(tmp_path / "whole")
    kept = n + (n_bytes is None or n_bytes == -1)  # a last line break is no part of what is lost
    assert seen == list(range(kept or 1, 8))


def test_killed_twice(tmp_path: Path) -> None:
    """Guards against a resume that cannot itself be resumed."""
    run(tmp_path / "whole")
    assert exit_code(start(die_in_batch, tmp_path / "torn", 2, 500)) == -signal.SIGKILL
    assert exit_code(start(die_in_batch, tmp_path / "torn", 2, 300, True)) == -signal.SIGKILL
    assert len(read_answers(tmp_path / "torn")) >= 4 * 3
    run(tmp_path / "torn", resume=True)
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("batch", [5, 6, 21])
@pytest.mark.parametrize("n_lines", range(20))
def test_a_file_cut_after_any_line_resumes_to_the_same_file(tmp_path: Path, n_lines: int, batch: int) -> None:
    """Guards against a batch that is taken for whole: 6 problems of 3 drafts and one that was skipped, in all batches."""
    plan = replace(PLAN, batch=batch)
    whole = run(tmp_path / "f", plan)
    lines = [line for line, _ in read_lines(tmp_path / "f")]
    assert len(lines) == 19
    replace_lines(tmp_path / "f", lines[:n_lines])
    policy = Narrow(script, overlong)
    assert evaluate(policy, PROMPTS, PROBLEMS, plan, tmp_path / "f", resume=True) == whole
    assert [line for line, _ in read_lines(tmp_path / "f")] == lines
    asked = {name for call in policy.asked for phase, name in call if phase == "solve"}
    per_batch = {5: 1, 6: 2, 21: 7}[batch]
    done = [3, 6, 9, 12, 13, 16, 19]  # lines after which p0, p1, ... are done
    n_done = sum(n <= n_lines for n in done) // per_batch * per_batch if n_lines < 19 else 7
    assert asked == {p.id for p in PROBLEMS[n_done:]}


def test_a_finished_evaluation_asks_nothing_again(tmp_path: Path) -> None:
    """Guards against a resume that pays twice; the file stays as it is."""
    whole = run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    seen: list[int] = []
    policy = Narrow(script)
    again = evaluate(policy, PROMPTS, PROBLEMS, PLAN, tmp_path / "f", resume=True, progress=seen.append)
    assert (again, policy.asked, seen) == (whole, [], [7])
    assert (tmp_path / "f").read_bytes() == before


def test_without_resume_it_is_begun_anew(tmp_path: Path) -> None:
    """Guards against records of two evaluations in one file: a resumed training run evaluates again."""
    first = run(tmp_path / "f")
    assert run(tmp_path / "f") == first
    assert len(read_answers(tmp_path / "f")) == 19


OTHERS = {
    "another question under the same id": ([replace(PROBLEMS[0], question="?"), *PROBLEMS[1:]], None),
    "another gold answer": ([*PROBLEMS[:3], replace(PROBLEMS[3], gold="?"), *PROBLEMS[4:]], None),
    "other problems": ([problem("x")], None),
    "given drafts": (PROBLEMS, {p.id: ["right"] * 3 for p in PROBLEMS}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_answers_to_something_else_are_neither_used_nor_lost(tmp_path: Path, what: str) -> None:
    """A changed file of problems once emptied the answers, or mixed those of two; settings alone do not tell."""
    run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    asked, drafts = OTHERS[what]
    policy = Narrow(script)
    with pytest.raises(
        OtherAnswersError, match=r"has answers to other problems than are asked now, p|without given drafts"
    ):
        evaluate(policy, PROMPTS, asked, PLAN, tmp_path / "f", given=drafts, resume=True)
    assert ((tmp_path / "f").read_bytes(), policy.asked) == (before, [])


def test_other_drafts_are_refused_too(tmp_path: Path) -> None:
    """A resume with another file of drafts once mixed refinements of both."""
    drafts = {p.id: ["right", "wrong"] for p in PROBLEMS}
    evaluate(Narrow(script), PROMPTS, PROBLEMS, PLAN, tmp_path / "f", given=drafts)
    for others in ({**drafts, "p2": ["right", "right"]}, {**drafts, "p2": ["right"]}):
        with pytest.raises(OtherAnswersError, match=r"begun with other drafts; that to p2 differs"):
            evaluate(Narrow(script), PROMPTS, PROBLEMS, PLAN, tmp_path / "f", given=others, resume=True)
    with pytest.raises(OtherAnswersError, match=r"begun with given drafts"):
        evaluate(Narrow(script), PROMPTS, PROBLEMS, PLAN, tmp_path / "f", resume=True)
    policy = Narrow(script)
    evaluate(policy, PROMPTS, PROBLEMS, PLAN, tmp_path / "f", given=drafts, resume=True)
    assert policy.asked == []
