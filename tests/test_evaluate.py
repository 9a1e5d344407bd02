"""Before and after one refinement, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.evaluate.intervals import wilson
from rethink.evaluate.refinement import Look, evaluate_policy, summarise
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.types import Problem, Prompt, Sample, Sampling, Verdict


def judge_marks(reply: str, _gold: str) -> Verdict:
    """right, wrong, or anything else: not judged."""
    return Verdict({"right": True, "wrong": False}.get(reply.split()[0]), "by its first word")


def problem(name: str) -> Problem:
    return Problem(name, f"question {name}", "gold", judge_marks)


def answer(name: str, right: bool | None, n_tokens: int = 3, stop: str = "stop") -> Sample:
    """A judged sample of a problem of this name."""
    reply = {True: "right", False: "wrong", None: "hm"}[right]
    (group,) = FakePolicy(lambda p, i, v: reply).sample(Prompts().ask([problem(name)]), 1)
    sample = replace(group[0], ids=(5,) * n_tokens, stop="length" if stop == "length" else "stop")
    return sample.judged(Verdict(right))


def looks(pairs: Sequence[tuple[bool | None, bool | None]]) -> list[Look]:
    return [Look(answer(f"p{i}", before), answer(f"p{i}", after)) for i, (before, after) in enumerate(pairs)]


def test_transitions_by_hand() -> None:
    """Guards against rates over the wrong drafts. 4 right drafts, 1 damaged; 6 wrong ones, 2 fixed: 4/10 to 5/10."""
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    found = summarise(looks(pairs))
    assert (found.solve.value, found.solve.n) == (0.4, 10)
    assert (found.refined.value, found.refined.n) == (0.5, 10)
    assert (found.damage.value, found.damage.n) == (0.25, 4)
    assert (found.fix.value, found.fix.n) == (2 / 6, 6)
    assert (found.fix.low, found.fix.high) == pytest.approx(wilson(2 / 6, 6), abs=1e-12)
    assert (found.n_problems, found.n_not_judged, found.n_not_refined) == (10, 0, 0)


def test_what_was_not_judged_is_left_out_and_counted() -> None:
    """Guards against "not judged" as 0: 2 right, 1 wrong, 1 not judged draft; of the 2 right, one refinement unknown."""
    found = summarise(looks([(True, True), (True, None), (False, True), (None, True)]))
    assert (found.solve.value, found.solve.n) == (2 / 3, 3)
    assert (found.refined.value, found.refined.n) == (1.0, 3)
    assert (found.damage.value, found.damage.n) == (0.0, 1)
    assert (found.fix.value, found.fix.n) == (1.0, 1)
    assert found.n_not_judged == 2


def test_drafts_that_were_not_refined_are_left_out_and_counted() -> None:
    """Guards against over-long refine prompts that count as wrong refinements."""
    found = summarise([*looks([(True, True), (False, False)]), Look(answer("p9", True), None)])
    assert (found.solve.value, found.solve.n) == (2 / 3, 3)
    assert (found.refined.value, found.refined.n) == (0.5, 2)
    assert (found.damage.n, found.fix.n) == (1, 1)
    assert (found.n_not_refined, found.n_problems) == (1, 3)


def test_rates_without_their_drafts_are_undefined() -> None:
    """Guards against a damage rate of 0 where no draft was right."""
    found = summarise(looks([(False, True), (False, False)]))
    assert math.isnan(found.damage.value)
    assert found.damage.n == 0


def test_lengths_and_cuts_by_hand() -> None:
    """Guards against means over drafts and refinements together: lengths 2 and 5, then 7 and 13; one draft cut."""
    pairs = [
        Look(answer("a", True, 2, "length"), answer("a", True, 7)),
        Look(answer("b", True, 5), answer("b", True, 13)),
    ]
    found = summarise(pairs)
    assert (found.solve_length_tokens, found.refine_length_tokens) == (3.5, 10.0)
    assert (found.solve_truncated_frac, found.refine_truncated_frac) == (0.5, 0.0)


def test_nothing_at_all_is_nan() -> None:
    """Guards against a division by zero on an empty evaluation."""
    found = summarise([])
    assert math.isnan(found.solve.value)
    assert math.isnan(found.solve_length_tokens)
    assert found.n_problems == 0


def script(prompt: Prompt, index: int, _version: int) -> str:
    """Drafts: a is right both times, b only the first time. Refinements mend b's second draft and spoil a's first."""
    name = prompt.problem.id
    if prompt.draft is None:
        return "right" if name == "a" or index == 0 else "wrong and long"
    first = prompt.draft.index == 0
    return "wrong" if name == "a" and first else "right indeed"


def test_evaluate_policy_by_hand(tmp_path: Path) -> None:
    """Guards against refinements paired with other drafts: 2 problems, 2 drafts each.

    Drafts R R R W (3/4); refinements W R R R (3/4); damage 1 of 3, fix 1 of 1. Lengths count the end token.
    """
    seen: list[int] = []
    policy = FakePolicy(script)
    file = tmp_path / "answers.jsonl"
    found = evaluate_policy(policy, Prompts(), [problem("a"), problem("b")], 2, file, seen.append)
    assert (found.solve.value, found.refined.value) == (0.75, 0.75)
    assert (found.damage.value, found.damage.n, found.fix.value, found.fix.n) == (1 / 3, 3, 1.0, 1)
    assert (found.solve_length_tokens, found.refine_length_tokens) == ((2 + 2 + 2 + 4) / 4, (2 + 3 + 3 + 3) / 4)
    assert seen == [2]
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["problem"], r["phase"], r["index"], r["verdict"], r["draft_verdict"]) for r in records] == [
        ("a", "solve", 0, "right", None),
        ("a", "refine", 0, "wrong", "right"),
        ("a", "solve", 1, "right", None),
        ("a", "refine", 1, "right", "right"),
        ("b", "solve", 0, "right", None),
        ("b", "refine", 0, "right", "right"),
        ("b", "solve", 1, "wrong", None),
        ("b", "refine", 1, "right", "wrong"),
    ]
    assert records[1]["prompt"][1] == ["assistant", "right"]
    assert records[7]["prompt"][1] == ["assistant", "wrong and long"]


def test_a_second_evaluation_replaces_the_answers(tmp_path: Path) -> None:
    """Guards against records of two evaluations in one file: a resumed run evaluates again."""
    file = tmp_path / "answers.jsonl"
    for _ in range(2):
        evaluate_policy(FakePolicy(script), Prompts(), [problem("a")], 1, file)
    assert len(file.read_text().splitlines()) == 2


def test_a_batch_after_the_other_gives_the_same_numbers(tmp_path: Path) -> None:
    """Guards against problems lost between batches: 300 problems are two batches of at most 256."""
    seen: list[int] = []
    many = [problem(str(i)) for i in range(300)]
    policy = FakePolicy(lambda p, i, v: "right" if int(p.problem.id) % 3 == 0 else "wrong", Sampling())
    found = evaluate_policy(policy, Prompts(), many, 1, tmp_path / "answers.jsonl", seen.append)
    assert (found.solve.value, found.n_problems, seen) == (100 / 300, 300, [256, 300])


def test_a_verifier_that_fails_gives_no_verdict(tmp_path: Path) -> None:
    """Guards against a failure that counts as wrong, or that ends the run."""

    def broken(reply: str, gold: str) -> Verdict:
        raise RuntimeError("no such symbol")

    asked = Problem("a", "?", "1", broken)
    found = evaluate_policy(FakePolicy(lambda *_: "1"), Prompts(), [asked], 3, tmp_path / "answers.jsonl")
    assert (found.solve.n, found.n_not_judged) == (0, 6)
    assert "RuntimeError: no such symbol" in (tmp_path / "answers.jsonl").read_text()
