"""Fresh answers in place of wrong ones."""

from __future__ import annotations

from itertools import permutations
from math import comb

import pytest

from rethink.evaluation.evaluate import EvaluationSpec, answer_problems
from rethink.evaluation.pass_at_k import pass_at_k
from rethink.evaluation.summary import summarize
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.strategies import Setup, fresh_retry, parse_all, solve
from rethink.types import Problem, Prompt, Sampling, Verdict
from support.evaluations import SmallContextPolicy, pair, problem
from support.strategies import RETRY_PROMPTS, verdicts

WORDS = {True: "right", False: "wrong"}


@pytest.mark.parametrize(("n", "n_right"), [(5, 0), (5, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rounds_are_pass_at_k_that_stops_early(n: int, n_right: int, k: int) -> None:
    """All orders in which n answers can come, each a problem: k - 1 rounds are right as often as one of k answers. Answer
    j + 1 is drawn if the first j are wrong: in C(n - c, j) of C(n, j) orders."""
    orders = list(permutations([True] * n_right + [False] * (n - n_right)))
    drawn = dict.fromkeys(range(len(orders)), 0)

    def script(prompt: Prompt, index: int, version: int) -> str:
        name = int(prompt.problem.id)
        drawn[name] += 1
        return WORDS[orders[name][drawn[name] - 1]]

    setup = Setup(FakePolicy(script), RETRY_PROMPTS)
    found = fresh_retry(setup, solve(setup, [problem(str(name)) for name in drawn]), k - 1)
    n_found = sum(right is True for (right,) in verdicts(found))
    assert n_found / len(orders) == pytest.approx(pass_at_k(n, n_right, k))
    expected = sum(comb(n - n_right, j) / comb(n, j) for j in range(k))
    assert sum(drawn.values()) / len(orders) == pytest.approx(expected)
    assert [len(a.samples) for a in found] == [a.depth for a in found] == list(drawn.values())


def test_a_fresh_answer_is_drawn_as_the_first_one() -> None:
    """Guards against a control that sees the wrong answer, repeats it (the same seed) or is sampled as a refinement."""
    policy = FakePolicy(lambda p, i, v: f"wrong {p.seed} {i}")
    warm, cool = Sampling(temperature=0.9), Sampling(temperature=0.1)
    setup = Setup(policy, Prompts(solve="solve {question}", system="be brief", seed=7), warm, cool)
    first = solve(setup, [problem("p"), problem("q")], 3, repeats=2)
    found = fresh_retry(setup, first, 2)
    asks = policy.shown
    assert {p.messages for p in asks if p.problem.id == "p"} == {asks[0].messages}
    assert len({p.seed for p in asks}) == len(asks) == 2 + 2 * 6 * 2
    assert {s.sampling for a in found for s in a.samples} == {warm}
    assert [s.index for a in found for s in a.answers] == [s.index for a in first for s in a.answers]
    for a, before in zip(found, first, strict=True):
        for new, old in zip(a.answers, before.answers, strict=True):
            assert new.prompt.draft is not None
            assert new.prompt.draft.prompt.draft == old


def test_only_wrong_answers_are_replaced() -> None:
    """Guards against a verifier's failure taken for a wrong answer, and fresh answers that shift to another one."""

    def verify(reply: str, gold: str) -> Verdict:
        return {"right": Verdict(True), "wrong": Verdict(False), "undecided": Verdict(None)}[reply]

    words = ["undecided", "wrong", "crash", "right", "wrong"]

    def script(prompt: Prompt, index: int, version: int) -> str:
        return words[index] if prompt.draft is None else f"{prompt.phase} {prompt.draft.index}"

    policy = SmallContextPolicy(script, lambda p: p.draft is not None and p.draft.index == 4)
    setup = Setup(policy, RETRY_PROMPTS)
    (attempt,) = fresh_retry(setup, solve(setup, [Problem("p", "q", "g", verify)], 5))
    assert [s.text for s in attempt.answers] == ["undecided", "fresh 1", "crash", "right", "wrong"]
    assert [s.index for s in attempt.answers] == [0, 1, 2, 3, 4]
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (6, 2, {"over-long prompts": 1})


def test_fresh_answers_are_no_first_answers_but_fix_them() -> None:
    """First answers to five problems: two right. Of three wrong ones, one is right after a round, another after two. The
    first answers stay 2 of 5, and no right one is damaged."""
    rounds = {"p0": 0, "p1": 0, "p2": 1, "p3": 2, "p4": 3}

    def script(prompt: Prompt, index: int, version: int) -> str:
        n, draft = 0, prompt.draft
        while draft is not None:
            n, draft = n + 1, draft.prompt.draft
        return WORDS[n >= rounds[prompt.problem.id]]

    spec = EvaluationSpec([problem(name) for name in rounds], parse_all("fresh-retry:2"))
    found = summarize(answer_problems(Setup(FakePolicy(script), RETRY_PROMPTS), spec, spec.problems))
    assert (found.solve.accuracy.value, found.n_drafts, found.accuracy.value) == (2 / 5, 5, 4 / 5)
    assert (pair(found.fix), pair(found.damage)) == ((2 / 3, 3), (0, 2))
    assert found.cost.depth.value == pytest.approx((1 + 1 + 2 + 3 + 3) / 5)
