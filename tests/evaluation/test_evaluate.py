"""What an evaluation asks, grades and writes, in which order, and how it resumes after a kill."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.evaluate import EvaluationSpec, evaluate, resumable_answers, run_evaluation
from rethink.evaluation.summary import summarize
from rethink.jsonl import RecordMismatchError
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy, seeded_script
from rethink.prompts import Prompts
from rethink.seeds import rng, stable_hash
from rethink.settings import AnswerSettings
from rethink.strategies import Setup, parse_all
from rethink.types import Problem, Prompt, Sampling, Verdict
from support.evaluations import SmallContextPolicy, grade_marks, pair, problem
from support.processes import exit_code, kill_while_appending, start

ALL = (
    "solve,refine:2,merge:2,vote:3,best:2,reflect,reflexion:2,fresh-retry:2,self-refine,socratic:2,solve:2+refine+vote"
)
WARM = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=7)
PROMPTS = Prompts(refine="again", seed=13)


def votable(name: str) -> Problem:
    """Return a problem whose answers are first words, for votes."""
    return replace(problem(name), extract_answer=lambda text: text.split()[0], equal_answers=str.__eq__)


PROBLEMS = [votable(f"p{n}") for n in range(7)]


def script(prompt: Prompt, index: int, version: int) -> str:
    """Right half of the time, by seed, with a two-byte letter; a judge gives 0 to 10."""
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


def spec(names: str = "solve,refine,vote:3,merge:2", n: int = 2, batch: int = 12) -> EvaluationSpec:
    return EvaluationSpec(PROBLEMS, parse_all(names), n, batch)


def run(
    file: Path,
    asked: EvaluationSpec | None = None,
    policy: Policy | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Begin or resume an evaluation."""
    kept = resumable_answers(file)
    found = run_evaluation(setup(policy or SmallContextPolicy(script, overlong)), asked or spec(), kept, progress)
    kept.close()
    return found


def by_hand(prompt: Prompt, index: int, _version: int) -> str:
    """a has two right drafts, b one. Refinements fix b's wrong draft and spoil a's first."""
    name = prompt.problem.id
    if prompt.draft is None:
        return "right" if name == "a" or index == 0 else "wrong and long"
    return "wrong" if name == "a" and prompt.draft.index == 0 else "right indeed"


def test_an_evaluation_by_hand(tmp_path: Path) -> None:
    """Guards against refinements paired with other drafts, or at the cap of drafts: drafts R R R W become W R R R.

    Lengths count the end token. The solve prompt is "question a"; the refine prompt adds the draft and "again".
    """
    settings = AnswerSettings(n=2, sampling=Sampling(max_tokens=3), refine_sampling=Sampling(max_tokens=11))
    two = [problem("a"), problem("b")]
    evaluated = evaluate(FakePolicy(by_hand), two, settings, prompts=PROMPTS, file=tmp_path / "f")
    assert read_answers(tmp_path / "f") == evaluated
    found = summarize(evaluated)
    assert found.refined is not None
    assert (found.solve.accuracy.value, found.refined.accuracy.value) == (0.75, 0.75)
    assert (pair(found.damage), pair(found.fix)) == ((1 / 3, 3), (1.0, 1))
    assert (found.solve.tokens.value, found.refined.tokens.value) == ((2 + 2 + 2 + 3) / 4, (2 + 3 + 3 + 3) / 4)
    assert (found.solve.prompt_tokens.value, found.refined.prompt_tokens.value) == (2, (4 + 4 + 4 + 6) / 4)
    assert [(a.problem, a.repeat, *(step.verdict for step in a.steps)) for a in evaluated] == [
        ("a", 0, "right", "wrong"),
        ("a", 1, "right", "right"),
        ("b", 0, "right", "right"),
        ("b", 1, "wrong", "right"),
    ]
    assert evaluated[0].final_steps[0].prompt == (("user", "question a"), ("assistant", "right"), ("user", "again"))
    assert evaluated[3].final_steps[0].prompt[1] == ("assistant", "wrong and long")


def test_several_drafts_with_several_refinements(tmp_path: Path) -> None:
    """Guards against drafts that are drawn one by one, and refinements of another draft."""
    policy = FakePolicy(lambda p, i, _: f"right {p.phase} {i} {p.draft.index if p.draft else ''}")
    found = evaluate(policy, PROBLEMS[:1], AnswerSettings(n=3, n_refine=2), prompts=PROMPTS)
    assert [p.phase for p in policy.shown] == ["solve", "refine", "refine", "refine"]
    assert [p.seed for p in policy.shown[1:]] == [stable_hash(13, "p0", "refine", n) for n in range(3)]
    assert [[s.text for s in a.steps] for a in found] == [
        [f"right solve {n} ", f"right refine 0 {n}", f"right refine 1 {n}"] for n in range(3)
    ]
    assert [(a.repeat, a.finals, a.tied) for a in found] == [(n, (1, 2), False) for n in range(3)]


def test_batches_and_the_order_of_answers(tmp_path: Path) -> None:
    """Three first answers, twice: batches of 12 have two problems, of 6 one, of 5 none, hence one too."""
    for batch, sizes in ((12, [2, 2, 2, 1]), (6, [1] * 7), (5, [1] * 7), (42, [7])):
        assert [len(some) for some in spec(batch=batch).batches()] == sizes
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
    """Guards against repeats that draw with the same seeds, which would count one answer several times."""
    found = run(tmp_path / "f", spec(name, n=3), FakePolicy(script))
    drawn = Counter((a.problem, s.phase, s.seed, s.index) for a in found for s in a.steps)
    assert set(drawn.values()) == {1}


@pytest.mark.parametrize("batch", [1, 100])
def test_answers_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    """Guards against seeds or an order that depend on the position in a batch."""
    names = ALL.replace("best:2,", "")
    for size in (12, batch):
        run(tmp_path / str(size), spec(names, batch=size))
    assert (tmp_path / "12").read_bytes() == (tmp_path / str(batch)).read_bytes()


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
    """Guards against gold answers in any prompt of any strategy, or of the judge."""
    policy, judge = FakePolicy(script), FakePolicy(script)
    run_evaluation(replace(setup(policy), judge=judge), spec(ALL, n=1), resumable_answers(tmp_path / "f"))
    shown = [*policy.shown, *judge.shown]
    assert {p.phase for p in shown} >= {"solve", "refine", "merge", "reflect", "retry", "critique", "socratic", "rate"}
    assert [m.content for p in shown for m in p.messages if "gold" in m.content] == []


def test_skipped_prompts_are_noted(tmp_path: Path) -> None:
    """p4 could not be asked, and has no answer; p2 could not be merged, and keeps both candidates."""
    found = {(a.strategy, a.problem): a for a in run(tmp_path / "f", spec(n=1))}
    unasked = found["refine", "p4"]
    assert (unasked.finals, unasked.steps, unasked.notes) == ((), (), {"over-long prompts": 1})
    unmerged = found["merge:2", "p2"]
    assert (len(unmerged.finals), unmerged.notes) == (2, {"over-long prompts": 1})
    assert found["merge:2", "p1"].notes == {}


@dataclass
class PrefixPolicy(SmallContextPolicy):
    """A policy that can reuse prefixes; `log` has the number of calls so far at each start and end."""

    log: list[int] = field(default_factory=list)

    @contextmanager
    def reuse_prefixes(self) -> Iterator[None]:
        self.log.append(len(self.asked))
        try:
            yield
        finally:
            self.log.append(len(self.asked))


def test_prefixes_are_reused_within_a_batch(tmp_path: Path) -> None:
    """Guards against prefixes that outlive a batch or a failure, and calls outside of a batch."""
    policy = PrefixPolicy(script)
    run(tmp_path / "f", policy=policy)
    starts, ends = policy.log[::2], policy.log[1::2]
    assert len(set(starts)) == 4
    assert [*starts, len(policy.asked)] == [0, *ends]
    failing = PrefixPolicy(fail_at(9))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "g", policy=failing)
    assert len(failing.log) % 2 == 0


def fail_at(n: int) -> Callable[[Prompt, int, int], str]:
    """The script, up to its n-th reply."""
    calls = iter(range(10_000))

    def script_(prompt: Prompt, index: int, version: int) -> str:
        if next(calls) == n:
            raise KeyboardInterrupt
        return script(prompt, index, version)

    return script_


def test_a_stopped_evaluation_resumes_to_the_same_file(tmp_path: Path) -> None:
    """Guards against answers that are lost, repeated or sampled again; it may be stopped more than once."""
    whole = run(tmp_path / "whole")
    for n in (43, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "torn", policy=SmallContextPolicy(fail_at(n), overlong))
    done: list[int] = []
    assert run(tmp_path / "torn", progress=done.append) == whole
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()
    assert done == [2, 4, 6, 7]


def die_in_batch(file: Path, n: int, n_bytes: int | None) -> None:
    """SIGKILL in batch n: before anything of it is written, or after so many of its bytes."""
    kill_while_appending(n, n_bytes)
    run(file)


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [0, 500, -1, None])
def test_a_killed_evaluation_resumes_to_the_same_file(tmp_path: Path, n_bytes: int | None) -> None:
    """Guards against answers that a kill loses or tears, at a line break or within a line; it may be killed twice."""
    run(tmp_path / "whole")
    assert exit_code(start(die_in_batch, tmp_path / "torn", 2, n_bytes)) == -signal.SIGKILL
    assert exit_code(start(die_in_batch, tmp_path / "torn", 0, 300)) == -signal.SIGKILL
    assert run(tmp_path / "torn") == read_answers(tmp_path / "whole")
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_cut_anywhere_resumes_to_the_same_file(tmp_path: Path) -> None:
    """Guards against a torn line or batch that counts as whole, and answers that are paid twice. 16 lines make a batch."""
    whole = run(tmp_path / "f")
    text = (tmp_path / "f").read_bytes()
    ends = [n + 1 for n, byte in enumerate(text) if byte == 10]
    assert len(ends) == 56
    letter = text.index("ä".encode()) + 1
    cuts = {n: i // 16 for i, n in enumerate([0, *ends])}
    cuts |= {1: 0, letter: 0, ends[15] - 1: 1, ends[15] - 2: 0, ends[15] + 30: 1, ends[40] - 1: 2}
    for cut, n_batches in cuts.items():
        (tmp_path / "f").write_bytes(text[:cut])
        policy = SmallContextPolicy(script, overlong)
        assert run(tmp_path / "f", policy=policy) == whole
        assert (tmp_path / "f").read_bytes() == text
        asked = {name for call in policy.asked for _, name in call}
        assert asked == ({p.id for p in PROBLEMS[2 * n_batches :]} if cut < ends[-1] else set())
    (tmp_path / "f").write_bytes(text[: ends[47]])
    policy = SmallContextPolicy(script, overlong)
    found = run(tmp_path / "f", replace(spec(), problems=[*PROBLEMS, votable("p7")]), policy)
    assert (found[:48], len(found)) == (whole[:48], 64)  # more problems may follow those that are done
    assert {name for call in policy.asked for _, name in call} == {"p6", "p7"}


def test_evaluate_replaces_an_existing_file(tmp_path: Path) -> None:
    """Guards against records of two evaluations in one file when a resumed training run evaluates again."""
    for n in (3, 2):
        found = evaluate(FakePolicy(script), PROBLEMS, AnswerSettings(n=n), prompts=PROMPTS, file=tmp_path / "f")
        assert read_answers(tmp_path / "f") == found


DRAFTS = {p.id: ["right", "wrong", "wrong"] for p in PROBLEMS}
OTHERS = {
    "another question under the same id": (
        replace(spec(), problems=[replace(PROBLEMS[0], question="?"), *PROBLEMS[1:]]),
        "question was 'question p0', now",
    ),
    "another gold answer": (
        replace(spec(), problems=[*PROBLEMS[:3], replace(PROBLEMS[3], gold="?"), *PROBLEMS[4:]]),
        "gold answer was",
    ),
    "fewer problems, to the end of a batch": (replace(spec(), problems=PROBLEMS[:4]), "has more records"),
    "other strategies": (spec("solve,refine,vote:3,merge:3"), "strategy was 'merge:2', now 'merge:3'"),
    "one repeat more": (spec(n=3, batch=18), "problem was"),
    "given drafts": (replace(spec(n=1), drafts=DRAFTS), "given drafts was"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_answers_to_something_else_are_refused_and_kept(tmp_path: Path, what: str) -> None:
    """A changed file of problems once deleted the answers to problems that it no longer had."""
    asked, complaint = OTHERS[what]
    run(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    policy = SmallContextPolicy(script)
    with pytest.raises(RecordMismatchError, match=complaint):
        run(tmp_path / "f", asked, policy)
    assert ((tmp_path / "f").read_bytes(), policy.asked) == (before, [])


def test_other_drafts_are_refused_too(tmp_path: Path) -> None:
    """A resume with another file of drafts once mixed refinements of both."""
    given = replace(spec("refine"), drafts=DRAFTS)
    whole = run(tmp_path / "f", given)
    for others in ({**DRAFTS, "p2": ["right", "right", "wrong"]}, {**DRAFTS, "p2": ["right"]}, None):
        with pytest.raises(RecordMismatchError, match=r"(given drafts|problem) was"):
            run(tmp_path / "f", replace(given, drafts=others))
    policy = SmallContextPolicy(script)
    assert run(tmp_path / "f", given, policy) == whole
    assert policy.asked == []


@pytest.mark.parametrize("names", ["merge:2,merge:3", "merge:3,merge:2", "reflect,blind-retry", "blind-retry,reflect"])
def test_each_strategy_has_verdicts_on_what_it_wrote(names: str) -> None:
    """Strategies whose last prompts differ only in what they show have equal seeds, but other replies. Guards against the
    verdict of one strategy's reply on another's."""

    def shown_last(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase in ("merge", "retry"):
            text = " ".join(message.content for message in prompt.messages)
            return "right" if text.count("xyz") == 2 or "idea" in text else "wrong"
        return "wrong xyz" if prompt.phase == "solve" else "idea"

    asked = EvaluationSpec([problem("a")], parse_all(names))
    prompts = Prompts(blind="hm")
    found = run_evaluation(Setup(FakePolicy(shown_last), prompts), asked, resumable_answers(None))
    assert {answer.strategy: answer.final_steps[0].text == "right" for answer in found} == {
        answer.strategy: answer.right == 1 for answer in found
    }
    assert sorted(answer.right or 0.0 for answer in found) == [0, 1]
