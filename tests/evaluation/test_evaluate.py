"""What an evaluation asks, grades and keeps, in which order, and how it goes on after a kill; no model needed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink import jsonl
from rethink.errors import UserError
from rethink.evaluation.answers import (
    Answer,
    AnswerStep,
    answer_from_record,
    graded_outcomes,
    is_answers_file,
    read_answers,
)
from rethink.evaluation.evaluate import EvaluationSpec, evaluate, resumable_answers, run_evaluation
from rethink.jsonl import RecordMismatchError, append, read_lines, to_json, write_lines
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy, seeded_script
from rethink.prompts import Prompts
from rethink.seeds import rng, stable_hash
from rethink.settings import AnswerSettings
from rethink.strategies import Setup, parse_all
from rethink.types import Group, Problem, Prompt, Sampling, Verdict
from support.evaluations import Narrow, grade_marks, made, problem, step
from support.processes import exit_code, start

ALL = "solve,refine:2,merge:2,vote:3,best:2,reflect,reflexion:2,self-refine,socratic:2,solve:2+refine+vote"
COLD, WARM = Sampling(temperature=0.0, max_tokens=5), Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=7)
PROMPTS = Prompts(refine="again", seed=13)


def votable(name: str) -> Problem:
    """Answers are first words."""
    return replace(problem(name), extract_answer=lambda text: text.split()[0], equal_answers=str.__eq__)


PROBLEMS = [votable(f"p{n}") for n in range(7)]


def script(prompt: Prompt, index: int, version: int) -> str:
    """Right half of the time, by seed, with a letter of two bytes; a judge gives 0 to 10."""
    if prompt.phase == "rate":
        return f"\\boxed{{{rng(prompt.seed).randrange(11)}}}"
    return seeded_script(0.5, lambda p: "right ä", "wrong ä\u2028 b")(prompt, index, version)


def overlong(prompt: Prompt) -> bool:
    """p4 cannot be asked, p2 cannot be merged, and one draft in three cannot be refined."""
    if prompt.problem.id in ("p2", "p4"):
        return prompt.phase == {"p2": "merge", "p4": "solve"}[prompt.problem.id]
    return prompt.draft is not None and prompt.draft.index == 1 and prompt.phase == "refine"


def setup(policy: Policy) -> Setup:
    return Setup(policy, PROMPTS, WARM, judge=FakePolicy(script))


def trial(names: str = "solve,refine,vote:3,merge:2", n: int = 2, batch: int = 12) -> EvaluationSpec:
    return EvaluationSpec(PROBLEMS, parse_all(names), n, batch)


def run(
    file: Path,
    asked: EvaluationSpec | None = None,
    policy: Policy | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Begin or resume an evaluation."""
    kept = resumable_answers(file)
    found = run_evaluation(setup(policy or Narrow(script, overlong)), asked or trial(), kept, progress)
    kept.close()
    return found


# ------------------------------------------------------------------------------------------------------------ records


def test_a_record_tells_everything(tmp_path: Path) -> None:
    """Guards against records from which a number or a doubt cannot be traced back to the text."""
    policy = FakePolicy(lambda p, i, _: "lucky one" if p.phase == "solve" else "right merged")
    run(tmp_path / "f", EvaluationSpec([replace(PROBLEMS[0], suite="suite")], parse_all("merge:2")), policy)
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
        "seed": f"{stable_hash(13, 'p0', 'solve'):016x}",
        "draft": None,
    }
    asked_last = policy.shown[-1].messages
    assert record["steps"][2]["prompt"] == [[m.role, m.content] for m in asked_last]
    shown = [sum(len(m.content.split()) for m in p.messages) for p in policy.shown]  # each prompt once
    assert (record["n_tokens"], record["n_prompt_tokens"], len(shown)) == (9, sum(shown), 2)


def test_steps_on_the_way_are_not_graded_and_know_their_draft(tmp_path: Path) -> None:
    """Guards against verdicts on feedback, and refinements that cannot be traced to the answer they began with."""
    (found,) = run(tmp_path / "f", EvaluationSpec(PROBLEMS[:1], parse_all("self-refine+refine:2")), FakePolicy(script))
    shown = [(s.phase, s.verdict != "", s.prompt != (), s.draft) for s in found.steps]
    assert shown == [
        ("solve", True, True, None),
        ("critique", False, False, 0),
        ("improve", False, False, 0),
        ("refine", False, False, 0),
        ("refine", True, True, 0),
    ]
    assert found.finals == (4,)


def test_what_is_right_of_an_answer() -> None:
    """Ties count in expectation; what was not graded is in no mean, and nothing at all is not wrong."""
    table: list[tuple[list[bool | None], float | None]] = [
        ([True], 1.0),
        ([False, True, False], 1 / 3),
        ([None, True, False], 1 / 2),
        ([None], None),
        ([], None),
    ]
    some = [made(f"p{n}", "vote:3", finals) for n, (finals, _) in enumerate(table)]
    assert [a.right for a in some] == [right for _, right in table]
    assert graded_outcomes(some) == [("p0", 1.0), ("p1", 1 / 3), ("p2", 1 / 2)]


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


@settings(deadline=None, max_examples=50)
@given(st.lists(ANSWERS, max_size=3))
def test_answers_are_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, some: list[Answer]) -> None:
    """Guards against texts, line breaks and missing values that the file changes."""
    file = tmp_path_factory.mktemp("f") / "answers.jsonl"
    append(file, [asdict(one) for one in some])
    assert read_answers(file) == some
    assert [answer_from_record(json.loads(to_json(asdict(one)))) for one in some] == some
    assert is_answers_file(file) == bool(some)


SPOILT: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record.pop("finals"),
    lambda record: record.pop("notes"),
    lambda record: record.update(more=1),
    lambda record: record["steps"][0].update(verdict="true"),
    lambda record: record["steps"][0].update(prompt=["user"]),
    lambda record: record["steps"][0].pop("seed"),
    lambda record: record.update(steps=[7]),
    lambda record: record.update(finals=[1]),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Guards against tracebacks, and against verdicts that nobody knows."""
    record = json.loads(to_json(asdict(made("p0", "solve", [True], [step("solve", True)]))))
    spoil(record)
    append(tmp_path / "f", [record])
    with pytest.raises(UserError, match="has no answers of an evaluation"):
        read_answers(tmp_path / "f")


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    """Guards against any JSONL with replies that is taken for an evaluation's, and the other way round."""
    (tmp_path / "other.jsonl").write_text('{"problem": 1, "draft": "x"}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "no.jsonl").write_bytes(b"\xff\n")
    run(tmp_path / "own.jsonl")
    names = ["other.jsonl", "list.jsonl", "no.jsonl", "own.jsonl", "missing.jsonl"]
    assert [is_answers_file(tmp_path / name) for name in names] == [False, False, False, True, False]


# ------------------------------------------------------------------------------------------------- asked and graded


def test_first_and_later_answers_have_their_own_sampling(tmp_path: Path) -> None:
    """Guards against refinements at the temperature or the cap of drafts. By default both are the same."""
    policy = FakePolicy(lambda *_: "right 2 3 4 5 6 7 8 9")
    (found,) = evaluate(
        policy,
        PROBLEMS[:1],
        AnswerSettings(sampling=WARM, refine_sampling=COLD),
        prompts=PROMPTS,
        file=tmp_path / "f",
    )
    assert [(s.n_tokens, s.stop) for s in found.steps] == [(7, "length"), (5, "length")]
    (found,) = evaluate(policy, PROBLEMS[:1], AnswerSettings(sampling=COLD), prompts=PROMPTS, file=tmp_path / "f")
    assert found.final_steps[0].n_tokens == 5


def test_several_drafts_with_several_refinements(tmp_path: Path) -> None:
    """Guards against drafts that are drawn one by one, and refinements that are those of another: three drafts are samples
    of one prompt, and each has two samples of its own prompt."""
    policy = FakePolicy(lambda p, i, _: f"right {p.phase} {i} {p.draft.index if p.draft else ''}")
    found = evaluate(policy, PROBLEMS[:1], AnswerSettings(n=3, n_refine=2), prompts=PROMPTS)
    assert [p.phase for p in policy.shown] == ["solve", "refine", "refine", "refine"]
    assert [p.seed for p in policy.shown[1:]] == [stable_hash(13, "p0", "refine", n) for n in range(3)]
    assert [[s.text for s in a.steps] for a in found] == [
        [f"right solve {n} ", f"right refine 0 {n}", f"right refine 1 {n}"] for n in range(3)
    ]
    assert [(a.repeat, a.finals, a.tied) for a in found] == [(n, (1, 2), False) for n in range(3)]


def test_solving_alone_asks_for_no_refinement(tmp_path: Path) -> None:
    """Guards against a second pass that is paid for and thrown away."""
    policy = Narrow(script)
    found = evaluate(policy, PROBLEMS, AnswerSettings("solve", n=2), prompts=PROMPTS, file=tmp_path / "f")
    assert [(a.problem, a.repeat, a.finals) for a in found] == [(p.id, n, (0,)) for p in PROBLEMS for n in range(2)]
    assert {phase for call in policy.asked for phase, _ in call} == {"solve"}


def test_batches_and_the_order_of_answers(tmp_path: Path) -> None:
    """Three first answers, twice: batches of 12 have two problems, of 6 one, of 5 none, hence one too."""
    for batch, sizes in ((12, [2, 2, 2, 1]), (6, [1] * 7), (5, [1] * 7), (42, [7])):
        assert [len(some) for some in trial(batch=batch).batches()] == sizes
    done: list[int] = []
    found = run(tmp_path / "f", progress=done.append)
    order = [(a.problem, a.repeat, a.strategy) for a in found[:8]]
    names = ["solve", "refine", "vote:3", "merge:2"]
    assert order == [("p0", r, s) for r in range(2) for s in names]
    assert (len(found), done) == (7 * 4 * 2, [2, 4, 6, 7])
    assert found == read_answers(tmp_path / "f")


def test_strategies_share_first_answers_and_repeats_do_not(tmp_path: Path) -> None:
    """Guards against a comparison on other luck, and against repeats that are copies."""
    found = run(tmp_path / "f", policy=FakePolicy(lambda p, i, _: f"right {p.seed} {i}"))
    firsts = {(a.problem, a.repeat, a.strategy): [s.text for s in a.firsts] for a in found}
    for p in PROBLEMS:
        for r in range(2):
            three = firsts[p.id, r, "vote:3"]
            assert len(set(three)) == 3
            assert firsts[p.id, r, "solve"] == firsts[p.id, r, "refine"] == three[:1]
            assert firsts[p.id, r, "merge:2"] == three[:2]
        assert not {*firsts[p.id, 0, "vote:3"]} & {*firsts[p.id, 1, "vote:3"]}


@pytest.mark.parametrize("name", [*ALL.split(","), "merge:2+refine", "socratic:1+refine", "vote:2+self-refine"])
def test_repeats_draw_other_samples(tmp_path: Path, name: str) -> None:
    """Guards against repeats that draw with the same seeds, which would count one answer several times: no two samples
    have both prompt and index in common."""
    found = run(tmp_path / "f", trial(name, n=3), FakePolicy(script))
    drawn = Counter((a.problem, s.phase, s.seed, s.index) for a in found for s in a.steps)
    assert set(drawn.values()) == {1}


@pytest.mark.parametrize("batch", [1, 6, 18, 100])
def test_answers_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    """Guards against seeds, or an order, that derive from places in a batch."""
    names = ALL.replace("best:2,", "")
    for size in (12, batch):
        run(tmp_path / str(size), trial(names, batch=size))
    assert (tmp_path / "12").read_bytes() == (tmp_path / str(batch)).read_bytes()


def test_more_first_answers_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    """Guards against votes of equal cost on other candidates than those of the strategies they are compared with."""
    few, many = (run(tmp_path / name, trial(name)) for name in ("refine", "vote:5"))
    for one, other in zip(few, many, strict=True):
        assert [s.text for s in one.firsts] == [s.text for s in other.firsts[:1]]
        assert [s.index for s in one.firsts] == [s.index for s in other.firsts[:1]]


def test_each_sample_is_graded_once(tmp_path: Path) -> None:
    """Guards against first answers that are graded once per strategy, or candidates and their reflections at all."""
    graded: Counter[str] = Counter()

    def verify(reply: str, gold: str) -> Verdict:
        graded[reply] += 1
        return grade_marks(reply, gold)

    problems = [replace(p, verify=verify) for p in PROBLEMS]
    policy = FakePolicy(lambda p, i, _: f"{'right' if i % 2 else 'wrong'} {p.problem.id} {p.phase} {p.seed} {i}")
    asked = EvaluationSpec(problems, parse_all("solve,vote:2,vote:3,merge:2,refine,best:3,self-refine"))
    run(tmp_path / "f", asked, policy)
    assert set(graded.values()) == {1}
    # Per problem three first answers, one merged, one refined, one improved.
    assert Counter(text.split()[2] for text in graded) == {"solve": 21, "merge": 7, "refine": 7, "improve": 7}


def test_gold_never_reaches_a_policy(tmp_path: Path) -> None:
    """Guards against gold answers in any prompt of any strategy; the grade's are looked at too."""
    policy, judge = FakePolicy(script), FakePolicy(script)
    run_evaluation(replace(setup(policy), judge=judge), trial(ALL, n=1), resumable_answers(tmp_path / "f"))
    shown = [*policy.shown, *judge.shown]
    assert {p.phase for p in shown} >= {"solve", "refine", "merge", "reflect", "retry", "critique", "socratic", "rate"}
    assert [m.content for p in shown for m in p.messages if "gold" in m.content] == []


def test_what_was_skipped_is_noted(tmp_path: Path) -> None:
    """p4 could not be asked, and has no answer; p2 could not be merged, and keeps both candidates."""
    found = {(a.strategy, a.problem): a for a in run(tmp_path / "f", trial(n=1))}
    for name in ("solve", "refine", "vote:3", "merge:2"):
        a = found[name, "p4"]
        assert (a.finals, a.steps, a.right, a.notes) == ((), (), None, {"over-long prompts": 1})
    unmerged = found["merge:2", "p2"]
    assert (len(unmerged.finals), unmerged.notes) == (2, {"over-long prompts": 1})
    assert found["merge:2", "p1"].notes == {}


@dataclass
class Keeping(Narrow):
    """A policy that can keep prefixes, and notes when it was told to, in between its calls."""

    log: list[str] = field(default_factory=list)

    @contextmanager
    def reuse_prefixes(self) -> Iterator[None]:
        self.log.append("in")
        try:
            yield
        finally:
            self.log.append("out")

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.log.append("asked")
        yield from super().groups(prompts, n, sampling)


def test_prefixes_are_kept_for_a_batch(tmp_path: Path) -> None:
    """Prefixes are kept throughout each of four batches, not from one to the next, and let go after a failure."""
    policy = Keeping(script)
    run(tmp_path / "f", policy=policy)
    assert [word for word in policy.log if word != "asked"] == ["in", "out"] * 4
    batches = " ".join(policy.log).split("in ")[1:]
    assert all(set(batch.split()[:-1]) == {"asked"} and batch.split()[-1] == "out" for batch in batches)
    failing = Keeping(fail_at(9))
    with pytest.raises(Failure):
        run(tmp_path / "g", policy=failing)
    assert failing.log[-1] == "out"


# ------------------------------------------------------------------------------------------------------------ resumed


class Failure(Exception):
    """Stands for a kill in the middle of a batch."""


def fail_at(n: int) -> Callable[[Prompt, int, int], str]:
    """The script, up to its n-th reply."""
    calls = iter(range(10_000))

    def script_(prompt: Prompt, index: int, version: int) -> str:
        if next(calls) == n:
            raise Failure
        return script(prompt, index, version)

    return script_


@pytest.mark.parametrize("n", [0, 3, 19, 20, 37, 43])
def test_a_stopped_evaluation_resumes_to_the_same_file(tmp_path: Path, n: int) -> None:
    """Guards against answers that are lost, repeated or drawn anew; it may be stopped more than once."""
    whole = run(tmp_path / "whole")
    for at in (n, 2):
        with pytest.raises(Failure):
            run(tmp_path / "torn", policy=Narrow(fail_at(at), overlong))
    done: list[int] = []
    assert run(tmp_path / "torn", progress=done.append) == whole
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()
    assert done == [2, 4, 6, 7]


def die_in_batch(file: Path, n: int, n_bytes: int | None) -> None:
    """SIGKILL in batch n: before anything of it is written, or after so many of its bytes."""
    calls = iter(range(100))

    def torn(file: Path, records: list[Any]) -> None:
        if next(calls) == n:
            with file.open("ab") as out:
                out.write("".join(to_json(r) + "\n" for r in records).encode()[:n_bytes])
            os.kill(os.getpid(), signal.SIGKILL)
        append(file, records)

    setattr(jsonl, "append", torn)  # noqa: B010
    run(file)


@pytest.mark.parametrize("n_bytes", [0, 1, 500, -1, None])
def test_a_killed_evaluation_resumes_to_the_same_file(tmp_path: Path, n_bytes: int | None) -> None:
    """Guards against answers that a kill loses or tears: before a batch is written, in its first line, in a later one,
    before its last line break, and behind it; and it may be killed twice."""
    run(tmp_path / "whole")
    assert exit_code(start(die_in_batch, tmp_path / "torn", 2, n_bytes)) == -signal.SIGKILL
    assert exit_code(start(die_in_batch, tmp_path / "torn", 0, 300)) == -signal.SIGKILL
    assert run(tmp_path / "torn") == read_answers(tmp_path / "whole")
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_cut_anywhere_resumes_to_the_same_file(tmp_path: Path) -> None:
    """Guards against a torn line, or a torn batch, that is taken for whole: of 56 lines, 16 make a batch. Cut between any
    two lines, and within the first of a batch, within a letter and before a line's end."""
    whole = run(tmp_path / "f")
    text = (tmp_path / "f").read_bytes()
    ends = [n + 1 for n, byte in enumerate(text) if byte == 10]
    assert len(ends) == 56
    letter = text.index("ä".encode()) + 1
    cuts = {n: i // 16 for i, n in enumerate([0, *ends])}
    cuts |= {1: 0, letter: 0, ends[15] - 1: 1, ends[15] - 2: 0, ends[15] + 30: 1, ends[40] - 1: 2}
    for cut, n_batches in cuts.items():
        (tmp_path / "f").write_bytes(text[:cut])
        policy = Narrow(script, overlong)
        assert run(tmp_path / "f", policy=policy) == whole
        assert (tmp_path / "f").read_bytes() == text
        asked = {name for call in policy.asked for _, name in call}
        assert asked == ({p.id for p in PROBLEMS[2 * n_batches :]} if cut < ends[-1] else set())


def test_a_training_run_evaluates_anew(tmp_path: Path) -> None:
    """Guards against records of two evaluations in one file: a resumed training run evaluates again."""
    plan = AnswerSettings(n=3, sampling=WARM)
    first = evaluate(Narrow(script, overlong), PROBLEMS, plan, prompts=PROMPTS, file=tmp_path / "f")
    assert evaluate(Narrow(script, overlong), PROBLEMS, plan, prompts=PROMPTS, file=tmp_path / "f") == first
    assert len(read_answers(tmp_path / "f")) == 21


DRAFTS = {p.id: ["right", "wrong", "wrong"] for p in PROBLEMS}
OTHERS = {
    "another question under the same id": (
        replace(trial(), problems=[replace(PROBLEMS[0], question="?"), *PROBLEMS[1:]]),
        "question was 'question p0', now",
    ),
    "another gold answer": (
        replace(trial(), problems=[*PROBLEMS[:3], replace(PROBLEMS[3], gold="?"), *PROBLEMS[4:]]),
        "gold answer was",
    ),
    "another problem": (replace(trial(), problems=[*PROBLEMS[:6], votable("p11")]), "problem was 'p6', now 'p11'"),
    "another order": (replace(trial(), problems=PROBLEMS[::-1]), "problem was 'p0', now 'p6'"),
    "fewer problems, to the end of a batch": (replace(trial(), problems=PROBLEMS[:4]), "has more records"),
    "fewer problems": (replace(trial(), problems=PROBLEMS[:3]), "has more records"),
    "other strategies": (trial("solve,refine,vote:3,merge:3"), "strategy was 'merge:2', now 'merge:3'"),
    "fewer strategies": (trial("solve,refine,vote:3"), "repeat was 0, now 1"),
    "more strategies": (trial("solve,refine,vote:3,merge:2,merge:3"), "repeat was 1, now 0"),
    "one repeat less": (trial(n=1, batch=6), "problem was"),
    "one repeat more": (trial(n=3, batch=18), "problem was"),
    "given drafts": (replace(trial(n=1), drafts=DRAFTS), "given drafts was"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_answers_to_something_else_are_neither_used_nor_lost(tmp_path: Path, what: str) -> None:
    """A changed file of problems once emptied the answers to what it no longer has; settings alone do not tell."""
    asked, complaint = OTHERS[what]
    run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    policy = Narrow(script)
    with pytest.raises(RecordMismatchError, match=complaint):
        run(tmp_path / "f", asked, policy)
    assert ((tmp_path / "f").read_bytes(), policy.asked) == (before, [])


def test_other_drafts_are_refused_too(tmp_path: Path) -> None:
    """A resume with another file of drafts once mixed refinements of both."""
    given = replace(trial("refine"), drafts=DRAFTS)
    whole = run(tmp_path / "f", given)
    for others in ({**DRAFTS, "p2": ["right", "right", "wrong"]}, {**DRAFTS, "p2": ["right"]}, None):
        with pytest.raises(RecordMismatchError, match=r"(given drafts|problem) was"):
            run(tmp_path / "f", replace(given, drafts=others))
    policy = Narrow(script)
    assert run(tmp_path / "f", given, policy) == whole
    assert policy.asked == []


def test_a_finished_evaluation_asks_nothing_again(tmp_path: Path) -> None:
    """Guards against a resume that pays twice; and more problems may follow those that are done."""
    whole = run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    done: list[int] = []
    policy = Narrow(script)
    assert run(tmp_path / "f", policy=policy, progress=done.append) == whole
    assert (policy.asked, done, (tmp_path / "f").read_bytes()) == ([], [2, 4, 6, 7], before)
    write_lines(tmp_path / "f", [line for line, _ in read_lines(tmp_path / "f")][:48])
    more = replace(trial(), problems=[*PROBLEMS, votable("p7")])
    found = run(tmp_path / "f", more, policy)
    assert {name for call in policy.asked for _, name in call} == {"p6", "p7"}
    assert found[:48] == whole[:48]
