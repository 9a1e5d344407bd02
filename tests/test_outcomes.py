"""Strategies run side by side: what is asked, judged and written, and how it goes on after a kill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looks import Narrow, answer, judge_marks, problem
from outcomes import made, step
from rethink.errors import UserError
from rethink.evaluate.answers import to_record as to_answer
from rethink.evaluate.look import OtherAnswersError
from rethink.evaluate.outcomes import Outcome, Step, read_outcomes, rights, to_record
from rethink.evaluate.strategies import Trial, evaluate_strategies
from rethink.jsonl import append, read_lines, replace_lines, to_json
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy, seeded
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.strategies import Setup, parse_all
from rethink.types import Group, Problem, Prompt, Sampling, Verdict
from test_look import REPLIES

ALL = "solve,refine:2,merge:2,vote:3,best:2,reflect,reflexion:2,self-refine,socratic:2,solve:2+refine+vote"


def votable(name: str) -> Problem:
    """Answers are first words."""
    return replace(problem(name), answer=lambda text: text.split()[0], same=str.__eq__)


PROBLEMS = [votable(f"p{n}") for n in range(7)]


def script(prompt: Prompt, index: int, version: int) -> str:
    """Right half of the time, by seed, with a letter of two bytes; a judge gives 0 to 10."""
    if prompt.phase == "rate":
        return f"\\boxed{{{rng(prompt.seed).randrange(11)}}}"
    return seeded(0.5, lambda p: "right ä", "wrong ä\u2028 b")(prompt, index, version)


def overlong(prompt: Prompt) -> bool:
    """p4 cannot be asked, p2 cannot be merged, and one draft in three cannot be refined."""
    if prompt.problem.id in ("p2", "p4"):
        return prompt.phase == {"p2": "merge", "p4": "solve"}[prompt.problem.id]
    return prompt.draft is not None and prompt.draft.index == 1 and prompt.phase == "refine"


def setup(policy: Policy) -> Setup:
    return Setup(policy, Prompts(refine="again", seed=13), Sampling(1.0, 7), rater=FakePolicy(script))


def trial(names: str = "solve,refine,vote:3,merge:2", n: int = 2, batch: int = 12) -> Trial:
    return Trial(PROBLEMS, parse_all(names), n, batch)


def run(file: Path, asked: Trial | None = None, policy: Policy | None = None, **more: Any) -> list[Outcome]:
    return evaluate_strategies(setup(policy or Narrow(script, overlong)), asked or trial(), file, **more)


# ------------------------------------------------------------------------------------------------------------ records


def test_a_record_tells_everything(tmp_path: Path) -> None:
    """Guards against outcomes that cannot be traced back to the texts they come from."""
    policy = FakePolicy(lambda p, index, _: f"{'right' if p.phase == 'merge' or index else 'wrong'} {p.phase} {index}")
    asked = Trial(PROBLEMS[:1], parse_all("merge:2"))
    (found,) = run(tmp_path / "f", asked, policy)
    (record,) = (json.loads(line) for line in (tmp_path / "f").read_text().splitlines())
    assert [
        record[key] for key in ("suite", "problem", "repeat", "strategy", "question", "gold", "depth", "notes")
    ] == [
        *("s", "p0", 0, "merge:2", "question p0", "gold p0"),
        *(2, {}),
    ]
    steps = [(s["phase"], s["index"], s["text"], s["verdict"], s["stop"], s["n_tokens"]) for s in record["steps"]]
    assert steps == [
        ("solve", 0, "wrong solve 0", "wrong", "stop", 4),
        ("solve", 1, "right solve 1", "right", "stop", 4),
        ("merge", 0, "right merge 0", "", "stop", 4),
    ]
    assert [(f["text"], f["verdict"], f["extracted"]) for f in record["finals"]] == [
        ("right merge 0", "right", "right")
    ]
    asked_last = policy.shown[-1].messages
    assert record["finals"][0]["prompt"] == [[m.role, m.content] for m in asked_last]
    shown = [sum(len(m.content.split()) for m in p.messages) for p in policy.shown]  # each prompt once
    assert (record["n_tokens"], record["n_prompt_tokens"], len(shown)) == (12, sum(shown), 2)
    assert (found.right, found.candidates) == (1.0, [False, True])


def test_what_is_right_of_an_outcome() -> None:
    """Ties count in expectation; what was not judged is in no mean, and nothing at all is not wrong."""
    table: list[tuple[list[bool | None], float | None]] = [
        ([True], 1.0),
        ([False, True, False], 1 / 3),
        ([None, True, False], 1 / 2),
        ([None], None),
        ([], None),
    ]
    outcomes = [made(f"p{n}", "vote:3", finals) for n, (finals, _) in enumerate(table)]
    assert [o.right for o in outcomes] == [right for _, right in table]
    assert rights(outcomes) == [("p0", 1.0), ("p1", 1 / 3), ("p2", 1 / 2)]
    steps = [step("solve", True), step("refine"), step("solve", None), step("solve", False), step("merge")]
    assert made("p", "merge:3", [True], steps).candidates == [True, None, False]


STEPS = st.builds(
    Step,
    phase=st.text(),
    index=st.integers(0, 63),
    text=st.text(),
    verdict=st.sampled_from(["right", "wrong", "not judged", ""]),
    stop=st.sampled_from(["stop", "length"]),
    n_prompt_tokens=st.none() | st.integers(0, 10**6),
    n_tokens=st.none() | st.integers(0, 10**6),
    seed=st.text("0123456789abcdef", max_size=16),
)
OUTCOMES = st.builds(
    Outcome,
    **dict.fromkeys(("suite", "problem", "strategy", "question", "gold"), st.text()),
    repeat=st.integers(0, 7),
    finals=st.lists(REPLIES, max_size=2).map(tuple),
    steps=st.lists(STEPS, max_size=2).map(tuple),
    n_prompt_tokens=st.none() | st.integers(0, 10**6),
    n_tokens=st.none() | st.integers(0, 10**6),
    depth=st.integers(0, 7),
    notes=st.dictionaries(st.text(), st.integers(1, 9), max_size=2),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(OUTCOMES, max_size=3))
def test_outcomes_are_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, some: list[Outcome]) -> None:
    """Guards against texts, line breaks and missing values that the file changes."""
    file = tmp_path_factory.mktemp("f") / "outcomes.jsonl"
    append(file, [to_record(one) for one in some])
    assert [found for _, found in read_outcomes(file)] == some


SPOILT: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record.pop("finals"),
    lambda record: record.pop("notes"),
    lambda record: record.update(more=1),
    lambda record: record["finals"][0].update(verdict="true"),
    lambda record: record["steps"][0].pop("seed"),
    lambda record: record.update(steps=[7]),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Guards against tracebacks, and against a file that is emptied because it is not understood."""
    record = json.loads(to_json(to_record(made("p0", "solve", [True], [step("solve", True)]))))
    spoil(record)
    append(tmp_path / "f", [record])
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(UserError, match="is no file of outcomes that an evaluation of strategies wrote"):
        run(tmp_path / "f", resume=True)
    assert (tmp_path / "f").read_bytes() == before


def test_answers_of_the_other_evaluation_are_no_outcomes(tmp_path: Path) -> None:
    """Guards against a file of drafts and refinements that is taken for torn outcomes, and cut off."""
    append(tmp_path / "f", [to_answer(answer("a", True, False))])
    with pytest.raises(UserError, match="is no file of outcomes"):
        read_outcomes(tmp_path / "f")


# ------------------------------------------------------------------------------------------------- asked and judged


def test_batches_repeats_and_their_order(tmp_path: Path) -> None:
    """Three first answers, twice: batches of 12 have two problems, of 6 one, of 5 none, hence one too."""
    for batch, sizes in ((12, [2, 2, 2, 1]), (6, [1] * 7), (5, [1] * 7), (42, [7])):
        assert [len(some) for some in trial(batch=batch).batches] == sizes
    found = run(tmp_path / "f")
    order = [(o.repeat, o.strategy, o.problem) for o in found[:16]]
    names = ["solve", "refine", "vote:3", "merge:2"]
    assert order == [(r, s, p) for r in range(2) for s in names for p in ("p0", "p1")]
    assert len(found) == 7 * 4 * 2
    assert found == [o for _, o in read_outcomes(tmp_path / "f")]


def test_strategies_share_first_answers_and_repeats_do_not(tmp_path: Path) -> None:
    """Guards against a comparison on other luck, and against repeats that are copies."""
    found = run(tmp_path / "f", policy=FakePolicy(lambda p, i, _: f"right {p.seed} {i}"))
    firsts = {(o.problem, o.repeat, o.strategy): [s.text for s in o.steps if s.phase == "solve"] for o in found}
    for p in PROBLEMS:
        for r in range(2):
            three = firsts[p.id, r, "vote:3"]
            assert len(set(three)) == 3
            assert firsts[p.id, r, "solve"] == firsts[p.id, r, "refine"] == three[:1]
            assert firsts[p.id, r, "merge:2"] == three[:2]
        assert not {*firsts[p.id, 0, "vote:3"]} & {*firsts[p.id, 1, "vote:3"]}
    assert {s.seed for o in found if o.repeat for s in o.steps}.isdisjoint(
        s.seed for o in found if not o.repeat for s in o.steps
    )


@pytest.mark.parametrize("batch", [1, 12, 18, 100])
def test_outcomes_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    """Guards against seeds that derive from places in a batch; only the order in the file is the batches'."""
    names = ALL.replace("best:2,", "")
    one, other = (run(tmp_path / str(size), trial(names, batch=size)) for size in (6, batch))

    def key(o: Outcome) -> tuple[str, int, str]:
        return o.problem, o.repeat, o.strategy

    assert sorted(one, key=key) == sorted(other, key=key)


def test_a_repeat_more_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    """Guards against repeats that depend on how many there are."""
    one, two = (run(tmp_path / str(n), trial(n=n)) for n in (1, 2))
    assert {o.problem: o for o in two if not o.repeat and o.strategy == "merge:2"} == {
        o.problem: o for o in one if o.strategy == "merge:2"
    }


def test_each_sample_is_judged_once(tmp_path: Path) -> None:
    """Guards against first answers that are judged once per strategy, or candidates and their reflections at all."""
    judged: Counter[str] = Counter()

    def verify(reply: str, gold: str) -> Verdict:
        judged[reply] += 1
        return judge_marks(reply, gold)

    problems = [replace(p, verify=verify) for p in PROBLEMS]
    policy = FakePolicy(lambda p, i, _: f"{'right' if i % 2 else 'wrong'} {p.problem.id} {p.phase} {p.seed} {i}")
    asked = Trial(problems, parse_all("solve,vote:2,vote:3,merge:2,refine,best:3,self-refine"))
    run(tmp_path / "f", asked, policy)
    assert set(judged.values()) == {1}
    # Per problem three first answers, one merged, one refined, one improved.
    assert Counter(text.split()[2] for text in judged) == {"solve": 21, "merge": 7, "refine": 7, "improve": 7}


def test_gold_never_reaches_a_policy(tmp_path: Path) -> None:
    """Guards against gold answers in any prompt of any strategy; the judge's are looked at too."""
    policy, rater = FakePolicy(script), FakePolicy(script)
    whole = replace(setup(policy), rater=rater)
    evaluate_strategies(whole, trial(ALL, n=1), tmp_path / "f")
    shown = [*policy.shown, *rater.shown]
    assert {p.phase for p in shown} >= {"solve", "refine", "merge", "reflect", "retry", "critique", "socratic", "rate"}
    assert [m.content for p in shown for m in p.messages if "gold" in m.content] == []


def test_what_was_skipped_is_noted(tmp_path: Path) -> None:
    """p4 could not be asked, and has no answer; p2 could not be merged, and keeps both candidates."""
    found = {(o.strategy, o.problem): o for o in run(tmp_path / "f", trial(n=1))}
    for name in ("solve", "refine", "vote:3", "merge:2"):
        o = found[name, "p4"]
        assert (o.finals, o.steps, o.right, o.notes) == ((), (), None, {"over-long prompts": 1})
    unmerged = found["merge:2", "p2"]
    assert (len(unmerged.finals), unmerged.notes) == (2, {"over-long prompts": 1})
    assert found["merge:2", "p1"].notes == {}


@dataclass
class Keeping(Narrow):
    """A policy that can keep prefixes, and notes when it was told to, in between its calls."""

    log: list[str] = field(default_factory=list)

    @contextmanager
    def keep_prefixes(self) -> Iterator[None]:
        self.log.append("in")
        try:
            yield
        finally:
            self.log.append("out")

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        self.log.append("asked")
        return super().sample(prompts, n, sampling)


def test_prefixes_are_kept_for_a_batch(tmp_path: Path) -> None:
    """Four batches of two repeats: prefixes are kept throughout each, and not from one to the next."""
    policy = Keeping(script)
    run(tmp_path / "f", policy=policy)
    assert [word for word in policy.log if word != "asked"] == ["in", "out"] * 4
    batches = " ".join(policy.log).split("in ")[1:]
    assert all(set(batch.split()[:-1]) == {"asked"} and batch.split()[-1] == "out" for batch in batches)
    assert (tmp_path / "f").read_bytes() == _bytes(tmp_path / "plain", Narrow(script))


def test_prefixes_are_let_go_after_a_failure(tmp_path: Path) -> None:
    """Guards against memory that stays taken when a batch is given up."""
    policy = Keeping(fail_at(9))
    with pytest.raises(Failure):
        run(tmp_path / "f", policy=policy)
    assert policy.log[-1] == "out"


def _bytes(file: Path, policy: Policy) -> bytes:
    run(file, policy=policy)
    return file.read_bytes()


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
def test_a_killed_evaluation_resumes_to_the_same_file(tmp_path: Path, n: int) -> None:
    """Guards against outcomes that are lost, repeated or drawn anew; it may be killed more than once."""
    whole = run(tmp_path / "whole")
    for at in (n, 2):
        policy = Narrow(fail_at(at), overlong)
        with pytest.raises(Failure):
            run(tmp_path / "torn", policy=policy, resume=(tmp_path / "torn").exists())
    done: list[int] = []
    assert run(tmp_path / "torn", resume=True, progress=done.append) == whole
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()
    assert done == [*range(done[0], 7, 2), 7]


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
        assert run(tmp_path / "f", policy=policy, resume=True) == whole
        assert (tmp_path / "f").read_bytes() == text
        asked = {name for call in policy.asked for _, name in call}
        assert asked == ({p.id for p in PROBLEMS[2 * n_batches :]} if cut < ends[-1] else set())


def test_without_resume_it_is_begun_anew(tmp_path: Path) -> None:
    """Guards against outcomes of two evaluations in one file."""
    first = run(tmp_path / "f")
    assert run(tmp_path / "f") == first
    assert len(read_outcomes(tmp_path / "f")) == 56


OTHERS = {
    "another question under the same id": replace(
        trial(), problems=[replace(PROBLEMS[0], question="?"), *PROBLEMS[1:]]
    ),
    "another gold answer": replace(trial(), problems=[*PROBLEMS[:3], replace(PROBLEMS[3], gold="?"), *PROBLEMS[4:]]),
    "another problem": replace(trial(), problems=[*PROBLEMS[:6], votable("p11")]),
    "another order": replace(trial(), problems=PROBLEMS[::-1]),
    "fewer problems, to the end of a batch": replace(trial(), problems=PROBLEMS[:4]),
    "fewer problems": replace(trial(), problems=PROBLEMS[:3]),
    "other strategies": trial("solve,refine,vote:3,merge:3"),
    "fewer strategies": trial("solve,refine,vote:3"),
    "more strategies": trial("solve,refine,vote:3,merge:2,merge:3"),
    "one repeat less": trial(n=1, batch=6),
    "one repeat more": trial(n=3, batch=18),
}


@pytest.mark.parametrize("what", OTHERS)
def test_outcomes_of_something_else_are_neither_used_nor_lost(tmp_path: Path, what: str) -> None:
    """A changed file of problems once emptied the outcomes of what it no longer has; settings alone do not tell."""
    run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    policy = Narrow(script)
    with pytest.raises(OtherAnswersError, match=r"has outcomes of (other|more) problems or strategies, p"):
        run(tmp_path / "f", OTHERS[what], policy, resume=True)
    assert ((tmp_path / "f").read_bytes(), policy.asked) == (before, [])


def test_a_finished_evaluation_asks_nothing_again(tmp_path: Path) -> None:
    """Guards against a resume that pays twice; and more problems may follow those that are done."""
    whole = run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    done: list[int] = []
    policy = Narrow(script)
    assert run(tmp_path / "f", policy=policy, resume=True, progress=done.append) == whole
    assert (policy.asked, done, (tmp_path / "f").read_bytes()) == ([], [7], before)
    replace_lines(tmp_path / "f", [line for line, _ in read_lines(tmp_path / "f")][:48])
    more = replace(trial(), problems=[*PROBLEMS, votable("p7")])
    found = run(tmp_path / "f", more, policy, resume=True)
    assert {name for call in policy.asked for _, name in call} == {"p6", "p7"}
    assert found[:48] == whole[:48]
