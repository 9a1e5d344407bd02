"""Before and after one refinement, by hand: from a policy's replies to the numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rethink.evaluation.answers import read_answers
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.intervals import wilson_interval
from rethink.evaluation.summary import summarize
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings
from rethink.types import Problem, Prompt, Sampling, Verdict
from support.evaluations import Narrow, answers, problem

SAMPLING = Sampling(max_tokens=11)


def test_transitions_by_hand() -> None:
    """Guards against rates over the wrong drafts. 4 right drafts, 1 damaged; 6 wrong ones, 2 fixed: 4/10 to 5/10."""
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    found = summarize(answers(pairs))
    assert found.refined
    assert found.fix
    assert found.damage
    assert found.gain
    assert (found.solve.accuracy.value, found.solve.accuracy.n) == (0.4, 10)
    assert (found.refined.accuracy.value, found.refined.accuracy.n) == (0.5, 10)
    assert (found.damage.value, found.damage.n) == (0.25, 4)
    assert (found.fix.value, found.fix.n) == (2 / 6, 6)
    assert (found.fix.low, found.fix.high) == pytest.approx(wilson_interval(2 / 6, 6), abs=1e-12)
    assert vars(found.transitions) == {"right_right": 3, "right_wrong": 1, "wrong_right": 2, "wrong_wrong": 4}
    assert (found.gain.value, found.gain.n) == pytest.approx((0.1, 10))
    # Of the 2^3 ways to swap the arms of the 3 problems that changed (+1, +1, -1), all have a gap of at least 1 of 10.
    assert found.gain.p == 1.0
    assert (found.n_problems, found.n_not_graded, found.n_not_refined) == (10, 0, 0)


def test_what_was_not_graded_is_left_out_and_counted() -> None:
    """Guards against "not graded" as 0: 2 right, 1 wrong, 1 not graded draft; of the 2 right, one refinement unknown."""
    found = summarize(answers([(True, True), (True, None), (False, True), (None, True)]))
    assert found.refined
    assert found.fix
    assert found.damage
    assert found.gain
    assert (found.solve.accuracy.value, found.solve.accuracy.n) == (2 / 3, 3)
    assert (found.refined.accuracy.value, found.refined.accuracy.n) == (1.0, 3)
    assert (found.damage.value, found.damage.n) == (0.0, 1)
    assert (found.fix.value, found.fix.n) == (1.0, 1)
    # The same drafts before and after: p0 (1 to 1) and p2 (0 to 1), so that 0.5 became 1.
    assert (found.gain.value, found.gain.n) == (0.5, 2)
    assert found.n_not_graded == 2


def test_rates_without_their_drafts_are_undefined() -> None:
    """Guards against a damage rate of 0 where no draft was right."""
    found = summarize(answers([(False, True), (False, False)]))
    assert found.damage
    assert math.isnan(found.damage.value)
    assert found.damage.n == 0


def test_nothing_at_all_is_nan() -> None:
    """Guards against a division by zero on an empty evaluation."""
    found = summarize([])
    for estimate in (found.solve.accuracy, found.solve.tokens, found.solve.truncated, found.accuracy):
        assert math.isnan(estimate.value)
    assert (found.refined, found.n_problems, found.n_drafts) == (None, 0, 0)


def script(prompt: Prompt, index: int, _version: int) -> str:
    """Drafts: a is right both times, b only the first time. Refinements mend b's second draft and spoil a's first."""
    name = prompt.problem.id
    if prompt.draft is None:
        return "right" if name == "a" or index == 0 else "wrong and long"
    first = prompt.draft.index == 0
    return "wrong" if name == "a" and first else "right indeed"


def test_an_evaluation_by_hand(tmp_path: Path) -> None:
    """Guards against refinements paired with other drafts: 2 problems, 2 drafts each.

    Drafts R R R W (3/4); refinements W R R R (3/4); damage 1 of 3, fix 1 of 1. Lengths count the end token; the solve
    prompt is "question a", the refine prompt has the draft and "again" too.
    """
    file = tmp_path / "answers.jsonl"
    plan = AnswerSettings(n=2, sampling=SAMPLING)
    prompts = Prompts(refine="again")
    evaluated = evaluate(FakePolicy(script), [problem("a"), problem("b")], plan, prompts=prompts, file=file)
    found = summarize(evaluated)
    assert found.refined
    assert found.fix
    assert found.damage
    assert (found.solve.accuracy.value, found.refined.accuracy.value) == (0.75, 0.75)
    assert (found.damage.value, found.damage.n, found.fix.value, found.fix.n) == (1 / 3, 3, 1.0, 1)
    assert (found.solve.tokens.value, found.refined.tokens.value) == ((2 + 2 + 2 + 4) / 4, (2 + 3 + 3 + 3) / 4)
    assert (found.solve.prompt_tokens.value, found.refined.prompt_tokens.value) == (2, (4 + 4 + 4 + 6) / 4)
    # b has one right draft of 2 and both refinements right, a 2 and 1: pass@2 is 1 for all.
    assert {k: e.value for k, e in found.solve.pass_at_k.items()} == {"1": 0.75, "2": 1.0}
    assert {k: e.value for k, e in found.refined.pass_at_k.items()} == {"1": 0.75, "2": 1.0}
    records = read_answers(file)
    assert records == evaluated
    assert [(r.problem, r.repeat, *(step.verdict for step in r.steps)) for r in records] == [
        ("a", 0, "right", "wrong"),
        ("a", 1, "right", "right"),
        ("b", 0, "right", "right"),
        ("b", 1, "wrong", "right"),
    ]
    refinements = [r.final_steps[0] for r in records]
    assert refinements[0].prompt == (("user", "question a"), ("assistant", "right"), ("user", "again"))
    assert refinements[3].prompt[1] == ("assistant", "wrong and long")


def test_a_batch_after_the_other_gives_the_same_numbers(tmp_path: Path) -> None:
    """Guards against problems lost between batches: 300 problems are two batches of at most 256."""
    many = [problem(str(i)) for i in range(300)]
    policy = FakePolicy(lambda p, i, v: "right" if int(p.problem.id) % 3 == 0 else "wrong")
    evaluated = evaluate(policy, many, file=tmp_path / "answers.jsonl")
    found = summarize(evaluated)
    assert (found.solve.accuracy.value, found.n_problems) == (100 / 300, 300)


def test_a_verifier_that_fails_gives_no_verdict(tmp_path: Path) -> None:
    """Guards against a failure that counts as wrong, or that ends the run."""

    def broken(reply: str, gold: str) -> Verdict:
        raise RuntimeError("no such symbol")

    asked = Problem("a", "?", "1", broken)
    file = tmp_path / "answers.jsonl"
    found = summarize(evaluate(FakePolicy(lambda *_: "1"), [asked], AnswerSettings(n=3, sampling=SAMPLING), file=file))
    assert (found.solve.accuracy.n, found.n_not_graded) == (0, 6)
    assert math.isnan(found.solve.no_answer.value)
    assert "RuntimeError: no such symbol" in file.read_text()


def test_overlong_prompts_are_left_out_and_counted(tmp_path: Path) -> None:
    """Guards against over-long prompts that count as wrong answers, or that shift refinements to other drafts.

    Three problems, 2 drafts each: b's solve prompt is too long; so are the refine prompts of c's second draft, which is
    wrong, and of a's first. Refined: a's second and c's first, both right and kept.
    """

    def overlong(prompt: Prompt) -> bool:
        if prompt.draft is None:
            return prompt.problem.id == "b"
        return (prompt.problem.id, prompt.draft.index) in {("c", 1), ("a", 0)}

    def answers_of(prompt: Prompt, index: int, _version: int) -> str:
        kept = prompt.draft.text if prompt.draft else ""
        return kept or ("right" if index == 0 or prompt.problem.id == "a" else "wrong")

    file = tmp_path / "answers.jsonl"
    asked = [problem(name) for name in "abc"]
    evaluated = evaluate(Narrow(answers_of, overlong), asked, AnswerSettings(n=2, sampling=SAMPLING), file=file)
    found = summarize(evaluated)
    assert found.refined is not None
    assert [(a.problem, a.repeat, [step.phase for step in a.steps]) for a in evaluated] == [
        ("a", 0, ["solve"]),
        ("a", 1, ["solve", "refine"]),
        ("b", 0, []),
        ("b", 1, []),
        ("c", 0, ["solve", "refine"]),
        ("c", 1, ["solve"]),
    ]
    assert (found.solve.accuracy.value, found.refined.accuracy.value) == (0.75, 1.0)
    assert (found.n_problems, found.n_drafts, found.n_skipped, found.n_not_refined) == (3, 4, 1, 2)
    assert found.fix is not None
    assert found.damage is not None
    assert found.gain is not None
    assert (found.fix.n, found.damage.n, found.gain.value) == (0, 2, 0.0)


def test_lenient_verdicts_are_counted(tmp_path: Path) -> None:
    """Guards against lenient extraction that raises a score without a word: right by it twice, wrong once."""
    texts = ["lucky", "lucky", "wrong", "right"]
    plan = AnswerSettings("solve", n=4, sampling=SAMPLING)
    policy = FakePolicy(lambda p, index, v: texts[index])
    found = summarize(evaluate(policy, [problem("a")], plan, file=tmp_path / "answers.jsonl"))
    assert (found.solve.accuracy.value, found.n_lenient, found.refined) == (0.75, 2, None)
